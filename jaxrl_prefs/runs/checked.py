"""What policies take, in a run and in a file: shapes, types and finite numbers, or a refusal."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl_prefs.types import STATE, ImageSpec

DRAWS = 2**32  # draw numbers are below it


def checked_observation(observation: Any, width: int) -> np.ndarray:
    """Observations as a policy takes them, float32 [O] or [B, O].

    Raises:
        ValueError: for another shape, and for numbers that are not finite: a policy would answer
            them with actions that mean nothing.
    """
    with np.errstate(over="ignore"):
        raw = np.asarray(observation, np.float32)
    if raw.ndim not in (1, 2) or raw.shape[-1] != width:
        raise ValueError(
            f"an observation has shape [{width}] or [batch, {width}], got {list(raw.shape)}"
        )
    if not np.isfinite(raw).all():
        row, column = np.argwhere(~np.isfinite(np.atleast_2d(raw)))[0]
        place = f"dimension {column}" + (f" of row {row}" if raw.ndim == 2 else "")
        raise ValueError(f"the observation has a NaN or an infinity in {place}; no action is given")
    return raw


def checked_images(
    observation: Any, images: Sequence[ImageSpec], width: int, stack: int
) -> dict[str, np.ndarray]:
    """Observations with images as a policy takes them: uint8 [H, W, C] or [B, H, W, C] by camera.

    The vector beside them, "state", is as `checked_observation` takes it.

    Args:
        observation: a dict of single frames, the newest.
        images: of the observation, their frames stacked.
        width: of the vector; 0 if there is none.
        stack: frames that the policy sees at once; it remembers the earlier ones.

    Raises:
        ValueError: for a missing camera, another shape, images that are not uint8, and parts of
            different batches.
    """
    names = [each.name for each in images] + [STATE] * (width > 0)
    if not isinstance(observation, Mapping) or set(observation) != set(names):
        got = (
            sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
        )
        raise ValueError(f"an observation is a dict with {', '.join(names)}, got {got}")
    found = {each.name: _image(observation[each.name], each, stack) for each in images}
    if width:
        found[STATE] = checked_observation(observation[STATE], width)
    leads = {name: list(lead(name, value)) for name, value in found.items()}
    if any(each != leads[names[0]] for each in leads.values()):
        raise ValueError(f"the parts of an observation have different batches: {leads}")
    return found


def _image(value: Any, each: ImageSpec, stack: int) -> np.ndarray:
    image = np.asarray(value)
    shape = (each.height, each.width, each.channels // stack)
    if image.shape[-3:] != shape or image.ndim not in (3, 4) or image.dtype != np.uint8:
        raise ValueError(
            f"an image {each.name!r} is uint8 of shape {list(shape)} or [batch, "
            f"{', '.join(map(str, shape))}], got {image.dtype} of {list(image.shape)}"
        )
    return image


def lead(name: str, value: Any) -> tuple[int, ...]:
    """The axes before an image's or the vector's own: () of one observation, (B,) of a batch."""
    return np.shape(value)[: -1 if name == STATE else -3]


def batch_of(observation: Any) -> tuple[int, ...]:
    """() of one checked observation, (B,) of a batch."""
    if not isinstance(observation, Mapping):
        return np.shape(observation)[:-1]
    return lead(*next(iter(observation.items())))


def as_batch(observation: Any) -> Any:
    """A checked observation as a batch of one, and a batch as it is."""
    if batch_of(observation):
        return observation
    if not isinstance(observation, Mapping):
        return observation[None]
    return {name: value[None] for name, value in observation.items()}


def checked_draw(draw: Any) -> np.ndarray:
    """The number of a draw as a policy takes it, uint32 [].

    Raises:
        ValueError: for anything but a whole number from 0 to 4294967295.
    """
    try:
        number = operator.index(draw)
    except TypeError:
        number = -1
    if not 0 <= number < DRAWS:
        raise ValueError(f"a draw is a whole number from 0 to {DRAWS - 1}, got {draw!r}")
    return np.asarray(number, np.uint32)
