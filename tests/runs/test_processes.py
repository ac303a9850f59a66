"""Two processes with two devices each are one run: they end where a single process does.

With data on the devices, and with data that are streamed from each process's host.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxrl_prefs.cli import commandline, run
from jaxrl_prefs.errors import ConfigError, WorkdirError
from jaxrl_prefs.mapped_rows import MappedRows
from jaxrl_prefs.parallel import processes
from jaxrl_prefs.runs import prepare
from jaxrl_prefs.types import Transition
from tests import playground, probes
from tests.small_runs import SHORT
from tests.training.test_loop import probe, record

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
    "bc": {"encoder": "two_layers", "encoder_features": "4", "image_shift": "1"}
    | {"actor_hidden": "8", "batch_size": "4", "train_steps": "6", "log_every": "3"}
    | {"eval_episodes": "1"},
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
"""
ONE = HASTY + "sys.exit(run.main())"
# Several commands, the first of which joins the processes, then the phases of the probe.
SEVERAL = (
    HASTY
    + """
import json
from jaxrl_prefs.runs import memory
from tests import playground
folder, commands, *place = sys.argv[1:]
playground.register()
for share, argv in json.loads(commands):
    memory.SHARE = share
    if code := run.main([*argv, *place]):
        sys.exit(code)
    place = []
from tests.runs import test_processes
test_processes.write_probe(folder)
"""
)


def flags(algo: str, path: Path, file: Path, seeds: int = 8, env: str = "Pendulum-v1") -> list[str]:
    return [
        "run",
        *(f"--algo={algo}", f"--dataset={file}", f"--env={env}"),
        f"--seeds={seeds}",
        f"--workdir={path}",
        *(f"--set={name}={value}" for name, value in FIELDS[algo].items()),
    ]


def on_pictures(folder: Path, name: str) -> list[str]:
    """Three seeds, so that the second process has one of its own and padding."""
    return flags("bc", folder / name, folder / "frames.npz", seeds=3, env=playground.PIXELS_ID)


def record_pictures(path: Path) -> None:
    """Forty steps in frames of noise, 16x16."""
    rng, steps = np.random.default_rng(0), 40
    np.savez(
        path,
        observations=rng.integers(0, 256, (steps, 16, 16, 1), np.uint8),
        actions=rng.uniform(-2, 2, (steps, 1)),
        rewards=rng.normal(size=steps),
        terminals=np.zeros(steps),
        timeouts=np.arange(steps) % 10 == 9,
    )


ROWS = ("observation", "next_observation", "action", "next_action")


def probe_data() -> Transition:
    return probes.episodes(size=90, length=12, observation_dim=3, action_dim=2)


def record_rows(folder: Path) -> None:
    """The probe's data in files, which every process maps."""
    for name in ROWS:
        np.save(folder / f"{name}.npy", np.asarray(getattr(probe_data(), name)))


def in_files(folder: str) -> Transition:
    maps = {name: np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in ROWS}
    return probe_data()._replace(**{name: MappedRows((x,)) for name, x in maps.items()})


def probed(data: Transition) -> list[tuple[Any, ...]]:
    """The probe on data that stay on the host: a phase for all seeds, one that fills columns for
    all, and one of every seed, with seeds side by side."""
    method = probe(data, shared=True)
    found = record(method, data, devices=4, every=10, mapping="vmap", stream=True)
    return [(each.state, each.columns, each.metrics) for each in found]


def write_probe(folder: str) -> None:
    """Writes what this process, one of several, has of the probe."""
    for kind, data in (("memory", probe_data()), ("files", in_files(folder))):
        file = Path(folder) / f"{kind}-{jax.process_index()}"
        file.write_bytes(pickle.dumps(probed(data)))


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


def start(program: str, argv: list[str], place: Place) -> subprocess.Popen[str]:
    flags, variables = place
    compiled = os.environ.get("XLA_FLAGS", "")  # as this process compiles, so that bits are equal
    devices = {"XLA_FLAGS": f"{compiled} --xla_force_host_platform_device_count=2"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *argv, *flags],
        env=os.environ | devices | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(folder: Path, commands: list[tuple[float, list[str]]]) -> None:
    """As a Slurm job: each command with the share of free memory that its data may take."""
    port, argv = free(SLURM_PORTS), [str(folder), json.dumps(commands)]
    started = [start(SEVERAL, argv, by_slurm(number, port)) for number in range(2)]
    ends = [process.communicate(timeout=900) for process in started]
    for process, (_, errors) in zip(started, ends, strict=True):
        assert process.returncode == 0, errors[-3000:]


def lose_one(argv: list[str], path: Path) -> None:
    """Starts a run and kills one of its processes once there is a new checkpoint."""
    before = set(path.glob("checkpoints/[0-9]*"))
    port = free([0])
    started = [start(ONE, argv[1:], by_flags(number, port)) for number in range(2)]
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


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory, pendulum_file: Path) -> Path:
    """A folder with all that two processes trained, one command after the other."""
    folder = tmp_path_factory.mktemp("joined")
    record_pictures(folder / "frames.npz")
    record_rows(folder)
    paired = folder / "arq"
    assert run.main(flags("arq", paired, pendulum_file, seeds=6)) == 0
    forget(paired, 10)
    there = [(0.5, flags("arq", paired, pendulum_file)), (0.5, on_pictures(folder, "device"))]
    together(folder, [*there, (0.0, on_pictures(folder, "host"))])
    return folder


@pytest.mark.slow
def test_two_processes_go_on_from_one_and_add_seeds(
    joined: Path, tmp_path: Path, pendulum_file: Path
) -> None:
    """ARQ, whose phases also fill columns and share a model; how a method trains is no matter."""
    assert run.main(flags("arq", tmp_path / "alone", pendulum_file)) == 0
    assert_same_run(joined / "arq", tmp_path / "alone")
    assert (joined / "arq" / "result.json").exists()


@pytest.mark.slow
def test_two_processes_on_images(joined: Path) -> None:
    """With frames on the devices to the bit; on the hosts, where XLA fuses other operations, to
    rounding."""
    playground.register()
    assert run.main(on_pictures(joined, "alone")) == 0
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (joined / "device" / name).read_text() == (joined / "alone" / name).read_text()
    assert_same_run(joined / "host", joined / "alone")


@pytest.mark.slow
def test_two_processes_stream_every_kind_of_phase(joined: Path) -> None:
    """Bit for bit what one process computes when it streams, from memory and from mapped files."""
    expected = probed(probe_data())
    for number in range(2):
        for kind in ("memory", "files"):
            found = pickle.loads((joined / f"{kind}-{number}").read_bytes())
            chex.assert_trees_all_equal(found, expected)


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
