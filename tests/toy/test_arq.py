"""The study of four densities: exact numbers, and a run of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxrl_prefs.toy import arq, command


@pytest.mark.parametrize("name", arq.TASKS)
def test_exact_densities_integrate_to_one(name):
    grid = np.linspace(-1.5, 1.5, 3001)
    for state in (-0.9, -0.01, 0.4):
        density = np.exp(arq.exact_log_density(arq.TASKS[name], np.full(3001, state), grid))
        assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", arq.TASKS)
def test_data_have_their_density(name):
    """The mean log-density of the data is minus the entropy, here by the map's own integral."""
    rng = np.random.default_rng(0)
    state, action = arq.data_of(arq.TASKS[name], 20_000, rng)
    assert np.abs(action).max() < 1
    grid, states = np.linspace(-1, 1, 1001), np.linspace(-0.999, 0.999, 201)
    flat = [x.ravel() for x in np.meshgrid(states, grid)]
    log = arq.exact_log_density(arq.TASKS[name], *flat)
    expected = (np.exp(log) * log).sum() * (grid[1] - grid[0]) / len(states)
    found = arq.exact_log_density(arq.TASKS[name], state, action).mean()
    assert found == pytest.approx(expected, abs=0.03)


def test_wrong_use_is_told_in_a_line(capsys):
    assert command.main(["toy", "--algo=arq", "--set=sampler=euler"]) == 2
    told = capsys.readouterr().err
    assert "'sampler' takes one of" in told and told.count("\n") == 1


def test_a_run_prints_and_draws(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(arq, "HELD_OUT", 40)
    monkeypatch.setattr(arq, "SHOWN", 20)
    monkeypatch.setattr(arq, "TASKS", {"stairs": arq.stairs})
    fields = ("pretrain_steps=3", "behavior_width=8", "behavior_blocks=1", "density_nodes=6")
    tiny = [f"--set={text}" for text in fields]
    assert command.main(["toy", "--algo=arq", f"--workdir={tmp_path}", *tiny]) == 0
    assert "stairs" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["config"]["pretrain_steps"] == 3
    numbers = results["tasks"]["stairs"]
    assert numbers["kl"] > 0.5 and 0.99 < numbers["inside_exact"] <= 1
    assert (tmp_path / "densities.png").read_bytes()[:4] == b"\x89PNG"
