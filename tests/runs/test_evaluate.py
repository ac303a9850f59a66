from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.environments.task import named
from jaxrl_prefs.runs import playback, prepare
from jaxrl_prefs.runs.evaluate import EVAL_SEED
from tests import playground

FIELDS = {"actor_hidden": (4,), "batch_size": 4, "train_steps": 2, "log_every": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> jp.Run:
    """Cloning in an environment whose episodes take 3, 4, 5, 5 steps; every action is 4 of 10."""
    playground.register()
    data = Dataset.from_arrays(
        np.random.default_rng(0).normal(size=(8, 2)),
        np.full((8, 1), 4.0),
        np.zeros(8),
        np.arange(8) == 7,
        action_low=0,
        action_high=10,
        env=playground.ENV_ID,
        references=(0.0, 50.0),
    )
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    return jp.train("bc", data, seeds=2, workdir=workdir, eval_episodes=4, **FIELDS)


def test_returns_that_are_known() -> None:
    playground.register()

    def always_four(observation: np.ndarray) -> np.ndarray:
        return np.full((len(observation), 1), 4.0)

    found = jp.evaluate(always_four, playground.ENV_ID, episodes=4, seed=8)
    assert found.lengths["always_four"][0].tolist() == [3, 4, 5, 5]
    assert found.returns["always_four"][0].tolist() == [12.0, 16.0, 20.0, 20.0]
    assert found.scores["always_four"][0] == 17.0
    assert repr(found) == f"Evaluation in {playground.ENV_ID}: always_four 17.0"


def test_it_plays_what_training_played(run: jp.Run) -> None:
    for trained in (run, jp.load_run(run.workdir)):  # the folder names the environment by its id
        found = jp.evaluate(trained, episodes=4)
        for seed, score in run.scores["actor"].items():
            assert found.scores["actor"][seed] == pytest.approx(score, rel=1e-5)
        one = jp.evaluate(trained.policy(1), episodes=4)
        assert one.scores == {"actor": {1: found.scores["actor"][1]}}


def test_success_rates_are_ogbenchs_scores(
    run: jp.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actions are 7 of 10 everywhere, so that the two episodes of an even start succeed."""
    monkeypatch.setattr(prepare, "OGBENCH", ("pytest",))  # as if its package were this one
    data = Dataset.from_arrays(
        np.stack([10_000 + np.arange(8) // 2, np.arange(8) % 5], 1),
        np.full((8, 1), 7.0),
        np.full(8, -50.0),
        np.arange(8) == 7,
        **{"action_low": 0, "action_high": 10, "env": playground.REACHING_ID, "name": "ogbench/x"},
    )
    more = {"train_steps": 300, "actor_learning_rate": 1e-2, "normalize_observations": True}
    more |= {"log_every": 300, "checkpoint_every": 300, "eval_episodes": 4}
    scored = jp.train("bc", data, seeds=1, workdir=tmp_path / "run", **FIELDS | more)
    row = json.loads((tmp_path / "run/evaluations.jsonl").read_text().splitlines()[-1])
    assert (row["successes"], row["score"]) == ([True, False, True, False], 50.0)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["score_kind"], result["score_mean"]) == ("success rate", 50.0)
    assert result["success_rates"] == result["policies"]["actor"]["success_rates"] == [50.0]
    assert result["data_score"] is None  # its return of -400 stands nowhere
    assert "pytest" in result["versions"]
    assert "pytest" not in json.loads((run.workdir / "result.json").read_text())["versions"]
    found = jp.evaluate(scored, episodes=4)
    assert found.scores == {"actor": {0: 50.0}} == scored.scores
    assert found.successes["actor"][0].tolist() == [True, False, True, False]
    elsewhere = jp.evaluate(scored, playground.ENV_ID, episodes=2)  # where nobody tells of success
    assert elsewhere.scores["actor"][0] == elsewhere.returns["actor"][0].mean()


def test_another_environment_has_no_references(run: jp.Run) -> None:
    found = jp.evaluate(run.policy(0), playground.Limited, episodes=2)
    assert found.scores["actor"][0] == found.returns["actor"][0].mean()
    with pytest.raises(jp.DataError, match="the policy cannot act in this environment"):
        jp.evaluate(run.policy(0), "Pendulum-v1", episodes=1)
    with pytest.raises(jp.DataError, match="names no environment: pass env="):
        jp.evaluate(lambda observation: observation)
    with pytest.raises(jp.DataError, match="episodes must be at least 1"):
        jp.evaluate(run, episodes=0)


def test_a_folder_names_no_module(run: jp.Run, tmp_path: Path) -> None:
    (point,) = run._points
    about = {**point.about, "data": {**point.about["data"], "env": "evil:Mine-v0"}}
    told = jp.Run([dataclasses.replace(point, about=about, task=None)], None)
    with pytest.raises(jp.DataError, match="names no environment"):
        jp.evaluate(told)


def test_what_remembers_is_reset_where_episodes_begin() -> None:
    """Side by side, and one after the other; images keep their type."""

    class Watcher:
        def __init__(self) -> None:
            self.begun, self.kinds = 0, set[tuple[Any, ...]]()

        def reset(self) -> None:
            self.begun += 1

        def __call__(self, observation: Any) -> np.ndarray:
            image = observation["image"]
            self.kinds.add((image.dtype, image.shape))
            return np.zeros((*image.shape[:-3], 1))

    pixels, watcher = "jaxrl_prefs/PendulumPixels-v0", Watcher()
    found = jp.evaluate(watcher, env=pixels, episodes=2)
    assert found.lengths["policy"][0].tolist() == [200, 200]
    assert (watcher.begun, watcher.kinds) == (1, {(np.dtype(np.uint8), (2, 32, 32, 1))})
    watcher.kinds.clear()
    totals = [each.total for each in playback.played(watcher, named(pixels), 2, EVAL_SEED)]
    assert (watcher.begun, watcher.kinds) == (3, {(np.dtype(np.uint8), (32, 32, 1))})
    assert totals == found.returns["policy"][0].tolist()
