"""The four-mode study: its numbers on known descents, and a run of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.toy import command, td3_bst


def test_a_distance_that_needs_a_clone_is_refused():
    with pytest.raises(ConfigError, match="no clone of the data: distance is mean or sum"):
        td3_bst.configured(["distance=standardised", "clone_steps=5"])


def test_walks_are_counted_by_where_they_end():
    ends = np.array([[0.8, 0.1], [-0.8, 0.0], [0.0, 0.05], [0.4, 0.4]])
    path = np.stack([np.zeros((4, 2)), ends])
    assert td3_bst.summary(path, None) == {"in_a_mode": 0.5, "between": 0.25}
    found = td3_bst.summary(path, (0.8, 0.0))
    away = np.linalg.norm(ends - [0.8, 0.0], axis=-1)
    assert found["to_goal"] == pytest.approx(np.median(away))


def test_a_walk_descends_its_loss_and_stays_in_the_box():
    """Towards (2, .3): out of the box in one coordinate."""
    go = td3_bst.walker(lambda x, goal: (jnp.sum(jnp.square(x - goal)), {}))
    path = go(jnp.array([2.0, 0.3]))
    assert path.shape == (td3_bst.STEPS // td3_bst.EVERY + 1, td3_bst.STARTS**2, 2)
    assert np.abs(path).max() <= 1
    np.testing.assert_allclose(path[-1], np.tile([1.0, 0.3], (td3_bst.STARTS**2, 1)), atol=1e-3)


def test_the_data_are_four_clusters_of_equal_size():
    action = np.asarray(td3_bst.clusters(0).action)
    away = np.linalg.norm(action[:, None] - td3_bst.CENTRES, axis=-1)
    counts = np.bincount(away.argmin(1))
    np.testing.assert_array_equal(counts, td3_bst.POINTS // 4)
    for mode in range(4):
        own = action[away.argmin(1) == mode] - td3_bst.CENTRES[mode]
        np.testing.assert_allclose(own.std(0), td3_bst.STANDARD_DEVIATION, rtol=0.1)
    assert np.abs(action.mean(0)).max() < 0.01  # behaviour cloning's action is no data's


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set=kernel_scale=half"], "kernel_scale must be a number above 0"),
        (["--set=eta=1"], "no field 'eta'"),
        (["--set=mu=strong"], "field 'mu' takes a float"),
    ],
)
def test_wrong_use_is_told_in_a_line(flags, message, capsys):
    assert command.main(["toy", "--algo=td3_bst", *flags]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_help_lists_the_study_s_own_fields(capsys):
    assert command.main(["toy", "--algo=td3_bst", "--set=mu=.5", "--help"]) == 0
    told = capsys.readouterr().out
    assert "Four modes" in told and "mu=0.5" in told and "pretrain_steps=300" in told


def test_a_run_prints_and_draws(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(td3_bst, "STEPS", 80)
    monkeypatch.setattr(td3_bst, "STARTS", 3)
    tiny = [
        f"--set={text}" for text in ("pretrain_steps=5", "behavior_hidden=8", "negative_samples=2")
    ]
    assert command.main(["toy", "--algo=td3_bst", f"--workdir={tmp_path}", *tiny]) == 0
    told = capsys.readouterr().out
    assert "certainty after 5 updates: centres" in told and "BC, no value" in told
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["config"]["pretrain_steps"] == 5
    assert list(results["morse"]) == ["5", "50"]
    assert len(results["morse"]["50"]["certainty"]["corners"]) == 4
    assert results["ends"]["BC, no value"]["in_a_mode"] == 0
    assert 0 <= results["morse"]["5"]["certainty_held_out"] <= 1
    assert (tmp_path / "landscape.png").read_bytes()[:4] == b"\x89PNG"
