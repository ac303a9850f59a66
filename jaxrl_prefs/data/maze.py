"""The generated set `maze2d/umaze-v0`: a test of stitching, after the recipe of D4RL's maze2d.

A waypoint controller with noise wanders between random cells of a U-shaped maze, while the reward
is for being near one fixed goal that the controller ignores (maze_env.py). To score, a policy must
put together pieces of different walks. 334 episodes of 300 steps (D4RL's has a million steps; a
tenth keeps the generation under half a minute). The scores are never put beside D4RL's maze2d rows:
simulator, start states and references differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxrl_prefs.data import task
from jaxrl_prefs.data.progress import Progress
from jaxrl_prefs.data.store import Generated, save

if TYPE_CHECKING:
    import gymnasium

DATASET_ID = "maze2d/umaze-v0"
EPISODES = 334
REFERENCE_EPISODES = 100
SEED = 0

NOISE = 0.5  # deviation of the noise on every force
REACHED = 0.1  # how near a waypoint counts as reached
CELLS = ((1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1))  # the free cells, along the U

Act = Callable[[np.ndarray], np.ndarray]  # observation [4] -> force [2]


def way(start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
    """The shortest way between two free cells, both included, by breadth-first search."""
    came: dict[tuple[int, int], tuple[int, int]] = {start: start}
    queue = deque([start])
    while queue and goal not in came:
        row, column = cell = queue.popleft()
        for step in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if step in CELLS and step not in came:
                came[step] = cell
                queue.append(step)
    path = [goal]
    while path[-1] != start:
        path.append(came[path[-1]])
    return path[::-1]


def nearest(position: np.ndarray) -> tuple[int, int]:
    """The free cell whose centre is nearest to a position [2]."""
    from jaxrl_prefs.data.maze_env import centre

    return min(CELLS, key=lambda cell: float(np.linalg.norm(centre(cell) - position)))


def walker(rng: np.random.Generator, choose: Callable[[], tuple[int, int]], noise: float) -> Act:
    """Walks to the cell that `choose` names, then to the next one, by waypoints and PD control."""
    from jaxrl_prefs.data.maze_env import centre

    waypoints: deque[np.ndarray] = deque()

    def act(observation: np.ndarray) -> np.ndarray:
        if not waypoints:
            waypoints.extend(centre(cell) for cell in way(nearest(observation[:2]), choose()))
        gap = waypoints[0] - observation[:2]
        if gap @ gap <= REACHED**2:
            waypoints.popleft()
        force = 10.0 * gap - observation[2:] + noise * rng.standard_normal(2)
        return force.clip(-1.0, 1.0).astype(np.float32)

    return act


def wander(rng: np.random.Generator) -> Act:
    """The behaviour of the data: from random cell to random cell, with noise."""
    return walker(rng, lambda: CELLS[rng.integers(len(CELLS))], NOISE)


def straight(rng: np.random.Generator) -> Act:
    """The policy that scores 100: to the goal and no further, without noise."""
    from jaxrl_prefs.data.maze_env import GOAL_CELL

    return walker(rng, lambda: GOAL_CELL, 0.0)


def aimless(rng: np.random.Generator) -> Act:
    """The policy that scores 0: uniformly random forces."""
    return lambda observation: rng.uniform(-1.0, 1.0, 2).astype(np.float32)


def rollout(
    env: gymnasium.Env,
    rng: np.random.Generator,
    count: int,
    policy: Callable[[np.random.Generator], Act],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs `count` episodes: observations [E, T+1, 4], actions [E, T, 2], rewards [E, T]."""
    observations, actions, rewards = [], [], []
    for episode in range(count):
        act = policy(rng)
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
    *,
    episodes: int = EPISODES,
    reference_episodes: int = REFERENCE_EPISODES,
    seed: int = SEED,
) -> Path:
    """Makes the dataset below `root`; the same seed gives the same data.

    Returns the folder with its `metadata.json`.
    """
    from jaxrl_prefs.data.maze_env import ENV_ID

    where = task.named(ENV_ID)
    env = where.make()
    rng = np.random.default_rng(seed)
    total = episodes + 2 * reference_episodes

    def report(before: int) -> Callable[[int], None]:
        return lambda done: progress(f"simulating {DATASET_ID}", before + done, total)

    observation, action, reward = rollout(env, rng, episodes, wander, report(0))
    low, high = (
        rollout(env, rng, reference_episodes, policy, report(before))[2].sum(1).mean()
        for policy, before in ((aimless, episodes), (straight, episodes + reference_episodes))
    )
    env.close()
    generated = Generated(
        dataset_id=DATASET_ID,
        task=where,
        observation=observation,
        action=action,
        reward=reward,
        references=(float(low), float(high)),
        algorithm="waypoints and PD control between random cells, noise .5",
        description=(
            "Generated by jaxrl_prefs. Score 0: uniformly random policy; score 100: the noise-free "
            f"controller straight to the goal; means of {reference_episodes} episodes each. Not "
            "comparable with D4RL's maze2d."
        ),
    )
    return save(generated, root, progress)
