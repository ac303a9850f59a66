"""The plan of a run whose numbers can be worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxrl_prefs.cli import plan
from jaxrl_prefs.cli.flops import update_flops
from jaxrl_prefs.data.readers import folders
from jaxrl_prefs.mapped_rows import is_mapped
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.rows import first_rows
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.types import Spec, Transition
from tests import probes
from tests.data.test_mapped_rows import write
from tests.small_runs import SHORT


def bc(pendulum_file: Path, seeds: int) -> Choice:
    fields = {name: value for name, value in SHORT.items() if name != "critic_hidden"}
    assignments = tuple(f"{name}={value}" for name, value in fields.items())
    return Choice("bc", str(pendulum_file), "Pendulum-v1", tuple(range(seeds)), assignments)


def test_memory_operations_and_time_add_up(pendulum_file: Path) -> None:
    found = plan.plan(bc(pendulum_file, 5), devices=2, rate=1e9)
    (phase,) = found.stretches
    assert (phase.steps, found.seeds, found.rounds) == (4, 5, 3)
    # One hidden layer of 8 between 3 observations and 1 action, 16 rows: products of
    # 2 * 16 * (3 * 8 + 8 * 1) forward, the same for the weights' gradients, and 2 * 16 * 8 back.
    forward = 2 * 16 * (3 * 8 + 8 * 1)
    assert phase.flops == 2 * forward + 2 * 16 * 8
    assert found.flops == 5 * 4 * phase.flops
    assert found.seconds == pytest.approx(3 * 4 * phase.flops / 1e9)
    parameters = (3 * 8 + 8) + (8 * 1 + 1)
    assert 3 * 4 * parameters <= found.state <= 5 * 4 * parameters + 64  # Adam has two moments
    # Five rows, the last of each episode, have no successor and are left out.
    assert found.data == 195 * 4 * (3 + 1 + 1 + 1 + 3 + 1 + 1 + 1 + 1)
    apart = found.device_bytes(True) - found.device_bytes(False)
    assert apart == 2 * phase.temporary > 0


def test_a_phase_that_seeds_share_is_done_once(pendulum_file: Path) -> None:
    small = dataclasses.replace(
        bc(pendulum_file, 5),
        algo="arq",
        assignments=("behavior_width=8", "critic_hidden=8", "actor_hidden=8", "batch_size=8"),
    )

    def planned(shared: bool) -> plan.Plan:
        own = (*small.assignments, f"share_behavior={shared}")
        choice = dataclasses.replace(small, assignments=own)
        return plan.plan(choice, devices=2, rate=1e9, memory=False)

    apart, shared = planned(False), planned(True)
    behavior, candidates = (each.steps * each.flops for each in shared.stretches[:2])
    assert [x.name for x in shared.stretches[:2]] == ["behavior", "candidates"]
    assert apart.flops - shared.flops == pytest.approx((5 - 1) * (behavior + candidates))
    # Of five seeds on two devices one has three. The two devices divide the batches.
    saved = (3 - 1) * behavior + (3 - 1 / 2) * candidates
    assert apart.seconds - shared.seconds == pytest.approx(saved / 1e9)

    def side_by_side(found: plan.Plan) -> int:
        only = found.stretches[0]._replace(temporary=7)
        return found._replace(stretches=(only,)).device_bytes(True) - found.data

    assert side_by_side(apart) == 3 * (apart.state + 7)
    assert side_by_side(shared) == 3 * shared.state + 7


def test_rows_in_mapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "rows")
    choice = dataclasses.replace(bc(folder, 1), env="")
    mapped: list[bool] = []

    def noted(data: Transition, count: int) -> Transition:
        mapped.append(is_mapped(data.observation))
        return first_rows(data, count)

    expected = plan.plan(choice, devices=1, rate=1e9)
    monkeypatch.setattr(folders, "COPIES", float("inf"))
    monkeypatch.setattr(plan, "FEW", 20)
    monkeypatch.setattr(plan, "first_rows", noted)
    assert plan.plan(choice, devices=1, rate=1e9) == expected
    assert mapped == [True]


def test_a_step_taken_now_and_then_counts_by_its_share() -> None:
    def flops(interval: int) -> float:
        spec = Spec.of(probes.episodes(size=16, length=8, observation_dim=3, action_dim=1))
        small = td3_bc.Config(actor_hidden=(8,), critic_hidden=(8,), actor_interval=interval)
        method, batch = td3_bc.make(small, spec), probes.episodes(16, 8, 3, 1)
        (phase,) = method.phases
        state, traced = method.init(jax.random.key(0), batch), list[object]()

        def update(*args: Any) -> Any:
            traced.append(args[-1])
            return phase.update(*args)

        given = (update, state, batch, jax.random.key(1))
        found = update_flops(*given, period=phase.period)
        assert len(traced) == min(interval, 2)
        assert interval == 4 or update_flops(*given) == found  # as the steps themselves tell
        assert found[1] == interval
        return found[0]

    always, half, quarter = map(flops, (1, 2, 4))
    assert always - half == pytest.approx(2 * (half - quarter)) and half > quarter


def test_without_a_rate_updates_are_timed(pendulum_file: Path) -> None:
    found = plan.plan(bc(pendulum_file, 1), devices=1, rate=0.0)
    assert 0 < found.seconds < 60


def test_the_command_prints_it(pendulum_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (f"--dataset={pendulum_file}", "--env=Pendulum-v1")
    argv = ["plan", "--algo=bc", *data, "--seeds=64", "--rate=20"]
    assert plan.main([*argv, "--devices=4"]) == 0
    out = capsys.readouterr().out
    assert "a device with 16 seeds" in out and "GFLOP per update" in out and "4 device(s)" in out
    assert plan.main([*argv, "--devices=0"]) == 2
    assert "--devices=0" in capsys.readouterr().err
