"""Measures of data whose health is known."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.data import Dataset, health, health_figure
from jaxrl_prefs.runs import figures

N = 2000


def dataset(**changes: Any) -> Dataset:
    """Ten episodes of states without repetition; the action is small noise."""
    generator = np.random.default_rng(0)
    table = {
        "obs_0": generator.normal(size=N),
        "obs_1": generator.normal(size=N),
        "action_0": 0.1 * generator.normal(size=N).clip(-3, 3),
        "reward": generator.normal(size=N),
        "terminals": np.zeros(N),
        "timeouts": np.arange(N) % 200 == 199,
        "time": np.arange(N) * 0.5,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Dataset.from_frame(table | changes, action_low=-1, action_high=1)


def test_good_data_have_no_warnings() -> None:
    found = health.of(dataset())
    assert found.warnings == ()
    measures = found.measures
    assert measures["ends_cut"] == 1 and measures["ends_terminal"] == 0
    assert measures["states_repeated"] == 0 and measures["time_gaps"] == 0
    assert measures["time_step"] == 0.5
    assert measures["action_range_used"][0] == pytest.approx(0.3, abs=0.01)
    assert 1.9 < measures["state_directions"] <= 2
    json.dumps(measures, allow_nan=False)


GAPS = np.arange(N) * 0.5 + 7.0 * (np.arange(N) >= 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": np.arange(N) % 200 == 199, "timeouts": np.zeros(N)}, "all 10 episodes end"),
        ({"obs_1": np.full(N, 3.0)}, "observations that never change: obs_1"),
        ({"obs_2": np.arange(N), "obs_3": np.arange(N)}, "duplicated observations: obs_2 = obs_3"),
        ({"action_0": np.sign(np.arange(N) % 2 - 0.5)}, "action_0: 100 % of its entries lie at a"),
        ({"action_0": np.linspace(0, 0.01, N)}, "action_0 uses 0.5 % of its range"),
        ({"reward": np.full(N, 2.0)}, "every reward is 2"),
        ({"reward": np.linspace(0, 1e6, N)}, r"rewards reach 9\.99e\+05"),
        ({"obs_0": np.arange(N) // 4, "obs_1": -(np.arange(N) // 4)}, "steps nothing changes"),
        ({"time": GAPS}, "1 of 1,980 steps take no time, or more than 1.5 times the usual 0.5"),
    ],
)
def test_what_deserves_a_look_is_named(changes: dict[str, Any], message: str) -> None:
    (told,) = health.of(dataset(**changes)).warnings
    assert re.search(message, told), told


def test_repeated_and_frozen_states_are_counted() -> None:
    states = np.arange(N) // 2  # each twice: half of the steps change nothing
    measures = health.of(dataset(obs_0=states, obs_1=states * 2)).measures
    assert measures["states_repeated"] == pytest.approx(0.5, abs=0.01)
    assert measures["states_frozen"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_modes_of_actions(count: int) -> None:
    """Actions around so many values, chosen whatever the state, with a little noise."""
    generator = np.random.default_rng(1)
    centres = np.linspace(-0.8, 0.8, count) if count > 1 else np.zeros(1)
    action = centres[generator.integers(count, size=N)] + 0.02 * generator.normal(size=N)
    measures = health.of(dataset(action_0=action)).measures
    assert measures["action_modes"] == pytest.approx(count, abs=0.2)
    assert measures["multimodal_states"] == (pytest.approx(1, abs=0.02) if count > 1 else 0)


def test_spread_actions_are_one_mode() -> None:
    generator = np.random.default_rng(2)
    for action in (generator.uniform(-1, 1, N), 0.3 * generator.normal(size=N).clip(-3, 3)):
        assert health.of(dataset(action_0=action)).measures["multimodal_states"] < 0.05


def test_a_figure(tmp_path: Path) -> None:
    drawn = figures.new(13, 7)
    health_figure.draw(dataset(), drawn)
    assert [panel.get_xlabel() for panel in drawn.axes][:3] == [
        "steps in an episode",
        "reward",
        "return",
    ]
    figures.save(drawn, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
