"""A real process is killed at 20 moments; what comes out is what an undisturbed run gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_prefs.release import load_run
from tests.experiments.conftest import TINY

KILLS = 20
FIELDS = TINY | {
    "pretrain_steps": "3",
    "warmup_steps": "3",
    "train_steps": "8",
    "log_every": "1",
    "checkpoint_every": "1",
}
CLOCKED = ("wall_seconds", "updates_per_second")


@pytest.fixture(scope="module")
def outcome(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver printed."""
    folder = tmp_path_factory.mktemp("kills")
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.experiments.crash", str(folder), str(KILLS)),
            *(f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2"),
            *(f"--set={name}={value}" for name, value in FIELDS.items()),
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kills_fall_into_every_phase_and_between_the_operations_of_a_save(
    outcome: dict[str, Any],
) -> None:
    kills = outcome["kills"]
    assert len(kills) == KILLS
    assert {phase for phase, _, _ in kills} == {"start", "behavior", "critic", "train"}
    saving = [operation for _, operation, path in kills if path.startswith("/checkpoints")]
    assert len(saving) >= 5 and len(set(saving)) >= 2, kills


def test_killed_runs_end_as_an_undisturbed_one_bit_for_bit(outcome: dict[str, Any]) -> None:
    expected, *killed = map(Path, outcome["finished"])
    assert killed
    for path in killed:
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            assert (path / name).read_bytes() == (expected / name).read_bytes(), name
        one, other = (load_run(folder) for folder in (expected, path))
        assert one.step == other.step
        jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
        results = [json.loads((folder / "result.json").read_text()) for folder in (expected, path)]
        for name in CLOCKED:
            for result in results:
                result.pop(name)
        assert results[0] == results[1]


def test_a_killed_run_keeps_the_time_of_the_updates_that_count(outcome: dict[str, Any]) -> None:
    expected, *killed = map(Path, outcome["finished"])
    for path in killed:
        one, other = (
            [
                json.loads(line)["step"]
                for line in (folder / "timings.jsonl").read_text().splitlines()
            ]
            for folder in (expected, path)
        )
        assert one == other


def test_nothing_half_written_is_left(outcome: dict[str, Any]) -> None:
    for path in map(Path, outcome["finished"]):
        steps = [entry.name for entry in (path / "checkpoints").iterdir()]
        assert sorted(steps) == ["10", "11"], steps
