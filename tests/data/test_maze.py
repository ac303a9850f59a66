from __future__ import annotations

from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import DataError, Recording, maze, maze_env, task


def quiet(what: str, done: int, of: int) -> None:
    """Shows no progress."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a small version of the dataset."""
    root = tmp_path_factory.mktemp("generated")
    maze.generate(root, quiet, episodes=12, reference_episodes=6)
    return root


@pytest.fixture
def recording(made: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    return data.load("maze2d/umaze-v0")


def test_cells_have_the_simulators_positions() -> None:
    env = gymnasium.make(maze_env.ENV_ID).unwrapped
    free = {
        (row, column)
        for row, line in enumerate(maze_env.U_MAZE)
        for column, wall in enumerate(line)
        if not wall
    }
    assert set(maze.CELLS) == free
    for cell in maze.CELLS:
        np.testing.assert_allclose(
            maze_env.centre(cell), env._maze.maze.cell_rowcol_to_xy(np.array(cell))
        )
    env.close()


def test_way_follows_the_u() -> None:
    assert maze.way((3, 1), (1, 1)) == list(maze.CELLS[::-1])
    assert maze.way((2, 3), (3, 2)) == [(2, 3), (3, 3), (3, 2)]
    assert maze.way((1, 2), (1, 2)) == [(1, 2)]


@pytest.mark.parametrize(("cell", "reward"), [((1, 1), 1.0), ((1, 2), 0.0), ((3, 1), 0.0)])
def test_the_reward_is_for_one_fixed_goal(cell: tuple[int, int], reward: float) -> None:
    env = gymnasium.make(maze_env.ENV_ID)
    observation, _ = env.reset(seed=0, options={"reset_cell": np.array(cell)})
    assert observation.shape == (4,)
    after, given, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
    near = np.linalg.norm(after[:2] - maze_env.centre((1, 1))) <= 0.5
    assert (given, float(near)) == (reward, reward)
    assert not terminated
    assert not truncated
    env.close()


def test_episodes_last_300_steps() -> None:
    env = task.named(maze_env.ENV_ID).make()
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(300)]
    assert ends == [(False, False)] * 299 + [(False, True)]
    env.close()


def test_recorded_rewards_and_observations_are_the_environments(recording: Recording) -> None:
    assert (recording.size, recording.observation.shape[1]) == (3600, 4)
    assert set(recording.lengths) == {300}
    assert not recording.terminal.any()
    assert recording.family == "maze2d"
    distance = np.linalg.norm(recording.next_observation[:, :2] - maze_env.centre((1, 1)), axis=1)
    np.testing.assert_array_equal(recording.reward, np.float32(distance <= 0.5))


def test_a_replay_in_the_evaluation_environment_gives_the_recorded_rows(
    recording: Recording,
) -> None:
    assert recording.task is not None
    env = recording.task.make()
    rng = np.random.default_rng(maze.SEED)
    act = maze.wander(rng)
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    for row in range(300):
        np.testing.assert_array_equal(observation, recording.observation[row])
        action = act(observation)
        np.testing.assert_array_equal(action, recording.action[row])
        observation, reward, *_ = env.step(action)
        assert reward == recording.reward[row]
    env.close()


def test_the_walk_visits_every_cell(recording: Recording) -> None:
    cells = {maze.nearest(position) for position in recording.observation[::20, :2]}
    assert cells == set(maze.CELLS)


def test_references(recording: Recording) -> None:
    assert recording.references is not None
    low, high = recording.references
    assert 0.0 <= low < 120.0
    assert 150.0 < high <= 300.0
    assert recording.score(recording.returns).mean() < 40.0


def test_minari_recovers_the_environment(recording: Recording) -> None:
    dataset = minari.load_dataset("maze2d/umaze-v0")
    env = dataset.recover_environment()
    assert env.unwrapped.spec.id == maze_env.ENV_ID
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4,)
    env.close()


def test_the_environment_is_known_by_its_id() -> None:
    assert task.named("jaxrl_prefs/Maze2dUMaze-v0").max_episode_steps == 300
    with pytest.raises(DataError):
        task.named("jaxrl_prefs/Maze2dUMaze-v9")


def test_the_forces_are_noisy() -> None:
    env = task.named(maze_env.ENV_ID).make()
    noisy, smooth = (
        np.abs(np.diff(maze.rollout(env, np.random.default_rng(0), 2, policy)[1], axis=1)).mean()
        for policy in (maze.wander, maze.straight)
    )
    env.close()
    assert noisy > 0.2 > 2 * smooth
