"""Spaces of observations and actions: what is supported, and an observation as a vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl_prefs.errors import DataError

if TYPE_CHECKING:
    import gymnasium


def flatten(observation: Any, lead: int = 0) -> np.ndarray:
    """Flattens an observation to a vector, keeping the `lead` first axes of every leaf.

    The documented order: a mapping's entries by sorted key, a tuple's in their own order, each
    recursively, each array in C order. An evaluation environment uses `lead=0` for one observation,
    a dataset `lead=1` for a stack of them.
    """
    if isinstance(observation, Mapping):
        parts = [flatten(observation[key], lead) for key in sorted(observation)]
        return np.concatenate(parts, axis=-1)
    if isinstance(observation, tuple):
        return np.concatenate([flatten(part, lead) for part in observation], axis=-1)
    array = np.asarray(observation)
    return array.reshape(*array.shape[:lead], -1)


def bounds(space: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The bounds [A] of an action space, which must be a bounded box.

    Raises:
      DataError: for any other space.
    """
    import gymnasium

    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise DataError(
            f"{name}: the action space {space} is not a box with one axis; only continuous "
            "actions between finite bounds are supported"
        )
    return space.low, space.high


def check_observations(space: Any, name: str) -> None:
    """Refuses observation spaces that cannot be flattened to a vector of numbers.

    Raises:
      DataError: naming the part of the space that is at fault.
    """
    import gymnasium

    if isinstance(space, gymnasium.spaces.Dict):
        for key, part in space.items():
            check_observations(part, f"{name}/{key}")
    elif isinstance(space, gymnasium.spaces.Tuple):
        for index, part in enumerate(space):
            check_observations(part, f"{name}/{index}")
    elif not isinstance(space, gymnasium.spaces.Box):
        raise DataError(f"{name}: observations of the space {space} are not supported")
    elif len(space.shape) > 2 or space.dtype == np.uint8:
        raise DataError(f"{name}: observations are images ({space}), which are not supported")


def _extreme(space: Any, which: str) -> Any:
    import gymnasium

    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _extreme(part, which) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_extreme(part, which) for part in space)
    return getattr(space, which)


def flat(env: gymnasium.Env, name: str) -> gymnasium.Env:
    import gymnasium

    space = env.observation_space
    check_observations(space, name)
    bounds(env.action_space, name)

    def vector(observation: Any) -> np.ndarray:
        return flatten(observation).astype(np.float32)

    low, high = (vector(_extreme(space, which)) for which in ("low", "high"))
    box = gymnasium.spaces.Box(low, high, dtype=np.float32)

    flattened = gymnasium.wrappers.TransformObservation(env, vector, box)
    flattened.action_space = env.action_space  # some environments make it anew at every look
    return flattened
