"""The generated sets `maze2d/...`: a test of stitching, after the recipe of D4RL's maze2d.

A waypoint controller with noise wanders between random cells of a maze, while the reward is for
being near one fixed goal that the controller ignores (maze_env.py). To score, a policy must put
together pieces of different walks. About 100,000 steps each (D4RL's have a million or more; a
tenth keeps the generation under a minute). The scores are never put beside D4RL's maze2d rows:
simulator, start states and references differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxrl_prefs.data.generate.episodes import Act, Episode
from jaxrl_prefs.data.generate.store import Generated, save
from jaxrl_prefs.data.progress import Progress
from jaxrl_prefs.environments import task
from jaxrl_prefs.environments.mazes import MAZES, Cell, Maze, centre, nearest, way

if TYPE_CHECKING:
    import gymnasium

EPISODES = {"maze2d/umaze-v0": 334, "maze2d/medium-v0": 167, "maze2d/large-v0": 125}
REFERENCE_EPISODES = 100
SEED = 0

NOISE = 0.5  # standard deviation of the noise on every force
REACHED = 0.1  # how near a waypoint counts as reached


def walker(rng: np.random.Generator, maze: Maze, choose: Callable[[], Cell], noise: float) -> Act:
    """Walks to the cell that `choose` names, then to the next one, by waypoints and PD control."""
    waypoints: deque[np.ndarray] = deque()

    def act(observation: np.ndarray) -> np.ndarray:
        if not waypoints:
            path = way(nearest(observation[:2], maze), choose(), maze)
            waypoints.extend(centre(cell, maze) for cell in path)
        gap = waypoints[0] - observation[:2]
        if gap @ gap <= REACHED**2:
            waypoints.popleft()
        force = 10.0 * gap - observation[2:] + noise * rng.standard_normal(2)
        return force.clip(-1.0, 1.0).astype(np.float32)

    return act


def wander(rng: np.random.Generator, maze: Maze) -> Act:
    """The behaviour of the data: from random cell to random cell, with noise."""
    return walker(rng, maze, lambda: maze.cells[rng.integers(len(maze.cells))], NOISE)


def straight(rng: np.random.Generator, maze: Maze) -> Act:
    """The policy that scores 100: to the goal and no further, without noise."""
    return walker(rng, maze, lambda: maze.goal, 0.0)


def aimless(rng: np.random.Generator, maze: Maze) -> Act:
    """The policy that scores 0: uniformly random forces."""
    del maze
    return lambda observation: rng.uniform(-1.0, 1.0, 2).astype(np.float32)


def rollout(
    env: gymnasium.Env,
    rng: np.random.Generator,
    count: int,
    maze: Maze,
    policy: Callable[[np.random.Generator, Maze], Act],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs `count` episodes: observations [E, T+1, 4], actions [E, T, 2], rewards [E, T]."""
    observations, actions, rewards = [], [], []
    for episode in range(count):
        act = policy(rng, maze)
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        observations.append(observation)
        over = False
        while not over:
            action = act(observation)
            observation, reward, _, over, _ = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        progress(episode + 1)
    return (
        np.asarray(observations, np.float32).reshape(count, -1, 4),
        np.asarray(actions, np.float32).reshape(count, -1, 2),
        np.asarray(rewards, np.float64).reshape(count, -1),
    )


def generate(
    root: Path,
    progress: Progress,
    dataset_id: str = "maze2d/umaze-v0",
    *,
    episodes: int = 0,
    reference_episodes: int = REFERENCE_EPISODES,
    seed: int = SEED,
) -> Path:
    """Makes one of the datasets of EPISODES below `root`; the same seed gives the same data.

    Returns the folder with its `metadata.json`. `episodes` makes another number of them.
    """
    maze = MAZES[dataset_id.removeprefix("maze2d/").removesuffix("-v0")]
    where = task.named(maze.env_id)
    env = where.make()
    rng = np.random.default_rng(seed)
    episodes = episodes or EPISODES[dataset_id]
    total = episodes + 2 * reference_episodes

    def report(before: int) -> Callable[[int], None]:
        return lambda done: progress(f"simulating {dataset_id}", before + done, total)

    played = rollout(env, rng, episodes, maze, wander, report(0))
    low, high = (
        rollout(env, rng, reference_episodes, maze, policy, report(before))[2].sum(1).mean()
        for policy, before in ((aimless, episodes), (straight, episodes + reference_episodes))
    )
    env.close()
    generated = Generated(
        dataset_id=dataset_id,
        task=where,
        episodes=[Episode(*each, terminal=False) for each in zip(*played, strict=True)],
        references=(float(low), float(high)),
        algorithm="waypoints and PD control between random cells, noise .5",
        description=(
            "Generated by jaxrl_prefs. Score 0: uniformly random policy; score 100: the noise-free "
            f"controller straight to the goal; means of {reference_episodes} episodes each. Not "
            "comparable with D4RL's maze2d."
        ),
    )
    return save(generated, root, progress)
