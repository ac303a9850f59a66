"""SIGTERM at random moments: out within ten seconds, and the same results in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxrl_prefs.cli import commandline
from tests.runs.test_kill import ARQ
from tests.small_runs import SHORT, TINY

SELDOM = {"log_every": "150", "checkpoint_every": "300", "eval_every": "300"}
CLOCKED = ("wall_seconds", "updates_per_second")


class Case(NamedTuple):
    """A command and its flags."""

    command: str
    flags: tuple[str, ...]
    fields: dict[str, str]


SHORT_RUNS = SHORT | SELDOM | {"train_steps": "600"}
CASES = {
    "bdpo": Case(
        "run",
        ("--algo=bdpo", "--env=Pendulum-v1"),
        TINY | SELDOM | {"pretrain_steps": "400", "warmup_steps": "200", "train_steps": "600"},
    ),
    "arq": Case(
        "run",
        ("--algo=arq", "--env=Pendulum-v1"),
        ARQ
        | SELDOM
        | {"pretrain_steps": "400", "train_steps": "400", "actor_steps": "400"}
        | {"candidate_batch_size": "1"},
    ),
    "compare": Case("compare", ("--algo=bc,td3_bc", "--env=Pendulum-v1"), SHORT_RUNS),
    "sweep": Case(
        "sweep",
        ("--algo=td3_bc", "--env=Pendulum-v1", "--grid=batch_size=8,16"),
        {name: value for name, value in SHORT_RUNS.items() if name != "batch_size"},
    ),
}


# Kills cover the phases of one run (test_kill.py). By hand, with a number of signals in SIGNALS,
# all of the cases: each is two whole runs and more.
TRIED = CASES if "SIGNALS" in os.environ else ("sweep",)


@pytest.mark.parametrize("name", TRIED)
def test_signals_cost_nothing(name: str, pendulum_file: Path, tmp_path: Path) -> None:
    signals = int(os.environ.get("SIGNALS", "1"))
    command, flags, fields = CASES[name]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.runs.signals", command, str(tmp_path), str(signals)),
            *(f"--dataset={pendulum_file}", "--seeds=2", *flags),
            *(f"--set={key}={value}" for key, value in fields.items()),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    print(name, printed["left"])
    for seconds, code in printed["left"]:
        assert seconds < 10 and code in (0, commandline.INTERRUPTED), printed["left"]
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "continues" in log, log[-3000:]
    assert_same(Path(printed["undisturbed"]), Path(printed["signalled"]))


def assert_same(one: Path, other: Path) -> None:
    results = sorted(path.relative_to(one).parent for path in one.rglob("result.json"))
    assert results == sorted(path.relative_to(other).parent for path in other.rglob("result.json"))
    assert results
    for folder in results:
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            assert (one / folder / name).read_bytes() == (other / folder / name).read_bytes()
        found = [json.loads((path / folder / "result.json").read_text()) for path in (one, other)]
        for each in found:
            for name in CLOCKED:
                each.pop(name)
        assert found[0] == found[1]
        for column in (one / folder).glob("columns/*.npy"):
            assert column.read_bytes() == (other / column.relative_to(one)).read_bytes()
