"""The records that all parts of the library share.

Axis alphabet, used in every shape comment:

    S seeds   N dataset rows   B batch   E ensemble members   K samples (candidates)
    T diffusion steps   O observation dimensions   A action dimensions

Order of axes: [S,] E, B, K, A. Rewards, discounts and values are [B], never [B, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array  # a typed key: jax.random.key(0)
Params = Any  # a pytree of arrays
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, count); count 0 where nothing was measured


class Net(NamedTuple):
    """A network as two pure functions: `init(key, *inputs) -> params`, `apply(params, *inputs)`."""

    init: Callable[..., Params]
    apply: Callable[..., Array]


class Box(NamedTuple):
    """The bounds of an action, one interval for each dimension."""

    low: np.ndarray  # [A]
    high: np.ndarray  # [A]

    @property
    def centre(self) -> np.ndarray:
        """The middle of each interval, [A]."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> np.ndarray:
        """Half the length of each interval, [A]."""
        return (self.high - self.low) / 2


class Transition(NamedTuple):
    """One batch of transitions; with N in place of B, a whole dataset.

    `discount` is gamma * (1 - terminal): losses never see a done flag. Where a row is several steps
    (data/multi_step.py) it is their product, and what is next follows the last one. `columns` holds
    what a column-filling phase computed per row: `columns[name]` for the row itself and
    `columns["next_" + name]` for its successor, gathered by the runner through `next_index`.
    """

    observation: Array  # [B, O]
    action: Array  # [B, A], in the action bounds of the Spec
    reward: Array  # [B]
    discount: Array  # [B]
    next_observation: Array  # [B, O]
    next_action: Array  # [B, A], zeros where has_next_action is 0
    has_next_action: Array  # [B], 1 where the episode goes on in the next row, else 0
    index: Array  # type: ignore[assignment]  # [B] int32, this row; hides tuple.index
    next_index: Array  # [B] int32, the successor's row; this row itself where there is none
    columns: dict[str, Array] = {}  # noqa: RUF012 - never mutated, replaced by `_replace`


class Spec(NamedTuple):
    """What a method is given of the data before training: sizes, bounds and moments.

    Moments are those of the arrays that the method is given, after every transform.
    """

    observation_dim: int
    action_dim: int
    size: int  # number of rows N
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]
    observation_mean: np.ndarray  # [O]
    observation_std: np.ndarray  # [O]
    action_mean: np.ndarray  # [A]
    action_std: np.ndarray  # [A]

    @property
    def action_box(self) -> Box:
        """The bounds of the actions."""
        return Box(self.action_low, self.action_high)

    @classmethod
    def of(cls, data: Transition, *, low: float = -1.0, high: float = 1.0) -> Spec:
        """Measures a Spec from a dataset of arrays; `low` and `high` bound every action."""
        observation, action = np.asarray(data.observation), np.asarray(data.action)
        return cls(
            observation_dim=observation.shape[-1],
            action_dim=action.shape[-1],
            size=observation.shape[0],
            action_low=np.full(action.shape[-1], low, np.float32),
            action_high=np.full(action.shape[-1], high, np.float32),
            observation_mean=observation.mean(0),
            observation_std=observation.std(0),
            action_mean=action.mean(0),
            action_std=action.std(0),
        )

    def example(self) -> Transition:
        """A batch of one row of zeros, for shapes."""
        row, index = np.zeros(1, np.float32), np.zeros(1, np.int32)
        observation = np.zeros((1, self.observation_dim), np.float32)
        action = np.zeros((1, self.action_dim), np.float32)
        rows: Any = (observation, action, row, row, observation, action, row, index, index)
        return Transition(*rows)
