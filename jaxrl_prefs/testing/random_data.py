"""Random rows to try a method on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.types import STATE, Frames, ImageSpec, Spec, Transition

DISCOUNT = 0.9


def transitions(
    observation: np.ndarray, action: np.ndarray, reward: np.ndarray, discount: np.ndarray
) -> Transition:
    """Strings rows [N, ...] together: row i + 1 follows row i wherever the discount is above 0."""
    size = len(reward)
    goes_on = (discount > 0) & (np.arange(size) < size - 1)
    follower = np.where(goes_on, np.arange(size) + 1, np.arange(size)).astype(np.int32)
    rows: dict[str, Any] = dict(
        observation=observation.astype(np.float32),
        action=action.astype(np.float32),
        reward=reward.astype(np.float32),
        discount=discount.astype(np.float32),
        next_observation=observation[follower].astype(np.float32),
        next_action=(action[follower] * goes_on[:, None]).astype(np.float32),
        has_next_action=goes_on.astype(np.float32),
        index=np.arange(size, dtype=np.int32),
        next_index=follower,
    )
    return Transition(**rows)


def episodes(size: int, length: int, observation_dim: int, action_dim: int) -> Transition:
    """Random rows in episodes of `length` steps that end in a terminal state; discount .9.

    Actions lie in [-1, 1].
    """
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(size, observation_dim))
    action = np.clip(rng.normal(size=(size, action_dim)), -0.99, 0.99)
    reward = observation[:, 0] - (action**2).sum(-1)
    goes_on = np.arange(size) % length < length - 1
    return transitions(observation, action, reward, DISCOUNT * goes_on)


def fitted_data(data: Transition, gamma: float) -> tuple[fqe.Data, fqe.Units]:
    """Rows as fitted Q evaluation takes them; an episode ends where no next action follows."""
    goes_on = np.asarray(data.has_next_action)
    episode = np.cumsum(np.append(0, goes_on[:-1] == 0)).astype(np.int32)
    reward, discount = np.asarray(data.reward), np.asarray(data.discount)
    unit = fqe.units(reward, fqe.to_go(reward.astype(float), discount, goes_on), gamma)
    rows = fqe.Data(
        observation=np.asarray(data.observation),
        action=np.asarray(data.action),
        reward=fqe.scaled_reward(reward, discount, unit),
        discount=discount,
        next_observation=np.asarray(data.next_observation),
        episode=episode,
        first=np.flatnonzero(np.diff(episode, prepend=-1)).astype(np.int32),
    )
    return rows, unit


def random_data(spec: Spec | None) -> tuple[Transition, Spec]:
    """24 rows with the sizes and the action bounds of `spec`, and their Spec."""
    if spec is None:
        data = episodes(size=24, length=6, observation_dim=3, action_dim=2)
        return data, Spec.of(data)
    data = episodes(24, 6, spec.observation_dim, spec.action_dim)
    low, high = spec.action_low, spec.action_high

    def scaled(action: Any) -> Any:
        return np.asarray((low + high) / 2 + action * (high - low) / 2, np.float32)

    has_next = np.asarray(data.has_next_action)[:, None]
    data = data._replace(
        action=scaled(data.action), next_action=scaled(data.next_action) * has_next
    )
    data = _with_images(data, spec.images)
    return data, Spec.of(data)._replace(action_low=low, action_high=high)


def _with_images(data: Transition, images: Sequence[ImageSpec]) -> Transition:
    """The rows with a random frame of each camera beside the vector."""
    if not images:
        return data
    rng, rows = np.random.default_rng(1), np.arange(len(data.reward), dtype=np.int32)[:, None]
    frames = {x.name: rng.integers(0, 256, (len(rows), *x.shape), np.uint8) for x in images}
    after = np.asarray(data.next_index)[:, None]
    before: dict[str, Any] = {name: Frames(x, rows) for name, x in frames.items()}
    following: dict[str, Any] = {name: Frames(None, after) for name in frames}
    if data.observation.shape[1]:
        before[STATE], following[STATE] = data.observation, data.next_observation
    shown: dict[str, Any] = {"observation": before, "next_observation": following}
    return data._replace(**shown)
