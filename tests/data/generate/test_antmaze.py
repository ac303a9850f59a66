from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data.generate import antmaze, gait
from jaxrl_prefs.data.generate.episodes import play
from jaxrl_prefs.environments import antmaze as antmaze_env
from jaxrl_prefs.environments import mazes, task

U = mazes.ANT_UMAZE
STANDING = np.zeros(29)
STANDING[[2, 3]] = 0.6, 1.0  # height, and the quaternion of no turn


def turned(angle: float) -> np.ndarray:
    """The representative ant, turned around the vertical."""
    observation = STANDING.copy()
    observation[3], observation[6] = np.cos(angle / 2), np.sin(angle / 2)
    return observation


@pytest.mark.parametrize("angle", [-3.0, -0.7, 0.0, 1.1])
def test_the_gait_knows_where_the_torso_points(angle: float) -> None:
    assert gait.heading(turned(angle)) == pytest.approx(angle)
    assert gait.uprightness(turned(angle)) == pytest.approx(1.0)
    # On its back: half a turn around x.
    assert gait.uprightness(np.eye(29)[4]) == pytest.approx(-1.0)


def test_a_turned_ant_is_told_to_walk_the_same_way() -> None:
    way, angle = np.array([0.6, 0.8]), 0.9
    cosine, sine = np.cos(angle), np.sin(angle)
    seen = np.array([cosine * way[0] + sine * way[1], cosine * way[1] - sine * way[0]])
    np.testing.assert_allclose(
        gait.torques(turned(angle), way, 0.3), gait.torques(STANDING, seen, 0.3)
    )


def test_opposite_legs_are_in_step_on_the_spot() -> None:
    torque = gait.torques(STANDING, np.zeros(2), 0.7).reshape(4, 2)  # legs 4, 1, 2, 3
    np.testing.assert_array_equal(torque[:, 0], 0)  # hips rest
    np.testing.assert_allclose(torque[0, 1], -torque[2, 1])  # 4 and 2: their ankles are mirrored
    np.testing.assert_allclose(torque[1, 1], -torque[3, 1])


@pytest.mark.parametrize(
    ("cell", "angle"), [((1, 2), 0.1), ((1, 2), 3.0), ((2, 3), 1.5), ((2, 3), -1.7)]
)
def test_the_ant_walks_the_way_it_is_told(cell: tuple[int, int], angle: float) -> None:
    env = antmaze_env.AntMaze()
    observation, _ = env.reset(seed=0, options={"reset_cell": cell})
    way, start = np.array([np.cos(angle), np.sin(angle)]), observation[:2]
    for step in range(30):  # 1.5 s, along the corridor
        phase = 2 * np.pi * gait.FREQUENCY * gait.STEP * step
        observation = env.step(gait.torques(observation, way, phase))[0]
    gone = observation[:2] - start
    env.close()
    assert gone @ way > 0.5
    assert gait.uprightness(observation) > 0.9


def test_the_controller_reaches_the_goal() -> None:
    env, rng = task.named(U.env_id).make(), np.random.default_rng(0)
    episode = play(env, antmaze.straight(rng), 0)
    env.close()
    assert episode.terminal
    assert episode.reward.sum() == episode.reward[-1] == 1
    distance = np.linalg.norm(episode.observation[:, :2] - mazes.centre(U.goal, U), axis=1)
    assert distance[-1] <= mazes.GOAL_RADIUS < distance[:-1].min()
    assert np.linalg.norm(episode.observation[0, :2] - mazes.centre(antmaze_env.START, U)) < 1.5


def test_cells_have_the_simulators_positions() -> None:
    env = antmaze_env.AntMaze()
    for cell in U.cells:
        there = env._maze.maze.cell_rowcol_to_xy(np.array(cell))
        np.testing.assert_allclose(mazes.centre(cell, U), there)
        assert mazes.nearest(mazes.centre(cell, U) + 1.0, U) == cell
    env.close()
    assert set(U.cells) == set(mazes.UMAZE.cells)
    assert len(mazes.way(antmaze_env.START, U.goal, U)) == len(U.cells)


def test_a_set_is_stored_as_it_was_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    antmaze.generate(tmp_path, lambda what, done, of: None, episodes=3, seed=1)
    recording = data.load(antmaze.DATASET_ID)
    assert (recording.family, recording.observation.shape[1]) == ("antmaze", 29)
    assert recording.task is not None
    assert recording.task.env_id == U.env_id
    env, rng = recording.task.make(), np.random.default_rng(1)
    played = [play(env, antmaze.wander(rng), int(rng.integers(2**31))) for _ in range(3)]
    env.close()
    assert recording.lengths.tolist() == [len(each.reward) for each in played]
    for name in ("action", "reward"):
        whole = np.concatenate([getattr(each, name) for each in played])
        np.testing.assert_array_equal(getattr(recording, name), np.float32(whole))
    ends = np.cumsum(recording.lengths) - 1
    assert recording.terminal[ends].tolist() == [each.terminal for each in played]
    assert recording.terminal.sum() == sum(each.terminal for each in played)
    np.testing.assert_array_equal(recording.returns, [each.reward.sum() for each in played])
