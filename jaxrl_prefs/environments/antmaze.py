"""The environment of `antmaze/...`: Gymnasium-Robotics' ant in a maze with a goal that is hidden.

Importing this module needs Gymnasium and registers it; making one needs Gymnasium-Robotics too.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from jaxrl_prefs.environments.mazes import ANT_UMAZE, GOAL_RADIUS, Cell, centre

START: Cell = (1, 1)


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
            maze_map=ANT_UMAZE.walls,
            render_mode=render_mode,
            continuing_task=True,  # it must not end at a goal of its own
            include_cfrc_ext_in_observation=False,
        )
        self._goal = centre(ANT_UMAZE.goal, ANT_UMAZE)
        self.tmp_xml_file_path = self._maze.tmp_xml_file_path  # as it names its leftover
        self.action_space = self._maze.action_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode at `START`, or at `options["reset_cell"]`."""
        super().reset(seed=seed)
        cell = (options or {}).get("reset_cell", START)
        cells = {"reset_cell": np.array(cell), "goal_cell": np.array(ANT_UMAZE.goal)}
        seen, _ = self._maze.reset(seed=seed, options=cells)
        return np.concatenate([seen["achieved_goal"], seen["observation"]]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies torques [8] in [-1, 1] for a twentieth of a second."""
        # Only the ant is stepped: the maze around it computes a reward and a goal that are not
        # ours.
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


if ANT_UMAZE.env_id not in gymnasium.registry:
    gymnasium.register(
        ANT_UMAZE.env_id,
        entry_point="jaxrl_prefs.environments.antmaze:AntMaze",
        max_episode_steps=ANT_UMAZE.horizon,
    )
