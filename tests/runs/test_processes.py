"""Two processes with two devices each are one run: they end where a single process does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.cli import commandline, run
from jaxrl_prefs.errors import ConfigError, WorkdirError
from jaxrl_prefs.parallel import processes
from jaxrl_prefs.runs import prepare
from tests.small_runs import SHORT

LOOPBACK = socket.inet_ntoa(socket.INADDR_LOOPBACK.to_bytes(4, "big"))
OFTEN = {"log_every": "10", "checkpoint_every": "10", "eval_every": "50"}
FIELDS = {  # a hundred updates of each; of ARQ behaviour and candidates alone
    "arq": OFTEN
    | {"share_behavior": "true", "behavior_width": "8", "pretrain_steps": "20"}
    | {"candidates": "3", "candidate_batch_size": "5", "sampler": "few_step", "sampler_steps": "4"}
    | {"density": "fixed", "density_nodes": "6", "kth": "1", "critic_hidden": "8"}
    | {"actor_hidden": "8", "batch_size": "16", "train_steps": "0", "actor_steps": "0"}
    | {"policies": "explicit,behavior", "eval_episodes": "1"},
    "td3_bst": SHORT
    | OFTEN
    | {"behavior_hidden": "8", "pretrain_steps": "30", "train_steps": "70"},
}
SLURM_PORTS = range(2**16 - 2**12, 2**16)  # where JAX puts the coordinator of a Slurm job
LOST = 110  # seconds in which the others must notice, HASTY's heartbeat included
# The command, with a heartbeat shorter than the minute that users have.
HASTY = """
import sys
from jaxrl_prefs.cli import run
from jaxrl_prefs.parallel import processes
from jaxrl_prefs.runs import estimate
estimate.PATIENCE, processes.PATIENCE = 0.0, 20
sys.exit(run.main())
"""


def flags(algo: str, path: Path, pendulum_file: Path, seeds: int = 8) -> list[str]:
    return [
        "run",
        *(f"--algo={algo}", f"--dataset={pendulum_file}", "--env=Pendulum-v1"),
        f"--seeds={seeds}",
        f"--workdir={path}",
        *(f"--set={name}={value}" for name, value in FIELDS[algo].items()),
    ]


Place = tuple[list[str], dict[str, str]]  # flags and environment of a process


def by_flags(number: int, port: int) -> Place:
    place = [f"--coordinator={LOOPBACK}:{port}", f"--process_id={number}", "--num_processes=2"]
    return place, {}


def by_slurm(number: int, port: int) -> Place:
    """What srun sets for two tasks on this machine; JAX makes the port of the job's number."""
    job = {"JOB_ID": port - SLURM_PORTS.start, "STEP_NODELIST": LOOPBACK, "NTASKS": 2}
    task = {"PROCID": number, "LOCALID": number}
    return ["--coordinator=auto"], {f"SLURM_{k}": str(v) for k, v in (job | task).items()}


def free(ports: Iterable[int]) -> int:
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return int(probe.getsockname()[1])
    raise AssertionError("no free port")


def start(argv: list[str], place: Place) -> subprocess.Popen[str]:
    flags, variables = place
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return subprocess.Popen(
        [sys.executable, "-c", HASTY, *argv[1:], *flags],
        env=os.environ | devices | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(argv: list[str]) -> None:
    """As a Slurm job."""
    port = free(SLURM_PORTS)
    started = [start(argv, by_slurm(number, port)) for number in range(2)]
    ends = [process.communicate(timeout=900) for process in started]
    for process, (_, errors) in zip(started, ends, strict=True):
        assert process.returncode == 0, errors[-3000:]


def lose_one(argv: list[str], path: Path) -> None:
    """Starts a run and kills one of its processes once there is a new checkpoint."""
    before = set(path.glob("checkpoints/[0-9]*"))
    port = free([0])
    started = [start(argv, by_flags(number, port)) for number in range(2)]
    try:
        for _ in range(6000):
            if set(path.glob("checkpoints/[0-9]*")) - before:
                break
            assert all(process.poll() is None for process in started)
            time.sleep(0.1)
        other, lost = started
        lost.kill()
        _, errors = other.communicate(timeout=LOST)
        assert other.returncode not in (0, None)
        assert errors.count(processes.LOST) == 1 and "coordination_service" not in errors, errors
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert not (path / "result.json").exists()


def rows(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    for name, field in (("metrics.jsonl", "metrics"), ("evaluations.jsonl", "returns")):
        ours, theirs = rows(one, name), rows(other, name)
        assert len(ours) == len(theirs) > 0
        for mine, yours in zip(ours, theirs, strict=True):
            found, expected = mine[field], yours[field]
            if field == "metrics":
                assert found.keys() == expected.keys()
                found, expected = list(found.values()), list(expected.values())
            assert (mine["step"], mine["seed"]) == (yours["step"], yours["seed"])
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)
    for column in other.glob("columns/*.npy"):
        np.testing.assert_allclose(np.load(one / column.relative_to(other)), np.load(column), 2e-3)


def forget(path: Path, step: int) -> None:
    """Puts a finished run back to the checkpoint of `step`, before its columns were filled."""
    (path / "result.json").unlink()
    shutil.rmtree(path / "columns")
    for found in (path / "checkpoints").iterdir():
        if found.name.isdigit() and int(found.name) > step:
            shutil.rmtree(found)


@pytest.mark.slow
def test_two_processes_go_on_from_one_and_add_seeds(tmp_path: Path, pendulum_file: Path) -> None:
    """ARQ, whose phases also fill columns and share a model; how a method trains is no matter."""
    alone, paired = tmp_path / "alone", tmp_path / "paired"
    assert run.main(flags("arq", alone, pendulum_file)) == 0
    assert run.main(flags("arq", paired, pendulum_file, seeds=6)) == 0
    forget(paired, 10)
    together(flags("arq", paired, pendulum_file))
    assert_same_run(paired, alone)
    assert (paired / "result.json").exists()


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_one_goes_on(tmp_path: Path, pendulum_file: Path) -> None:
    alone, paired = tmp_path / "alone", tmp_path / "paired"
    argv = flags("td3_bst", paired, pendulum_file)
    assert run.main(flags("td3_bst", alone, pendulum_file)) == 0
    lose_one(argv, paired)
    assert run.main(argv) == 0
    assert_same_run(paired, alone)


def test_a_number_without_a_coordinator_is_refused() -> None:
    with pytest.raises(ConfigError, match="go with --coordinator"):
        run.parse(["run", "--process_id=1"])
    assert run.parse(["run"]).place is None
    found = run.parse(["run", "--coordinator=a:1", "--process_id=1", "--num_processes=2"]).place
    assert found == ("a:1", 1, 2)
    assert run.parse(["run", "--coordinator=auto"]).place == ("auto", None, None)


def test_auto_outside_of_a_cluster_is_one_clear_line() -> None:
    command = [sys.executable, "-m", "experiments.run", "--algo=bc", "--coordinator=auto"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone)
    assert ended.returncode == commandline.WRONG_USE
    assert "no Slurm, Kubernetes or TPU pod started this process" in ended.stderr


def about(**method: Any) -> dict[str, Any]:
    data = {"name": "a", "sha256": "1f", "env": ""}
    return {
        "run": {"seeds": (0, 1)},
        "method": method,
        "sweep": {},
        "data": data,
        "steps": 4,
        "init": {},
    }


def test_processes_with_other_flags_are_refused_in_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = about(batch_size=128, tau=0.1), about(batch_size=256, tau=0.1)
    monkeypatch.setattr(processes, "gathered", lambda own: [ours, theirs])
    for own in (ours, theirs):
        with pytest.raises(WorkdirError, match=r"process 1 .*size: 256 there, 128 in process"):
            prepare._check_same_run(own)
    monkeypatch.setattr(processes, "gathered", lambda own: [ours, ours])
    prepare._check_same_run(ours)


FATAL = """
import os, sys
from jaxrl_prefs.parallel import processes
processes._filter_errors()
os.write(2, b"a warning\\n")
if len(sys.argv) > 1:
    os.write(2, processes.LOST.encode() + b" (of ours)\\n")
os.write(2, b"E1128 coordination_service_agent.cc:289] Polled an error\\n*** stack trace: ***\\n")
os.abort()
"""


@pytest.mark.parametrize("told", [[], ["told"]])
def test_a_lost_process_is_one_line(told: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FATAL, *told], capture_output=True, text=True, timeout=300
    )
    first, *rest = ended.stderr.splitlines()
    assert first == "a warning" and len(rest) == 1 and rest[0].startswith(processes.LOST)
    assert ended.returncode != 0
