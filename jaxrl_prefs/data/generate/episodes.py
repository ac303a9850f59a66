"""Episodes as they are played, before they are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import gymnasium

Act = Callable[[np.ndarray], np.ndarray]  # observation [O] -> action [A]


class Episode(NamedTuple):
    """T steps, one after the other."""

    observation: np.ndarray  # [T + 1, O] float32
    action: np.ndarray  # [T, A] float32
    reward: np.ndarray  # [T] float64
    terminal: bool  # it ended by itself; otherwise it was cut off


def play(env: gymnasium.Env, act: Act, seed: int) -> Episode:
    """Runs one episode to its end."""
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
    return episode(observations, actions, rewards, terminal=terminated)


def episode(
    observations: Sequence[np.ndarray],
    actions: Sequence[np.ndarray],
    rewards: Sequence[float],
    *,
    terminal: bool,
) -> Episode:
    """Stacks T + 1 observations, T actions and T rewards."""
    return Episode(
        np.asarray(observations, np.float32),
        np.asarray(actions, np.float32),
        np.asarray(rewards, np.float64),
        bool(terminal),
    )


def first(episodes: Sequence[Episode], steps: int) -> list[Episode]:
    """As many episodes as hold `steps` steps; the last is cut off where there are more."""
    kept: list[Episode] = []
    for each in episodes:
        if steps <= 0:
            break
        length = len(each.reward)
        if length > steps:
            each = Episode(
                each.observation[: steps + 1], each.action[:steps], each.reward[:steps], False
            )
        kept.append(each)
        steps -= length
    return kept
