"""The environments of `maze2d/...`: Gymnasium-Robotics' point mazes with a goal that is hidden.

Importing this module needs Gymnasium and registers them; making one needs Gymnasium-Robotics too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np

Cell = tuple[int, int]  # row and column
GOAL_RADIUS = 0.5


class Maze(NamedTuple):
    """A layout: rows of walls (#) and free cells, the one rewarded cell, and the time limit."""

    env_id: str
    rows: tuple[str, ...]
    goal: Cell
    horizon: int
    cells: tuple[Cell, ...]  # the free ones, in the order in which the data draws from them

    @property
    def walls(self) -> list[list[int]]:
        """The layout as Gymnasium-Robotics takes it: 1 for a wall."""
        return [[int(mark == "#") for mark in row] for row in self.rows]


def _maze(name: str, goal: Cell, horizon: int, *rows: str) -> Maze:
    free = [(i, j) for i, row in enumerate(rows) for j, mark in enumerate(row) if mark != "#"]
    return Maze(f"jaxrl_prefs/Maze2d{name}-v0", rows, goal, horizon, tuple(free))


# Layouts, goals and time limits of D4RL's maze2d.
UMAZE = _maze("UMaze", (1, 1), 300, "#####", "#   #", "### #", "#   #", "#####")._replace(
    cells=((1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1))  # along the U
)
MAZES = {
    "umaze": UMAZE,
    "medium": _maze(
        "Medium",
        (6, 6),
        600,
        *("########", "#  ##  #", "#  #   #", "##   ###"),
        *("#  #   #", "# #  # #", "#   #  #", "########"),
    ),
    "large": _maze(
        "Large",
        (7, 9),
        800,
        *("############", "#    #     #", "# ## # # # #"),
        *("#      #   #", "# #### ### #", "#  # #     #"),
        *("## # # # ###", "#  #   #   #", "############"),
    ),
}


def centre(cell: Cell, maze: Maze = UMAZE) -> np.ndarray:
    """The position [2] of a cell's centre; cells are 1 wide, and 0 is the middle of the maze."""
    row, column = cell
    return np.array([column + 0.5 - len(maze.rows[0]) / 2, len(maze.rows) / 2 - row - 0.5])


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


Maze2dUMaze = Maze2d  # as sets that were made earlier name it

for _name, _each in MAZES.items():
    if _each.env_id not in gymnasium.registry:
        gymnasium.register(
            _each.env_id,
            entry_point="jaxrl_prefs.data.maze_env:Maze2d",
            max_episode_steps=_each.horizon,
            kwargs={"maze": _name},
        )
