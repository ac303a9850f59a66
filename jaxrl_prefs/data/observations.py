"""Observations as programs hand them over: a vector, an image, or a dict of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import images
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import is_mapped


class Observed(NamedTuple):
    """N observations."""

    vector: np.ndarray  # [N, O]; as it was given where there are no dicts and no images
    frames: dict[str, np.ndarray]  # [N, H, W, C] by camera

    @property
    def rows(self) -> int:
        """N; of a single value 0."""
        return len(self.vector) if self.vector.ndim else 0


def parted(place: str, observation: Any) -> Observed:
    """The images of observations, and all other numbers as a vector, as `spaces.flatten` orders it.

    An array with three axes in a row is an image, and so is uint8 with two (grey). Of nested
    dicts, a camera is called by its path: `wrist/rgb`.

    Raises:
      DataError: beginning with `place`, if arrays differ in length.
    """
    if not isinstance(observation, Mapping):
        mapped = is_mapped(observation)
        array: Any = observation if mapped else np.asarray(observation)
        if not images.is_image(array):
            return Observed(array, {})
        return Observed(nothing(len(array)), {images.ALONE: images.with_channels(array)})
    leaves = dict(_leaves(observation))
    for key, array in leaves.items():
        if not array.ndim:
            raise DataError(f"{place}: {key} is a single value, expected one per row")
    counts = {key: len(array) for key, array in leaves.items()}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{key} {count}" for key, count in counts.items()) or "none"
        raise DataError(f"{place}: arrays of different lengths: {found}")
    count = next(iter(counts.values()))
    frames = {key: images.with_channels(x) for key, x in leaves.items() if images.is_image(x)}
    flat = [_flat(array) for key, array in leaves.items() if key not in frames]
    return Observed(np.concatenate(flat, axis=1) if flat else nothing(count), frames)


def nothing(count: int) -> np.ndarray:
    """The vectors [N, 0] of observations that are images alone."""
    return np.zeros((count, 0), np.float32)


def _leaves(observation: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key in sorted(observation):
        value = observation[key]
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", np.asarray(value)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), math.prod(array.shape[1:]))


def of_steps(name: str, seen: Observed, last: np.ndarray) -> dict[str, Images]:
    """The images of N steps; the frame after a step is the next row's.

    Args:
      name: of the dataset, for messages.
      seen: what was seen before each step.
      last: [N] bool, the episode ends here.

    Raises:
      DataError: if there are more or fewer frames than steps.
    """
    for camera, frames in seen.frames.items():
        if len(frames) != len(last):
            raise DataError(
                f"{name}: the images {camera!r} are {len(frames)} frames for {len(last)} steps"
            )
    return {camera: images.in_order(frames, last) for camera, frames in seen.frames.items()}


def of_pairs(name: str, seen: Observed, following: Observed, count: int) -> dict[str, Images]:
    """The images of N steps, where what followed each of them was recorded too.

    Raises:
      DataError: if only one of the two has a camera, or the number of frames is not `count`.
    """
    if other := sorted({*seen.frames} ^ {*following.frames}):
        lacking = "next observations" if other[0] in seen.frames else "observations"
        raise DataError(f"{name}: the {lacking} lack the images {other[0]!r}")
    found = {}
    for camera, frames in seen.frames.items():
        where = f"{name}: the images {camera!r}"
        if len(frames) != count:
            raise DataError(f"{where} are {len(frames)} frames for {count} steps")
        found[camera] = images.paired(where, frames, following.frames[camera])
    return found
