"""dm_control's tasks: their ids, what they show, and their reward over repeated actions."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxrl_prefs.environments import dm_control_task, task, trust
from jaxrl_prefs.errors import DataError
from tests import dmc

WALKER = "jaxrl_prefs/DmControl-walker-walk-v0"
STATE = "jaxrl_prefs/DmControl-walker-walk-state-v0"


# --- Without dm_control ---------------------------------------------------------------------------


def test_ids_name_task_and_size() -> None:
    small = task.named("jaxrl_prefs/DmControl-walker-walk-64px-v0")
    assert small.max_episode_steps == 500
    assert small.spec().kwargs == {"task": "walker-walk", "size": 64}
    assert task.named(WALKER).spec().kwargs["size"] == 84
    cup = task.named("jaxrl_prefs/DmControl-ball_in_cup-catch-v0")
    assert cup.spec().kwargs["task"] == "ball_in_cup-catch"
    for wrong in ("walker", "walker-walk-0px", "walker-walk-px", "Walker-walk", "a-b-numbers"):
        with pytest.raises(DataError, match="unknown environment"):
            task.named(f"jaxrl_prefs/DmControl-{wrong}-v0")


def test_a_files_record_is_trusted_as_far_as_its_id() -> None:
    name = "jaxrl_prefs/DmControl-humanoid-walk-17px-v0"
    spec = task.named(name).spec_json
    gymnasium.registry.pop(name)  # as in a new process
    claim = trust.claim(spec, "env_spec", 0)
    assert claim.task is not None and claim.env_id == name
    other = spec.replace("dm_control_task:DmControlPixels", "other:Thing")
    assert "jaxrl_prefs.environments.other" not in str(trust.claim(other, "env_spec", 0).task)


def test_the_package_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "dm_control"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(DataError, match=r"dm_control is not installed .*pip install 'jaxrl_prefs"):
        task.named(WALKER).make()


def test_a_missing_renderer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    told = dm_control_task._undrawn(RuntimeError("no\ndriver"))
    assert told.startswith("dm_control cannot draw with MUJOCO_GL=egl (no driver): images need EGL")
    assert "\n" not in told


# --- With it --------------------------------------------------------------------------------------


@dmc.installed
def test_the_state_is_the_suites_own_with_actions_repeated() -> None:
    from dm_control import suite

    ours, theirs = task.named(STATE).bare(), suite.load("walker", "walk", {"random": 5})
    seen, _ = ours.reset(seed=5)
    now: Any = theirs.reset()
    inner: Any = ours.unwrapped
    rng = np.random.default_rng(0)
    for _ in range(30):
        shown = np.concatenate([np.ravel(each) for each in now.observation.values()])
        np.testing.assert_array_equal(seen[inner.physics_size :], shown)
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        seen, reward, *ends, _ = ours.step(action)
        rewards = []
        for _ in range(2):
            now = theirs.step(np.float64(action))
            rewards.append(now.reward)
        assert reward == pytest.approx(sum(rewards), abs=1e-9) and ends == [False, False]
    np.testing.assert_array_equal(ours.reset(seed=5)[0], ours.reset(seed=5)[0])
    assert not np.array_equal(ours.reset(seed=5)[0], ours.reset(seed=6)[0])
    ours.close()
    theirs.close()


@dmc.installed
def test_an_episode_has_500_steps_and_no_terminal() -> None:
    env = task.named(STATE).bare().unwrapped  # dm_control's own limit, without Gymnasium's
    env.reset(seed=0)
    action = np.zeros(6, np.float32)
    ends = [env.step(action)[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]
    env.close()


@dmc.installed
def test_images_are_what_the_camera_sees() -> None:
    dmc.require_drawing()
    small = task.named("jaxrl_prefs/DmControl-walker-walk-16px-v0")
    env: Any = small.bare("rgb_array")
    first, _ = env.reset(seed=1)
    assert env.observation_space.contains(first) and first.shape == (16, 16, 3)
    assert env.render().shape == (256, 256, 3)
    states = [env.unwrapped._env.physics.get_state()]
    frames = [first]
    for _ in range(3):
        frames.append(env.step(np.ones(6, np.float32))[0])
        states.append(env.unwrapped._env.physics.get_state())
    assert all(not np.array_equal(frames[0], each) for each in frames[1:])
    for frame, state in zip(frames, states, strict=True):
        np.testing.assert_array_equal(env.unwrapped.picture(16, state), frame)
    env.close()


@dmc.installed
def test_shadows_from_a_smaller_map_are_the_suites_own_but_for_a_few_pixels() -> None:
    dmc.require_drawing()
    from dm_control import suite

    ours: Any = task.named("jaxrl_prefs/DmControl-walker-walk-64px-v0").bare().unwrapped
    theirs = suite.load("walker", "walk", {"random": 5})
    theirs.reset()
    expected = theirs.physics.render(64, 64, camera_id=0).astype(int)
    found = ours.picture(64, theirs.physics.get_state()).astype(int)
    assert (np.abs(found - expected) > 8).mean() < 2e-3
    assert (np.abs(found - np.roll(expected, 1, 1)) > 8).mean() > 0.05  # as one pixel aside would
    ours.close()
    theirs.close()


@dmc.installed
def test_a_task_that_the_suite_lacks() -> None:
    with pytest.raises(DataError, match="no task walker-fly; it has acrobot-swingup"):
        task.named("jaxrl_prefs/DmControl-walker-fly-v0").make()
