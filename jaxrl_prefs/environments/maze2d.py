"""The environments of `maze2d/...`: Gymnasium-Robotics' point mazes with a goal that is hidden.

Importing this module needs Gymnasium and registers them; making one needs Gymnasium-Robotics too.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from jaxrl_prefs.environments.mazes import GOAL_RADIUS, MAZES, centre


class Maze2d(gymnasium.Env):
    """A force-driven ball; reward 1 for every step that ends within .5 of one fixed goal.

    Observations [4]: position and velocity. The goal is not among them. Episodes start at a random
    cell and end by their time limit only.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, maze: str = "umaze") -> None:
        """Makes the simulation of one of `MAZES`; see Gymnasium for `render_mode`."""
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

        self.render_mode = render_mode
        self._maze = PointMazeEnv(
            maze_map=MAZES[maze].walls, render_mode=render_mode, continuing_task=True
        )
        self._goal = centre(MAZES[maze].goal, MAZES[maze])
        self.tmp_xml_file_path = self._maze.tmp_xml_file_path  # as it names its leftover
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
        # Only the ball is stepped: the maze around it computes a reward and a goal that are not
        # ours.
        observation, *_ = self._maze.point_env.step(action)
        distance = math.hypot(observation[0] - self._goal[0], observation[1] - self._goal[1])
        return observation, float(distance <= GOAL_RADIUS), False, False, {}

    def render(self) -> Any:
        """As Gymnasium-Robotics' point maze."""
        return self._maze.render()

    def close(self) -> None:
        """Frees the simulation."""
        self._maze.close()


for _name, _each in MAZES.items():
    if _each.env_id not in gymnasium.registry:
        gymnasium.register(
            _each.env_id,
            entry_point="jaxrl_prefs.environments.maze2d:Maze2d",
            max_episode_steps=_each.horizon,
            kwargs={"maze": _name},
        )
