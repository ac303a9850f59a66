"""The folders of a sweep and of a comparison as a Run with several points."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import jax.export
import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import compare, export, sweep
from tests.small_runs import SHORT

RAW = np.random.default_rng(0).normal(size=(3, 3))
SETTINGS = [f"--set={name}={value}" for name, value in SHORT.items()]


@pytest.fixture(scope="module")
def swept(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two values of alpha, trained together, for two seeds."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    argv = ["sweep", "--algo=td3_bc", f"--dataset={pendulum_file}", "--env=Pendulum-v1"]
    argv += ["--grid=alpha=1,2.5", "--seeds=2", f"--workdir={folder}", *SETTINGS]
    assert sweep.main(argv) == 0
    return folder


@pytest.fixture(scope="module")
def one(pendulum_file: Path) -> jp.Run:
    """The point alpha = 2.5 by itself."""
    fields = {"actor_hidden": (8,), "critic_hidden": (8,), "eval_episodes": 1, "log_every": 2}
    data = jp.load_dataset(pendulum_file, env="Pendulum-v1")
    return jp.train("td3_bc", data, seeds=2, alpha=2.5, batch_size=16, train_steps=4, **fields)


def test_the_points_of_a_sweep(swept: Path, one: jp.Run) -> None:
    run = jp.load_run(swept)
    assert run.points == [{"alpha": 1.0}, {"alpha": 2.5}] and run.seeds == (0, 1)
    action = run.policy(seed=1, point={"alpha": 2.5})(RAW)
    np.testing.assert_allclose(action, one.policy(seed=1)(RAW), rtol=1e-3, atol=1e-3)
    other = run.policy(seed=1, point={"alpha": 1.0})(RAW)
    assert not np.allclose(action, other, atol=1e-3)
    alone = run.at({"alpha": 2.5})
    assert alone.config.alpha == 2.5 and alone.step == 4
    for seed, score in one.scores["actor"].items():
        assert alone.scores["actor"][seed] == pytest.approx(score, abs=0.1)
    result = json.loads((swept / "sweep.json").read_text())["points"]
    told = {float(point["settings"]["alpha"]): point["policies"] for point in result}
    assert list(alone.scores["actor"].values()) == told[2.5]["actor"]["scores"]
    assert alone.scores != run.at({"alpha": 1.0}).scores
    assert len(repr(run).splitlines()) <= 5 and "2 points" in repr(run)
    table = run.table()
    assert "alpha" in table and f"{told[1.0]['actor']['score_mean']:.1f}" in table
    assert "not evaluated" not in table


def test_the_folder_below_says_the_same(swept: Path) -> None:
    (config,) = swept.rglob("config.json")
    below = jp.load_run(config.parent)
    assert below.points == jp.load_run(swept).points
    action = below.policy(0, point={"alpha": 1})(RAW)  # 1 is 1.0
    np.testing.assert_array_equal(action, jp.load_run(swept).policy(0, point={"alpha": 1.0})(RAW))


def test_points_must_be_named(swept: Path) -> None:
    run = jp.load_run(swept)
    for ask in (lambda: run.policy(0), lambda: run.scores, lambda: run.config, run.at, run.plot):
        with pytest.raises(jp.LoadError, match=r"several such points; name one, .*'alpha': 1.0"):
            ask()
    with pytest.raises(jp.LoadError, match=r"no point .*3.*; the run has .*'alpha': 1.0"):
        run.at({"alpha": 3})
    with pytest.raises(jp.LoadError, match="no point"):
        run.at({"eta": 1.0})


def test_export_takes_a_point(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", f"--run={swept}", f"--out={tmp_path / 'policy'}"]
    assert export.main(argv) == 2
    assert "name one" in capsys.readouterr().err
    assert export.main([*argv, "--point=alpha=2.5"]) == 0
    whole = jax.export.deserialize(bytearray((tmp_path / "policy").read_bytes()))
    expected = jp.load_run(swept).policy(0, point={"alpha": 2.5})(RAW)
    got = whole.call(np.float32(RAW), np.uint32(0))
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-4, atol=1e-4)


def test_the_points_of_a_comparison(pendulum_file: Path, tmp_path: Path) -> None:
    path = _units(pendulum_file, tmp_path)
    argv = ["compare", "--algo=bc,td3_bc,td3_bc+alpha=1", f"--dataset={path}"]
    assert compare.main([*argv, "--seeds=1", f"--workdir={tmp_path / 'all'}", *SETTINGS]) == 0
    run = jp.load_run(tmp_path / "all")
    assert run.points == [
        {"method": "bc"},
        {"method": "td3_bc", "alpha": 2.5},
        {"method": "td3_bc", "alpha": 1.0},
    ]
    assert run.at({"method": "bc"}).algo == "bc"
    assert run.policy(0, point={"alpha": 1.0})(RAW).shape == (3, 1)


def _units(path: Path, folder: Path) -> Path:
    """The file with its actions in [-1, 1], which needs no environment to tell their units."""
    target = folder / "units.hdf5"
    with h5py.File(path) as source, h5py.File(target, "w") as file:
        for name in source:
            file[name] = source[name][()] / (2.0 if name == "actions" else 1.0)
    return target


def test_a_folder_without_runs(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(jp.LoadError, match="holds no run"):
        jp.load_run(tmp_path)
    with pytest.raises(jp.LoadError, match="is a file, not a folder"):
        jp.load_run(tmp_path / "letters")
    with pytest.raises(jp.LoadError, match="does not exist"):
        jp.load_run(tmp_path / "nowhere")
