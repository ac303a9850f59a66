"""BPR's study of bandits: the policy step on known problems, its comparisons, and a short run."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl_prefs.data.generate.bandits import BANDITS, retarget
from jaxrl_prefs.toy import bpr, command

TINY = [
    f"--set={text}"
    for text in (
        "points=2000",
        "cells=12",
        "states=64",
        "steps=20",
        "behavior_width=8",
        "behavior_blocks=1",
        "behavior_batch_size=32",
        "pretrain_steps=4",
    )
]


def test_flags_reach_the_study():
    setting = command.parse(["toy", "--algo=bpr", "--eta=.1", "--set=lam=2"]).setting
    assert isinstance(setting.config, bpr.Config)
    assert (setting.config.eta, setting.config.lam, setting.config.samples) == (0.1, 2, 2)
    paper = command.parse(["toy", "--algo=bpr", "--size=paper"]).setting.config
    assert (paper.behavior_width, paper.behavior_blocks, paper.negative_samples) == (256, 4, 256)


@pytest.mark.parametrize("text", ["samples=1", "cells=1", "lam=0"])
def test_impossible_sizes_are_told_in_a_line(text, capsys):
    assert command.main(["toy", "--algo=bpr", f"--set={text}"]) == 2
    assert text.split("=")[0] in capsys.readouterr().err


def test_both_samplings_find_the_optima_of_arms_and_gaussian():
    for curves in bpr.curves(1.0, 0):
        assert curves.keys() == set(bpr.SAMPLINGS)
        for kl in curves.values():
            assert kl[0] > 0.1 and abs(kl[-1]) < 1e-4


def four_cells():
    """Arms whose optimum at lam = 1 is .52308 .31727 .11672 .04294."""
    data = np.exp(-bpr.ARMS_E) / np.exp(-bpr.ARMS_E).sum()
    q, energy, data = (np.float32(x) for x in (bpr.ARMS_Q, bpr.ARMS_E, data))
    return bpr.Grid(np.array([[-2, -2], [-2, 2], [2, -2], [2, 2.0]]), q, energy, data)


@pytest.mark.parametrize("sampling", bpr.SAMPLINGS)
@pytest.mark.parametrize("samples", [2, 4])
def test_a_table_policy_becomes_the_product_of_value_and_behaviour(sampling, samples):
    config = bpr.Config(samples=samples, states=64, steps=300)
    share = bpr.fit_table(four_cells(), config, sampling, 0)
    np.testing.assert_allclose(share, [0.52308, 0.31727, 0.11672, 0.04294], atol=2e-3)


def test_cells_are_drawn_by_their_share():
    share = np.float32([0.5, 0.0, 0.3, 0.2])
    cells = np.asarray(bpr.draw_cells(share, jax.random.key(0), (100, 200)))
    np.testing.assert_allclose(np.bincount(cells.ravel(), minlength=4) / 20_000, share, atol=0.015)


def test_a_histogram_counts_what_lies_in_the_square():
    points = np.array([[-4.0, -4.0], [-4.0, 4.0], [4.0, 4.0], [4.0, 4.0], [9.0, 0.0]])
    np.testing.assert_allclose(bpr.histogram(points, 2), [0.25, 0.25, 0, 0.5])


def test_a_perfect_policy_compares_without_error():
    """A grid whose energy is the data's own log-histogram: the optimum is the target's."""
    bandit, config = BANDITS["8gaussians"], bpr.Config(cells=30)
    rng = np.random.default_rng(0)
    points, energies = bandit.draw(rng, 200_000)
    axis = 4.5 * ((2 * np.arange(30) + 1) / 30 - 1)
    centres = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    data = bpr.histogram(points, 30)
    q = bandit.energy(centres) / config.eta
    grid = bpr.Grid(centres, q, -np.log(data + 1e-12), data)
    best = np.exp(q - grid.energy)
    best /= best.sum()
    goal = bpr.histogram(retarget(rng, points, energies, config.eta, 200_000), 30)
    numbers = bpr.compare(bandit, config, grid, best, goal)
    assert abs(numbers["regression"]) < 1e-5
    assert (
        numbers["distance"] < 0.06
    )  # of 200,000 draws in 900 cells, and cells that two modes share
    assert numbers["mode_error"] < 0.02
    assert numbers["energy"] == pytest.approx(bandit.target_energy(config.eta), abs=0.02)
    stays = bpr.compare(bandit, config, grid, data, goal)
    assert stays["distance"] > 0.4 and stays["regression"] > 0.3
    shown = bpr.spread_out(rng, grid, best, config)
    np.testing.assert_allclose(
        np.bincount(bandit.modes.of(shown), minlength=8) / len(shown),
        bandit.mode_weights(config.eta),
        atol=0.03,
    )


def test_a_run_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = ["toy", "--algo=bpr", "--task=moons", f"--workdir={tmp_path}", *TINY]
    assert command.main(flags) == 0
    told = capsys.readouterr().out
    assert "self-play" in told and "reference" in told and "moons" in told
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(bpr.SAMPLINGS) < set(results["tasks"]["moons"])
    assert results["config"]["cells"] == 12
    assert [path.name for path in tmp_path.glob("*.png")] == ["samplings.png"]
    assert (tmp_path / "samplings.png").read_bytes()[:4] == b"\x89PNG"
