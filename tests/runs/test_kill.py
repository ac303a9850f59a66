"""A real process is killed again and again; what comes out is what an undisturbed run gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxrl_prefs.runs.load import load_run
from tests.small_runs import TINY

EVERY_STEP = {"log_every": "1", "checkpoint_every": "1"}
BDPO = TINY | EVERY_STEP | {"pretrain_steps": "3", "warmup_steps": "3", "train_steps": "8"}
# 25 rows at a time, of 200: every phase, the pass over the rows for candidates too, is 8 updates.
ARQ = EVERY_STEP | {
    "policies": "explicit",
    "behavior_width": "8",
    "behavior_blocks": "1",
    "behavior_batch_size": "16",
    "pretrain_steps": "8",
    "share_behavior": "true",
    "candidates": "2",
    "candidate_batch_size": "25",
    "sampler": "few_step",
    "sampler_steps": "2",
    "density": "fixed",
    "density_nodes": "6",
    "kth": "1",
    "critic_hidden": "8",
    "actor_hidden": "8",
    "batch_size": "16",
    "train_steps": "8",
    "actor_steps": "8",
    "eval_episodes": "1",
}
CLOCKED = ("wall_seconds", "updates_per_second")


class Case(NamedTuple):
    """A method, how often it is killed, and where it must have died at least once."""

    algo: str
    fields: dict[str, str]
    kills: int
    phases: set[str]


CASES = [
    Case("bdpo", BDPO, 7, {"start", "behavior", "critic", "train"}),
    Case("arq", ARQ, 5, {"start", "behavior", "candidates", "critic", "policy"}),
]


class Outcome(NamedTuple):
    """What the driver printed about a case."""

    case: Case
    kills: list[list[str]]  # [phase, operation, path]
    finished: list[Path]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.algo)
def outcome(
    request: pytest.FixtureRequest, pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("kills")
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.runs.crash", str(folder), str(case.kills)),
            f"--algo={case.algo}",
            *(f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2"),
            *(f"--set={name}={value}" for name, value in case.fields.items()),
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    return Outcome(case, printed["kills"], list(map(Path, printed["finished"])))


def test_kills_fall_into_every_phase_and_between_the_operations_of_a_save(
    outcome: Outcome,
) -> None:
    case, kills, _ = outcome
    assert len(kills) == case.kills
    assert {phase for phase, _, _ in kills} == case.phases
    saving = [operation for _, operation, path in kills if path.startswith("/checkpoints")]
    assert len(saving) >= case.kills // 4 and len(set(saving)) >= min(2, len(saving)), kills


def test_killed_runs_end_as_an_undisturbed_one_bit_for_bit(outcome: Outcome) -> None:
    expected, *killed = outcome.finished
    assert killed
    for path in killed:
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            assert (path / name).read_bytes() == (expected / name).read_bytes(), name
        one, other = (load_run(folder) for folder in (expected, path))
        assert one.step == other.step
        jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
        columns = sorted(file.name for file in (expected / "columns").glob("*"))
        for name in columns:
            assert (path / "columns" / name).read_bytes() == (
                expected / "columns" / name
            ).read_bytes(), name
        assert bool(columns) == ("candidates" in outcome.case.phases)
        results = [json.loads((folder / "result.json").read_text()) for folder in (expected, path)]
        for name in CLOCKED:
            for result in results:
                result.pop(name)
        assert results[0] == results[1]


def test_a_killed_run_keeps_the_time_of_the_updates_that_count(outcome: Outcome) -> None:
    expected, *killed = outcome.finished
    for path in killed:
        one, other = (
            [
                json.loads(line)["step"]
                for line in (folder / "timings.jsonl").read_text().splitlines()
            ]
            for folder in (expected, path)
        )
        assert one == other


def test_nothing_half_written_is_left(outcome: Outcome) -> None:
    for path in outcome.finished:
        steps = sorted(int(entry.name) for entry in (path / "checkpoints").iterdir())
        last = load_run(path).step
        assert steps == [last - 1, last]
