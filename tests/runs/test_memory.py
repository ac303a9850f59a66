from __future__ import annotations

import types

import jax
import numpy as np
import psutil
import pytest

from jaxrl_prefs.cli import run
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.mapped_rows import MappedRows
from jaxrl_prefs.methods import arq
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.runs import memory
from jaxrl_prefs.types import Spec
from tests import probes
from tests.small_runs import SHORT

ONE = np.ones(3, np.float32)
MILLION = 1_000_000


def method(**changes):
    spec = Spec(4, 3, MILLION, -ONE, ONE, np.zeros(4), np.ones(4), 0 * ONE, ONE)
    return arq.make(arq.Config(**changes), spec)


def test_columns_take_what_their_rows_take():
    """30 samples of 3 numbers and a log-density, 2 bytes each."""
    assert memory.column_bytes(method(), MILLION, 5) == {
        "candidates": 5 * MILLION * 180,
        "log_density": 5 * MILLION * 60,
    }
    shared = memory.column_bytes(method(share_behavior=True), MILLION, 5)
    assert sum(shared.values()) == MILLION * 240


@pytest.mark.parametrize(
    ("shared", "devices", "sets"), [(False, 1, 5), (False, 2, 3), (False, 4, 2), (True, 4, 1)]
)
def test_a_device_holds_its_seeds_sets(shared, devices, sets):
    found = memory.device_bytes(method(share_behavior=shared), MILLION, 5, devices)
    assert found == sets * MILLION * 240


def test_it_is_said_before_the_run_starts():
    """A shared set on the host and on each of two devices of that host."""
    mesh = seed_axis.seed_mesh(jax.devices()[:2])
    told = memory.check(method(share_behavior=True), 1000, 5, mesh)
    assert told == (
        "columns: candidates 180.0 kB, log_density 60.0 kB; "
        "with copies for 2 device(s) 720.0 kB of memory"
    )
    assert memory.check(method(policies=("behavior",)), 1000, 5, mesh) == ""


def test_what_does_not_fit_is_refused(monkeypatch):
    class Little:
        available = 700_000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    mesh = seed_axis.seed_mesh(jax.devices()[:2])
    told = r"720\.0 kB of memory, but this machine has 700\.0 kB free"
    with pytest.raises(ConfigError, match=told):
        memory.check(method(share_behavior=True), 1000, 5, mesh)


def test_data_that_do_not_fit_stay_on_the_host(monkeypatch):
    mesh = seed_axis.seed_mesh(jax.devices()[:4])
    data = probes.episodes(size=96, length=12, observation_dim=3, action_dim=2)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(data))
    for factor, stays in ((7.9, True), (8.1, False)):  # four copies may take half of it
        free = types.SimpleNamespace(available=factor * size)
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        assert bool(memory.streamed(data, mesh)) == stays
    monkeypatch.setattr(memory, "_free", lambda device: 2 * size - 1)  # an accelerator's own
    assert "stay on the host: each of 4 device(s) has" in memory.streamed(data, mesh)
    monkeypatch.setattr(memory, "_free", lambda device: 2 * size)
    assert memory.streamed(data, mesh) == ""


@pytest.mark.parametrize("hosts", ["a", "aa", "ab"])
def test_mapped_rows_that_the_host_cannot_read_stay_in_their_files(monkeypatch, hosts):
    """Though the devices have room; each of two processes on one host reads all rows."""
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    data = probes.episodes(size=96, length=12, observation_dim=3, action_dim=2)
    rows = MappedRows((np.asarray(data.observation),))
    copies = 2 if hosts == "aa" else 1
    for available, stays in ((copies * rows.nbytes - 1, True), (copies * rows.nbytes, False)):
        found = [(place, 1, available, 10**12) for place in hosts]
        monkeypatch.setattr(processes, "gathered", lambda own, found=found: found)
        told = memory.streamed(data._replace(observation=rows), mesh)
        assert ("stay in their files: in memory they take 1.2 kB" in told) == stays
        assert memory.streamed(data, mesh) == ""  # they are in memory


@pytest.mark.parametrize(("hosts", "factor"), [("aa", 8), ("ab", 4)])
def test_processes_on_one_host_share_its_memory_and_decide_alike(monkeypatch, hosts, factor):
    """Two processes with two devices each, of which the second has the least room."""
    mesh = seed_axis.seed_mesh(jax.devices()[:4])
    data = probes.episodes(size=96, length=12, observation_dim=3, action_dim=2)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(data))
    for room, stays in ((factor * size - 1, True), (factor * size, False)):
        found = [(hosts[0], 2, 100 * size, None), (hosts[1], 2, room, None)]
        monkeypatch.setattr(processes, "gathered", lambda own, found=found: found)
        assert bool(memory.streamed(data, mesh)) == stays


def test_a_run_says_that_its_data_stay_on_the_host(pendulum_file, tmp_path, monkeypatch, capsys):
    """And measures the same as one whose data are on the devices."""
    found = []
    for name, share in (("device", 0.5), ("host", 0.0)):
        monkeypatch.setattr(memory, "SHARE", share)
        fields = [f"--set={key}={value}" for key, value in SHORT.items()]
        words = [f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2", "--algo=td3_bc"]
        assert run.main(["run", *words, f"--workdir={tmp_path / name}", *fields]) == 0
        assert ("stay on the host" in capsys.readouterr().out) == (name == "host")
        found.append((tmp_path / name / "metrics.jsonl").read_text())
    assert found[0] == found[1]
