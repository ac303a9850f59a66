"""Layouts of mazes, and the ways through them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

Cell = tuple[int, int]  # row and column
GOAL_RADIUS = 0.5  # metres


class Maze(NamedTuple):
    """A layout: rows of walls (#) and free cells, the one rewarded cell, and the time limit."""

    env_id: str
    rows: tuple[str, ...]
    goal: Cell
    horizon: int
    cells: tuple[Cell, ...]  # the free ones, in the order in which the data draws from them
    scale: float = 1.0  # metres a cell

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


# Layout, goal, time limit and size of D4RL's antmaze-umaze.
ANT_UMAZE = UMAZE._replace(
    env_id="jaxrl_prefs/AntMazeUMaze-v0", goal=(3, 1), horizon=700, scale=4.0
)


def centre(cell: Cell, maze: Maze) -> np.ndarray:
    """The position [2] of a cell's centre in metres; 0 is the middle of the maze."""
    row, column = cell
    x, y = column + 0.5 - len(maze.rows[0]) / 2, len(maze.rows) / 2 - row - 0.5
    return maze.scale * np.array([x, y])


def nearest(position: np.ndarray, maze: Maze) -> Cell:
    """The free cell whose centre is nearest to a position [2] in metres."""
    return min(maze.cells, key=lambda cell: float(np.linalg.norm(centre(cell, maze) - position)))


def way(start: Cell, goal: Cell, maze: Maze) -> list[Cell]:
    """The shortest way between two free cells, both included, by breadth-first search."""
    came: dict[Cell, Cell] = {start: start}
    queue = deque([start])
    while queue and goal not in came:
        row, column = cell = queue.popleft()
        for step in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if step in maze.cells and step not in came:
                came[step] = cell
                queue.append(step)
    path = [goal]
    while path[-1] != start:
        path.append(came[path[-1]])
    return path[::-1]
