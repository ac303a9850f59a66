"""OGBench's own environments, where its package is installed: what our names, sizes and scores say.

The rest is tested with a stand-in (tests/data/test_ogbench.py).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxrl_prefs.data.readers import ogbench as reader
from jaxrl_prefs.environments import ogbench_names, spaces, task
from jaxrl_prefs.environments.task import succeeded
from jaxrl_prefs.runs.suites import SUITES, Row

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ogbench") is None,
    reason="the package ogbench is not installed (the extra ogbench)",
)


@pytest.mark.parametrize("row", SUITES["ogbench50"], ids=lambda row: row.data)
def test_sizes_and_names_of_the_suite(row: Row) -> None:
    for name in row.datasets:
        where = task.named(name)
        assert where.by_success and 500 <= where.max_episode_steps <= 2000
    env = where.make()
    assert env.observation_space.shape == (row.observations,)
    assert env.action_space.shape == (row.actions,)
    low, high = spaces.bounds(env.action_space, row.data)
    assert (low == -1).all() and (high == 1).all()  # as the reader takes them without looking
    env.reset(seed=0)
    *_, info = env.step(np.zeros(row.actions, np.float32))
    env.close()
    assert succeeded(info) is False


@pytest.mark.parametrize("place", ["antmaze-large", "antsoccer-arena", "cube-single"])
def test_a_seed_decides_the_start(place: str) -> None:
    where = task.named(f"{place}-singletask-task1-v0")
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]  # noqa: NPY002
    seen = []
    for seed in (5, 5, 6):
        env = where.make()
        first = env.reset(seed=seed)[0]
        steps = [env.step(np.zeros(env.action_space.shape, np.float32))[0] for _ in range(3)]  # type: ignore[arg-type]
        seen.append(np.stack([first, *steps]))
        env.close()
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]  # noqa: NPY002


@pytest.mark.parametrize("place", ["cube-single", "puzzle-4x5", "puzzle-3x3", "antsoccer-arena"])
def test_the_default_task_is_the_numbered_one(place: str) -> None:
    env_id = f"{place}-singletask-v0"
    env = task.named(env_id).make()
    env.reset(seed=0)
    number = env.unwrapped.cur_task_id  # type: ignore[attr-defined]
    env.close()
    assert ogbench_names.numbered(env_id) == f"{place}-singletask-task{number}-v0"


def test_rewards_count_the_cubes_that_are_wrong() -> None:
    """Both cubes at their goals, one, none."""
    where = task.named("cube-double-singletask-task1-v0")
    env = where.make()
    env.reset(seed=0)
    goals = env.unwrapped._data.mocap_pos.copy()  # type: ignore[attr-defined]
    env.close()
    qpos = np.zeros((3, 28))
    for cube in range(2):
        place = slice(14 + 7 * cube, 17 + 7 * cube)
        qpos[:, place] = goals[cube]
        qpos[1 + cube :, place] += 1.0  # in rows 1 and 2, or in row 2 alone
    found = reader._relabelled(Path("made-up"), {"qpos": qpos}, where)
    assert found["rewards"].tolist() == [0, -1, -2]
    assert found["masks"].tolist() == [0, 1, 1]
