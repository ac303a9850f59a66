from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest

from jaxrl_prefs.environments import task
from jaxrl_prefs.environments.spaces import flatten
from jaxrl_prefs.errors import DataError


def test_dict_observations_are_flattened_as_in_the_data() -> None:
    where = task.named("PointMaze_UMaze-v3")
    env, raw = where.make(), gymnasium.make("PointMaze_UMaze-v3")
    ours, theirs = env.reset(seed=3)[0], raw.reset(seed=3)[0]
    assert list(theirs) != sorted(theirs)  # else the order would not be put to the test
    np.testing.assert_array_equal(
        ours,
        np.float32([*theirs["achieved_goal"], *theirs["desired_goal"], *theirs["observation"]]),
    )
    assert (ours.dtype, ours.shape) == (np.float32, env.observation_space.shape)
    stack = {key: value[None] for key, value in theirs.items()}
    np.testing.assert_array_equal(ours, np.float32(flatten(stack, lead=1)[0]))
    env.close()
    raw.close()


def test_the_time_limit_is_the_tasks() -> None:
    assert task.named("Pendulum-v1").max_episode_steps == 200
    env = task.named("Pendulum-v1")._replace(max_episode_steps=3).make()
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(3)] == [False, False, True]


def test_an_environment_without_a_limit_takes_the_longest_episode() -> None:
    spec = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {"max_episode_steps": None}
    assert task.recorded(json.dumps(spec), 41).max_episode_steps == 41
    with pytest.raises(DataError, match="Pendulum-v1 has no time limit"):
        task.recorded(json.dumps(spec), 0)


def test_specs_of_other_gymnasium_versions() -> None:
    spec = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    del spec["additional_wrappers"], spec["vector_entry_point"]
    spec |= {"autoreset": False, "apply_api_compatibility": False}
    env = task.recorded(json.dumps(spec), 0).make()
    assert env.observation_space.shape == (3,)


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(DataError, match="unknown environment 'Nowhere-v0'"):
        task.named("Nowhere-v0")


def test_a_missing_simulator_is_one_line() -> None:
    spec = json.dumps({"id": "Far-v0", "entry_point": "far_away:Env", "max_episode_steps": 5})
    with pytest.raises(DataError, match=r"cannot make the environment Far-v0: .*far_away"):
        task.recorded(spec, 0).make()


def test_a_missing_package_is_named_with_the_ways_out() -> None:
    spec = json.dumps({"id": "Far-v0", "entry_point": "far_away:Env", "max_episode_steps": 5})
    way = r"\(the package far_away is not installed\).*--env=ID.*--env=none"
    with pytest.raises(DataError, match=way):
        task.recorded(spec, 0).make()


def test_no_window_is_opened() -> None:
    spec = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {
        "kwargs": {"render_mode": "human"}
    }
    env = task.recorded(json.dumps(spec), 0).make()
    assert env.render_mode is None
    env.reset(seed=0)
    env.close()


@pytest.mark.parametrize("reward", [1.5, np.float32(1.5), np.array(1.5), np.array([[1.5]])])
def test_a_reward_is_a_number(reward: object) -> None:
    assert task.number(reward) == 1.5


@pytest.mark.parametrize("reward", [None, "1", np.zeros(2), np.zeros(0)])
def test_other_rewards_are_refused(reward: object) -> None:
    with pytest.raises(DataError, match="is no number"):
        task.number(reward)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(DataError, match=r"CartPole-v1: .*Discrete.* not a box"):
        task.named("CartPole-v1").make()


SIZES = {  # the sets' environments: observations and actions, dictionaries laid end to end
    **{"Hopper-v4": (11, 3), "HalfCheetah-v5": (17, 6), "Walker2d-v5": (17, 6)},
    **{"Ant-v4": (27, 8), "Ant-v5": (105, 8), "PointMaze_Large-v3": (8, 2)},
    **{"AntMaze_UMaze-v5": (109, 8), "AntMaze_Medium-v4": (31, 8)},
    **{"AdroitHandPen-v1": (45, 24), "AdroitHandDoor-v1": (39, 28)},
    **{"AdroitHandHammer-v1": (46, 26), "AdroitHandRelocate-v1": (39, 30)},
    "FrankaKitchen-v1": (93, 9),  # not with a MuJoCo from 3.13 on
}


@pytest.mark.parametrize("env_id", SIZES)
def test_the_papers_environments_are_played(env_id: str) -> None:
    env = task.named(env_id).make()
    observation, _ = env.reset(seed=0)
    after, reward, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
    env.close()
    for seen in (observation, after):
        assert (seen.shape, seen.dtype) == ((SIZES[env_id][0],), np.float32)
        assert np.isfinite(seen).all()
    assert env.action_space.shape == (SIZES[env_id][1],)
    assert np.isfinite(reward)
