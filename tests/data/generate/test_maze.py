from __future__ import annotations

import tempfile
from pathlib import Path

import minari
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.data.generate import maze
from jaxrl_prefs.environments import mazes, task
from jaxrl_prefs.errors import DataError

U = mazes.UMAZE


def quiet(what: str, done: int, of: int) -> None:
    """Shows no progress."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a small version of the dataset."""
    root = tmp_path_factory.mktemp("generated")
    maze.generate(root, quiet, episodes=12, reference_episodes=6)
    return root


@pytest.fixture
def recording(made: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    return data.load("maze2d/umaze-v0")


@pytest.mark.parametrize("name", mazes.MAZES)
def test_cells_have_the_simulators_positions(name: str) -> None:
    from gymnasium_robotics.envs.maze import maps

    layout = mazes.MAZES[name]
    assert layout.walls == getattr(maps, {"umaze": "U"}.get(name, name.upper()) + "_MAZE")
    env = task.named(layout.env_id).make().unwrapped
    free = {
        (row, column)
        for row, line in enumerate(layout.walls)
        for column, wall in enumerate(line)
        if not wall
    }
    assert set(layout.cells) == free
    assert layout.goal in free
    for cell in layout.cells:
        np.testing.assert_allclose(
            mazes.centre(cell, layout), env._maze.maze.cell_rowcol_to_xy(np.array(cell))
        )
    env.close()


def test_way_follows_the_u() -> None:
    assert mazes.way((3, 1), (1, 1), U) == list(U.cells[::-1])
    assert mazes.way((2, 3), (3, 2), U) == [(2, 3), (3, 3), (3, 2)]
    assert mazes.way((1, 2), (1, 2), U) == [(1, 2)]


def test_every_cell_leads_to_the_goal() -> None:
    for layout in mazes.MAZES.values():
        for cell in layout.cells:
            path = mazes.way(cell, layout.goal, layout)
            steps = np.abs(np.diff(np.array([cell, *path[1:]]), axis=0)).sum(1)
            assert (steps == 1).all()


@pytest.mark.parametrize("name", ["medium", "large"])
def test_the_controller_reaches_the_goal_of_the_other_mazes(name: str) -> None:
    layout = mazes.MAZES[name]
    where = task.named(layout.env_id)
    assert where.max_episode_steps == layout.horizon
    env = where.make()
    rewards = maze.rollout(env, np.random.default_rng(0), 2, layout, maze.straight)[2]
    env.close()
    assert rewards.shape == (2, layout.horizon)
    assert (rewards[:, -1] == 1).all()
    assert (rewards.sum(1) > layout.horizon / 4).all()


def test_another_maze_is_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    maze.generate(tmp_path, quiet, "maze2d/medium-v0", episodes=2, reference_episodes=1)
    recording = data.load("maze2d/medium-v0")
    assert recording.lengths.tolist() == [600, 600]
    assert recording.family == "maze2d"
    assert recording.task is not None
    assert recording.task.env_id == "jaxrl_prefs/Maze2dMedium-v0"


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for env_id in (U.env_id, mazes.ANT_UMAZE.env_id, "PointMaze_UMaze-v3"):
        env = task.named(env_id).make()
        env.reset(seed=0)
        env.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("cell", "reward"), [((1, 1), 1.0), ((1, 2), 0.0), ((3, 1), 0.0)])
def test_the_reward_is_for_one_fixed_goal(cell: tuple[int, int], reward: float) -> None:
    env = task.named(U.env_id).make()
    observation, _ = env.reset(seed=0, options={"reset_cell": np.array(cell)})
    assert observation.shape == (4,)
    after, given, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
    near = np.linalg.norm(after[:2] - mazes.centre((1, 1), U)) <= 0.5
    assert (given, float(near)) == (reward, reward)
    assert not terminated
    assert not truncated
    env.close()


def test_episodes_last_300_steps() -> None:
    env = task.named(U.env_id).make()
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(300)]
    assert ends == [(False, False)] * 299 + [(False, True)]
    env.close()


def test_recorded_rewards_and_observations_are_the_environments(recording: Dataset) -> None:
    assert (recording.size, recording.observation.shape[1]) == (3600, 4)
    assert set(recording.lengths) == {300}
    assert not recording.terminal.any()
    assert recording.family == "maze2d"
    distance = np.linalg.norm(recording.next_observation[:, :2] - mazes.centre((1, 1), U), axis=1)
    np.testing.assert_array_equal(recording.reward, np.float32(distance <= 0.5))


def test_a_replay_in_the_evaluation_environment_gives_the_recorded_rows(
    recording: Dataset,
) -> None:
    assert recording.task is not None
    env = recording.task.make()
    rng = np.random.default_rng(maze.SEED)
    act = maze.wander(rng, U)
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    for row in range(300):
        np.testing.assert_array_equal(observation, recording.observation[row])
        action = act(observation)
        np.testing.assert_array_equal(action, recording.action[row])
        observation, reward, *_ = env.step(action)
        assert reward == recording.reward[row]
    env.close()


def test_the_walk_visits_every_cell(recording: Dataset) -> None:
    cells = {mazes.nearest(position, U) for position in recording.observation[::20, :2]}
    assert cells == set(U.cells)


def test_references(recording: Dataset) -> None:
    assert recording.references is not None
    low, high = recording.references
    assert 0.0 <= low < 120.0
    assert 150.0 < high <= 300.0
    assert recording.score(recording.returns).mean() < 40.0


def test_minari_recovers_the_environment(recording: Dataset) -> None:
    dataset = minari.load_dataset("maze2d/umaze-v0")
    env = dataset.recover_environment()
    assert env.unwrapped.spec.id == U.env_id
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4,)
    env.close()


def test_the_environment_is_known_by_its_id() -> None:
    assert task.named("jaxrl_prefs/Maze2dUMaze-v0").max_episode_steps == 300
    with pytest.raises(DataError):
        task.named("jaxrl_prefs/Maze2dUMaze-v9")


def test_the_forces_are_noisy() -> None:
    env = task.named(U.env_id).make()
    noisy, smooth = (
        np.abs(np.diff(maze.rollout(env, np.random.default_rng(0), 2, U, policy)[1], axis=1)).mean()
        for policy in (maze.wander, maze.straight)
    )
    env.close()
    assert noisy > 0.2 > 2 * smooth
