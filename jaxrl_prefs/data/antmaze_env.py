"""The environment of `antmaze/...`: Gymnasium-Robotics' ant in a maze with a goal that is hidden.

Importing this module needs Gymnasium and registers it; making one needs Gymnasium-Robotics too.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from jaxrl_prefs.data.maze_env import Cell, Maze, centre

SCALE = 4.0  # metres a cell
GOAL_RADIUS = 0.5
START: Cell = (1, 1)
# Layout, start, goal and time limit of D4RL's antmaze-umaze.
UMAZE = Maze(
    env_id="jaxrl_prefs/AntMazeUMaze-v0",
    rows=("#####", "#   #", "### #", "#   #", "#####"),
    goal=(3, 1),
    horizon=700,
    cells=((1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)),
)


def place(cell: Cell) -> np.ndarray:
    """The position [2] of a cell's centre in metres."""
    return SCALE * centre(cell, UMAZE)


class AntMaze(gymnasium.Env):
    """A walking ant; reward 1 and the end of the episode within .5 m of one fixed goal.

    Observations [29]: positions [15] of the torso (metres, quaternion) and the joints (radians),
    then their velocities [14], as D4RL has them. The goal is not among them. Actions [8] are
    torques in [-1, 1]. Episodes start within a metre of the centre of `START`.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        """Makes the simulation; see Gymnasium for `render_mode`."""
        from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv

        self.render_mode = render_mode
        self._maze = AntMazeEnv(
            maze_map=UMAZE.walls,
            render_mode=render_mode,
            continuing_task=True,  # it must not end at a goal of its own
            include_cfrc_ext_in_observation=False,
        )
        self._goal = place(UMAZE.goal)
        self.action_space = self._maze.action_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode at `START`, or at `options["reset_cell"]`."""
        super().reset(seed=seed)
        cell = (options or {}).get("reset_cell", START)
        cells = {"reset_cell": np.array(cell), "goal_cell": np.array(UMAZE.goal)}
        seen, _ = self._maze.reset(seed=seed, options=cells)
        return np.concatenate([seen["achieved_goal"], seen["observation"]]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies torques [8] in [-1, 1] for a twentieth of a second."""
        # The ant alone: the maze around it only computes a reward and a goal that are not ours.
        observation, *_ = self._maze.ant_env.step(action)
        distance = math.hypot(observation[0] - self._goal[0], observation[1] - self._goal[1])
        reached = distance <= GOAL_RADIUS
        return observation, float(reached), reached, False, {}

    def render(self) -> Any:
        """As Gymnasium-Robotics' ant maze."""
        return self._maze.render()

    def close(self) -> None:
        """Frees the simulation."""
        self._maze.close()


if UMAZE.env_id not in gymnasium.registry:
    gymnasium.register(
        UMAZE.env_id,
        entry_point="jaxrl_prefs.data.antmaze_env:AntMaze",
        max_episode_steps=UMAZE.horizon,
    )
