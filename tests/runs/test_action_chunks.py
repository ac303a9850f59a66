"""Runs whose policies choose several actions at a time: trained, played, exported, estimated."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import export as export_command
from jaxrl_prefs.cli import play
from jaxrl_prefs.data import ActionChunk
from jaxrl_prefs.errors import ConfigError, LoadError
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.methods import td3_bc as td3_bc_method
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.runs.actor import OpenLoop
from jaxrl_prefs.runs.off_policy_evaluation import estimate
from tests.small_runs import SHORT, TINY, made_once

FIELDS: dict[str, Any] = {
    name: (int(value),) if name.endswith("hidden") else int(value) for name, value in SHORT.items()
}


@pytest.fixture(scope="module")
def td3_bc(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, jp.Run]:
    """{actions that are played of chunks of three: a run}."""
    place = tmp_path_factory.mktemp("chunks")
    with made_once(td3_bc_method, train_steps=4):
        return {
            replan: jp.train(
                "td3_bc",
                pendulum_file,
                env="Pendulum-v1",
                seeds=1,
                workdir=place / str(replan),
                action_chunk=3,
                replan=replan,
                n_step=2,
                **FIELDS,
            )
            for replan in (1, 3)
        }


@pytest.fixture
def states() -> np.ndarray:
    return np.float32(np.random.default_rng(0).normal(size=(5, 3)))


def test_sizes(td3_bc: dict[int, jp.Run]) -> None:
    for replan, run in td3_bc.items():
        assert run.spec.action_dim == 3 and run.spec.size == 5 * 37
        assert run.action_chunk == ActionChunk(3, replan)
    assert "to [1] actions, 3 at a time" in repr(td3_bc[3].policy(0))
    assert repr(td3_bc[1].policy(0)).endswith("to [1] actions")


def test_a_policy_plays_what_it_has_chosen(td3_bc: dict[int, jp.Run], states: np.ndarray) -> None:
    policy = td3_bc[3].policy(0)
    chosen = policy.plan(states)
    assert chosen.shape == (5, 3, 1)
    np.testing.assert_allclose(policy.plan(states[1]), chosen[1], rtol=1e-5)
    for place in range(3):  # only the first observation counts
        np.testing.assert_array_equal(policy(states + place), chosen[:, place])
    np.testing.assert_array_equal(policy(states), chosen[:, 0])
    with pytest.raises(ValueError, match=r"2 chosen actions are left.*\[5, 3\].*call reset"):
        policy(states[0])
    policy.reset()
    np.testing.assert_allclose(policy(states[0]), chosen[0, 0], rtol=1e-5)
    # Who looks before every action plays the first of each chunk.
    often = td3_bc[1].policy(0)
    assert often.plan(states).shape == (5, 1)
    np.testing.assert_array_equal(often(states), often.plan(states))
    np.testing.assert_array_equal(often(states), chosen[:, 0])  # the same training


@pytest.mark.parametrize("replan", [1, 3])
def test_every_way_to_play_gives_the_return_of_the_run(
    td3_bc: dict[int, jp.Run], replan: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = td3_bc[replan]
    (score,) = run.scores["actor"].values()
    loaded = jp.load_run(run.workdir)
    assert jp.evaluate(loaded, episodes=1).scores["actor"][0] == pytest.approx(score, rel=1e-5)
    assert play.main(["play", f"--run={run.workdir}"]) == 0
    assert f"return {score:.2f}" in capsys.readouterr().out
    names = ["policy.jaxexport"]
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401

        names.append("policy.onnx")
    for name in names:
        path = tmp_path / name
        assert export_command.main(["export", f"--run={run.workdir}", f"--out={path}"]) == 0
        policy = jp.load_policy(path)
        assert policy.actions_per_call == replan
        assert policy(np.zeros((4, 3))).shape == ((4, 3, 1) if replan == 3 else (4, 1))
        found = jp.evaluate(policy, env="Pendulum-v1", episodes=1)
        assert next(iter(found.scores.values()))[0] == pytest.approx(score, rel=1e-3)
    told = capsys.readouterr().out
    assert ("3 observations to the next 3 actions of 1 numbers" in told) == (replan == 3)


def test_a_run_goes_on(td3_bc: dict[int, jp.Run], pendulum_file: Path) -> None:
    """From its checkpoint, with one episode more."""
    run = td3_bc[3]
    again = jp.train(
        "td3_bc",
        pendulum_file,
        env="Pendulum-v1",
        seeds=1,
        workdir=run.workdir,
        action_chunk=3,
        n_step=2,
        replan=3,
        **FIELDS | {"eval_episodes": 2},
    )
    returns = jp.evaluate(again, episodes=2).returns["actor"][0]
    assert again.scores["actor"][0] == pytest.approx(returns.mean(), rel=1e-5)
    assert jp.evaluate(run, episodes=1).returns["actor"][0][0] == pytest.approx(returns[0])


def test_estimates(td3_bc: dict[int, jp.Run]) -> None:
    """On the run's own data, which its checksum tells."""
    loaded = [jp.load_run(run.workdir) for run in td3_bc.values()]  # type: ignore[arg-type]
    found = loaded[1].estimate(critics=2, hidden=(8,), updates=20, batch_size=16)
    assert np.isfinite(found.values[0].members).all()
    points = [run.at()._points[0] for run in loaded]
    with pytest.raises(ConfigError, match=r"after 1 action\(s\) and others after 3"):
        estimate(points)
    with pytest.raises(ConfigError, match=r"wis weighs single actions.*--estimator=fqe"):
        estimate(points[1:], estimator="wis")


def test_a_damaged_folder_is_named(td3_bc: dict[int, jp.Run], tmp_path: Path) -> None:
    content = (td3_bc[1].workdir / "config.json").read_text()  # type: ignore[operator]
    (tmp_path / "config.json").write_text(content.replace('"action_chunk": 3', '"action_chunk": 2'))
    with pytest.raises(LoadError, match="damaged: action_chunk=2 and replan=1 with 3 numbers"):
        jp.load_run(tmp_path)


def test_bdpo_needs_no_change(pendulum_file: Path, tmp_path: Path) -> None:
    known = overrides.field_types(bdpo.Config) | overrides.field_types(jp.RunConfig)
    fields = {name: overrides.parse(name, text, known[name]) for name, text in TINY.items()}
    place: dict[str, Any] = {"env": "Pendulum-v1", "seeds": 1, "workdir": tmp_path / "run"}
    run = jp.train("bdpo", pendulum_file, action_chunk=3, **place, **fields)
    for scores in run.scores.values():
        assert np.isfinite(list(scores.values())).all()
    chosen = run.policy(0).plan(np.zeros(3))
    assert chosen.shape == (3, 1)
    # The same training, of which every first action is played.
    content = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(content.replace('"replan": 0', '"replan": 1'))
    often = jp.load_run(tmp_path / "run")
    np.testing.assert_array_equal(often.policy(0).plan(np.zeros(3)), chosen[0])
    assert np.isfinite(jp.evaluate(often, episodes=1).returns["actor"][0]).all()


def test_actions_are_left_for_the_observations_that_they_were_chosen_for() -> None:
    asked: list[np.ndarray] = []

    def plan(observation: np.ndarray) -> np.ndarray:
        asked.append(observation)
        return observation[..., None, :1] + np.arange(2.0)[:, None]

    follow = OpenLoop(plan)
    assert [float(follow(np.float32([x]))[0]) for x in (0, 5, 7)] == [0, 1, 7]
    assert len(asked) == 2
    follow.reset()
    assert follow(np.zeros((3, 1))).shape == (3, 1)
