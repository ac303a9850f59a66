"""A sweep on a cluster of Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from jaxrl_prefs.cli import sweep

# Two nodes with one core each, until standard input ends. Not in a process with JAX: Ray forks.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes, both on this machine."""
    command = [sys.executable, "-W", "ignore", "-c", CLUSTER]
    pipe = subprocess.PIPE
    eager = os.environ | {"RAY_worker_niceness": "0"}  # else they starve beside other tests
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=eager) as process:
        assert process.stdout
        yield next(line.split()[1] for line in process.stdout if line.startswith("address"))
        process.communicate("")


def worker() -> psutil.Process | None:
    """A worker of Ray that is at work on a task."""
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] and process.info["cmdline"][0] == "ray::_work":
            return process
    return None


@pytest.mark.slow
def test_a_cluster_survives_the_death_of_a_worker(
    sweep_argv: list[str], cluster: str, tmp_path: Path
) -> None:
    long = ["--set=train_steps=1500", "--set=checkpoint_every=100", "--set=log_every=100"]
    argv = [*sweep_argv, *long, "--grid=actor_learning_rate=0.001,0.0003"]
    command = [sys.executable, "-m", "experiments.sweep", *argv[1:]]
    there = [*command, "--launcher=ray", f"--ray_address={cluster}"]
    process = subprocess.Popen(there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "sweep"
    deadline = time.monotonic() + 600
    while not list(folder.rglob("checkpoints/[0-9]*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    victim = worker()
    assert victim is not None and not list(folder.rglob("result.json"))
    victim.kill()
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert said.count("finished") == 2

    assert sweep.main([*argv, f"--workdir={tmp_path / 'here'}"]) == 0
    found, expected = (
        [point["policies"]["actor"]["returns"] for point in json.loads(path.read_text())["points"]]
        for path in (folder / "sweep.json", tmp_path / "here" / "sweep.json")
    )
    # Other processes round otherwise; steps of such sizes do not amplify that.
    np.testing.assert_allclose(found, expected, rtol=1e-3)
