"""The environment of `maze2d/umaze-v0`: Gymnasium-Robotics' point maze with a goal that is hidden.

Importing this module needs Gymnasium and registers the environment; making it needs
Gymnasium-Robotics too.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

ENV_ID = "jaxrl_prefs/Maze2dUMaze-v0"
HORIZON = 300
GOAL_CELL = (1, 1)  # row and column of the only rewarded cell, one end of the U
GOAL_RADIUS = 0.5
U_MAZE = [
    [1, 1, 1, 1, 1],
    [1, 0, 0, 0, 1],
    [1, 1, 1, 0, 1],
    [1, 0, 0, 0, 1],
    [1, 1, 1, 1, 1],
]


def centre(cell: tuple[int, int]) -> np.ndarray:
    """The position [2] of a cell's centre; cells are 1 wide, and 0 is the middle of the maze."""
    row, column = cell
    return np.array([column + 0.5 - len(U_MAZE[0]) / 2, len(U_MAZE) / 2 - row - 0.5])


class Maze2dUMaze(gymnasium.Env):
    """A force-driven ball; reward 1 for every step that ends within .5 of one fixed goal.

    Observations [4]: position and velocity. The goal is not among them. Episodes start at a random
    cell and end by their time limit only.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        """Makes PointMaze_UMaze's simulation; see Gymnasium for `render_mode`."""
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

        self.render_mode = render_mode
        self._maze = PointMazeEnv(maze_map=U_MAZE, render_mode=render_mode, continuing_task=True)
        self._goal = centre(GOAL_CELL)
        self.action_space = self._maze.action_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode at a random cell, or at `options["reset_cell"]`."""
        super().reset(seed=seed)
        observation, _ = self._maze.reset(seed=seed, options=options)
        return observation["observation"], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies a force [2] in [-1, 1]."""
        # The ball alone: the maze around it only computes a reward and a goal that are not ours.
        observation, *_ = self._maze.point_env.step(action)
        distance = math.hypot(observation[0] - self._goal[0], observation[1] - self._goal[1])
        return observation, float(distance <= GOAL_RADIUS), False, False, {}

    def render(self) -> Any:
        """As Gymnasium-Robotics' point maze."""
        return self._maze.render()

    def close(self) -> None:
        """Frees the simulation."""
        self._maze.close()


if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        ENV_ID,
        entry_point="jaxrl_prefs.data.maze_env:Maze2dUMaze",
        max_episode_steps=HORIZON,
    )
