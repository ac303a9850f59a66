"""Spaces of observations and actions: what is supported, and an observation as a vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import STATE

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
    elif len(space.shape) > 2 and not is_image(space):
        raise DataError(
            f"{name}: observations of the space {space} are neither vectors nor images, which are "
            "uint8 [height, width, channels]"
        )


def is_image(x: Any) -> bool:
    """Whether an array or a space is an image: uint8 [H, W, C], or grey [H, W]."""
    return len(x.shape) in (2, 3) and x.dtype == np.uint8


def images(observation: Any, camera: str = "image") -> dict[str, np.ndarray]:
    """The images of an observation by the names of their cameras; `camera` is that of a bare one.

    An image of a mapping has the mapping's key, those below it "key/key". Grey ones get an axis.
    """
    if isinstance(observation, Mapping):
        found: dict[str, np.ndarray] = {}
        for key in sorted(observation):
            below = images(observation[key], str(key))
            nested = isinstance(observation[key], Mapping)
            found |= {f"{key}/{name}" if nested else name: x for name, x in below.items()}
        return found
    if isinstance(observation, tuple) or not is_image(observation):
        return {}
    return {camera: observation if len(observation.shape) == 3 else observation[..., None]}


def without_images(observation: Any) -> Any:
    """What of an observation is no image; None if nothing is left."""
    if isinstance(observation, Mapping):
        rest = {key: without_images(part) for key, part in observation.items()}
        return {key: part for key, part in rest.items() if part is not None} or None
    return observation if isinstance(observation, tuple) or not is_image(observation) else None


def _extreme(space: Any, which: str) -> Any:
    import gymnasium

    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _extreme(part, which) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_extreme(part, which) for part in space)
    return getattr(space, which)


def _structured(observation: Any) -> Any:
    """An observation as a vector; with images, a dict of these and of the vector of the rest."""
    shown = images(observation)
    if not shown:
        return flatten(observation).astype(np.float32)
    rest = without_images(observation)
    return shown if rest is None else {**shown, STATE: flatten(rest).astype(np.float32)}


def flat(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """The environment with observations as vectors, or dicts of images and a vector."""
    import gymnasium

    space = env.observation_space
    check_observations(space, name)
    bounds(env.action_space, name)
    low, high = (_structured(_extreme(space, which)) for which in ("low", "high"))
    whole: Any
    if isinstance(low, dict):
        boxes: dict[str, gymnasium.Space] = {
            key: gymnasium.spaces.Box(least, high[key], dtype=least.dtype)
            for key, least in low.items()
        }
        whole = gymnasium.spaces.Dict(boxes)
    else:
        whole = gymnasium.spaces.Box(low, high, dtype=np.float32)

    flattened = gymnasium.wrappers.TransformObservation(env, _structured, whole)
    flattened.action_space = env.action_space  # some environments make it anew at every look
    return flattened
