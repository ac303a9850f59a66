from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.data import Dataset
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
