from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import estimate, job
from jaxrl_prefs.runs.estimate import Estimate
from jaxrl_prefs.types import Spec, Transition
from tests import probes


def test_the_time_left_adds_up(tiny: Transition) -> None:
    config = probes.Config(model_steps=100, train_steps=1000)
    method = probes.make(config, Spec.of(tiny))
    fill = method.phases[1].steps
    left = Estimate(method, 300, {"model": 1.0, "guess": 2.0, "train": 0.5}, 10.0).left
    # One evaluation ends each phase; in the last they stand at 300, 600, 900 and 1000.
    assert left(0) == 100 + 10 + 2 * fill + 10 + 500 + 40
    assert left(60) == left(0) - 60
    assert left(100) == left(0) - 110
    assert left(100 + fill + 299) == 701 / 2 + 40
    assert left(100 + fill + 300) == 700 / 2 + 30
    assert left(100 + fill + 999) == 0.5 + 10
    assert left(100 + fill + 1000) == 0
    costly = Estimate(method, 300, {"model": 1.0, "guess": 2.0, "train": 0.5}, 10.0, 7.0).left
    assert costly(0) == left(0) + 7
    assert costly(100 + fill + 999) == 0.5 + 10 + 7
    assert costly(100 + fill + 1000) == 0


def test_a_measurement_is_corrected(tiny: Transition) -> None:
    method = probes.make(probes.Config(), Spec.of(tiny))
    guess = Estimate(method, 10, {}, 0.0)
    assert guess.rate("model") == 0 and guess.left(0) == 0
    guess.correct("model", 0.25)
    assert guess.rate("model") == 4 and guess.left(0) == 12 * 0.25


@pytest.mark.parametrize("shared", [False, True])
def test_every_phase_is_measured_columns_and_all(tiny: Transition, shared: bool) -> None:
    method = probes.make(probes.Config(shared=shared), Spec.of(tiny))
    data = Transition(*(np.asarray(leaf) for leaf in tiny[:-1]))
    measured = estimate.seconds_per_update(method, data, (0, 1), seed_axis.seed_mesh(), "auto")
    assert list(measured) == ["model", "guess", "train"]
    assert all(0 < seconds < 10 for seconds in measured.values())


def test_a_slow_start_is_not_the_pace() -> None:
    def log_points() -> Iterator[Any]:
        for step, pause in ((10, 0.0), (20, 0.4), *((step, 0.05) for step in range(30, 990, 10))):
            time.sleep(pause)
            yield SimpleNamespace(step=step)

    assert 0.0045 < estimate._time(log_points(), 1000) < 0.02  # 0.005, and 0.04 with the start


def test_a_short_phase_is_not_timed_for_longer_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimate, "PATIENCE", 1e9)
    monkeypatch.setattr(estimate, "LONGEST", 1e9)
    given = iter([SimpleNamespace(step=step) for step in (10, 20, 30)])
    assert estimate._time(given, 20) > 0
    assert next(given).step == 30


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_is_printed_in_two_units(seconds: float, text: str) -> None:
    assert estimate.duration(seconds) == text


@pytest.mark.parametrize(
    ("seeds", "devices", "used"), [(5, 2, 2), (5, 4, 3), (1, 4, 1), (4, 4, 4), (6, 4, 3), (9, 4, 3)]
)
def test_no_more_devices_are_used_than_save_a_round(seeds: int, devices: int, used: int) -> None:
    import jax

    assert job.mesh_for(seeds, jax.devices()[:devices]).devices.size == used
