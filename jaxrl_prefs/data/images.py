"""Images of a dataset as they were recorded, and stacked as methods see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import STATE, Frames

ALONE = "image"  # the camera where an observation is one image
CHANNELS = (1, 3, 4)  # grey, colour, colour with depth
ALIGNMENT = 64  # bytes, of arrays that JAX shares with a CPU's devices
BLOCK = 256  # frames that are compared at once


class Images(NamedTuple):
    """What one camera saw: every frame once, and which frame a row shows."""

    frames: np.ndarray  # [M, H, W, C] uint8; may be a memory map
    before: np.ndarray  # [N], the frame before each step
    after: np.ndarray  # [N], the frame after it; anything where there is none

    def kept(self, rows: np.ndarray) -> Images:
        """The rows `rows`, numbers or bool [N]; the frames stay where they are."""
        return self._replace(before=self.before[rows], after=self.after[rows])

    def aligned(self) -> Images:
        """With frames that begin where a CPU's device takes them without a copy; a map stays one.

        Where they do not begin there, they are copied now, and the copy of the device is saved.
        """
        if isinstance(self.frames, np.memmap) or self.frames.ctypes.data % ALIGNMENT == 0:
            return self
        frames = empty(self.frames.shape)
        frames[:] = self.frames
        return self._replace(frames=frames)


def empty(shape: Sequence[int]) -> np.ndarray:
    """Room for frames, uint8 of a shape, that `Images.aligned` need not copy."""
    size = math.prod(shape)
    room = np.empty(size + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room[begin : begin + size].reshape(shape)


def is_image(array: np.ndarray) -> bool:
    """Whether each row of an array is an image: [N, H, W, C] of any type, or grey uint8 [N, H, W].

    `check` refuses other types than uint8 by name.
    """
    return array.ndim == 4 or (array.ndim == 3 and array.dtype == np.uint8)


def with_channels(array: np.ndarray) -> np.ndarray:
    """Frames [M, H, W, C] of an array that `is_image`; the channel of grey images is added."""
    return array[..., None] if array.ndim == 3 else array


def shape_of(frames: np.ndarray) -> str:
    """The size of a frame, as messages have it: 84x84x3."""
    return "x".join(map(str, frames.shape[1:]))


def check(name: str, camera: str, images: Images, size: int) -> None:
    """Refuses what is no set of images.

    Raises:
        DataError: naming the camera and what is wrong: dtype, order of axes, range of the index.
    """
    frames = images.frames
    where = f"{name}: the images {camera!r}"
    if camera == STATE:
        raise DataError(f"{where}: {STATE!r} is the name of the vector, rename them")
    check_frames(where, frames)
    for key, index in (("before", images.before), ("after", images.after)):
        if index.shape != (size,):
            raise DataError(f"{where}: {key} has shape {index.shape} for {size} steps")
    if size and not 0 <= images.before.min() <= images.before.max() < len(frames):
        raise DataError(f"{where}: steps show frames that are not among the {len(frames)} there")


def check_frames(where: str, frames: np.ndarray) -> None:
    """Refuses frames that are not uint8 [M, H, W, C].

    Raises:
        DataError: beginning with `where`, with the remedy.
    """
    if frames.ndim != 4 or not all(frames.shape[1:]):
        raise DataError(f"{where} have shape {frames.shape}, expected [frames, height, width, C]")
    if frames.dtype != np.uint8:
        raise DataError(
            f"{where} are {frames.dtype}, expected whole numbers of 0 to 255 as uint8"
            + _converted(frames)
        )
    if frames.shape[3] not in CHANNELS:
        hint = ""
        if frames.shape[1] in CHANNELS:
            hint = "; channels come last: np.moveaxis(images, 1, -1)"
        elif frames.shape[3] % 3 == 0:
            hint = "; of frames that are stacked, store the newest: images[..., -3:]"
        raise DataError(f"{where} have {frames.shape[3]} channels, expected 1, 3 or 4{hint}")


def _converted(frames: np.ndarray) -> str:
    """How to make uint8 of other numbers."""
    if not frames.size or frames.dtype.kind not in "biuf":
        return ""
    low, high = float(frames.min()), float(frames.max())
    if not np.isfinite([low, high]).all():
        return "; here some are NaN or infinite: replace or drop them first"
    ways = "scale them to 0 to 255, then images.round().astype(np.uint8)"
    if low >= 0 and high <= 1:
        ways = "(images * 255).round().astype(np.uint8)"
    elif low >= 0 and high <= 255:
        ways = "images.round().astype(np.uint8)"
    return f"; here they lie in {low:g} to {high:g}: {ways}"


# --- From frames to the images of steps -----------------------------------------------------------


def in_order(frames: np.ndarray, last: np.ndarray) -> Images:
    """Frames of one before each step; after it is the next row's.

    Args:
        frames: [N, H, W, C].
        last: [N] bool, the episode ends here; the row's own frame stands in for the one after.
    """
    rows = np.arange(len(frames))
    return Images(frames, rows, np.where(last, rows, rows + 1))


def with_last(frames: np.ndarray, counts: np.ndarray) -> Images:
    """Frames of episodes laid end to end, each with one more than it has steps.

    Args:
        frames: [M, H, W, C].
        counts: [episodes], adding up to M; 0 of an episode without frames.
    """
    ends, full, rows = np.cumsum(counts), counts > 0, np.arange(len(frames))
    before = np.delete(rows, ends[full] - 1)
    return Images(frames, before, np.delete(rows, (ends - counts)[full]))


def paired(where: str, frames: np.ndarray, following: np.ndarray) -> Images:
    """Frames before and after each step, both [N, H, W, C], every frame kept once.

    A frame after a step is usually the next row's; only the others are added.

    Raises:
        DataError: beginning with `where`, if their shapes differ.
    """
    if frames.shape != following.shape:
        raise DataError(
            f"{where} have shape {frames.shape} before the steps, and {following.shape} after them"
        )
    count = len(frames)
    rows, same = np.arange(count), np.zeros(count, bool)
    for first in range(0, count - 1, BLOCK):
        part = slice(first, min(first + BLOCK, count - 1))
        equal = frames[part.start + 1 : part.stop + 1] == following[part]
        same[part] = equal.reshape(len(equal), -1).all(1)
    after = np.where(same, rows + 1, count + np.cumsum(~same) - 1)
    return Images(np.concatenate([frames, following[~same]]), rows, after)


def joined(places: Sequence[str], parts: Sequence[Mapping[str, Images]]) -> dict[str, Images]:
    """The images of several recordings, one after the other; `places` name them in messages.

    Raises:
        DataError: if some lack a camera, or frames have different sizes.
    """
    first = parts[0]
    for place, part in zip(places, parts, strict=True):
        if other := sorted({*part} ^ {*first}):
            lacking = places[0] if other[0] in part else place
            raise DataError(f"{lacking} has no images {other[0]!r}, which others have")
        for camera, each in part.items():
            if each.frames.shape[1:] != first[camera].frames.shape[1:]:
                here, there = shape_of(each.frames), shape_of(first[camera].frames)
                raise DataError(
                    f"{place}: the images {camera!r} are {here}, and {there} in {places[0]}: "
                    "resize them to one size"
                )
    return {camera: _end_to_end([part[camera] for part in parts]) for camera in first}


def _end_to_end(parts: Sequence[Images]) -> Images:
    if len(parts) == 1:
        return parts[0]
    begins = np.cumsum([0, *(len(part.frames) for part in parts[:-1])])
    moved = list(zip(begins.tolist(), parts, strict=True))
    return Images(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([begin + part.before for begin, part in moved]),
        np.concatenate([begin + part.after for begin, part in moved]),
    )


class FrameStack:
    """The last k frames of every camera, of episodes that are played."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.reset()

    def reset(self) -> None:
        """Forgets all frames: the next observation begins an episode."""
        self._past: dict[str, np.ndarray] = {}

    def push(self, observation: Any) -> Any:
        """An observation with its images [..., H, W, C] stacked to [..., H, W, k * C].

        Before an episode has k frames, its first one is repeated. A vector is returned as it is.

        Raises:
            ValueError: for another number of observations before `reset`.
        """
        if not isinstance(observation, Mapping):
            return observation
        for name, frame in observation.items():
            if name == STATE:
                continue
            past = self._past.get(name)
            if past is not None and past.shape[:-1] != frame.shape[:-1]:
                raise ValueError(
                    f"the frames of {name!r} that are remembered have shape {list(past.shape)}, "
                    f"and these {list(frame.shape)}: call reset() where an episode begins"
                )
            if past is None:
                self._past[name] = np.concatenate([frame] * self._count, axis=-1)
            else:
                channels = frame.shape[-1]
                self._past[name] = np.concatenate([past[..., channels:], frame], axis=-1)
        return {**observation, **self._past}


def stacked(
    images: Mapping[str, Images], continues: np.ndarray, count: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The images before and after every row, as `count` frames of its episode.

    Before an episode has so many frames, its first one is repeated.

    Args:
        images: by camera.
        continues: [N] bool, the next row is the next step of the same episode.
        count: k, frames that are stacked.
    """
    if not images:
        return {}, {}
    rows = np.arange(len(continues))
    begins = np.append(True, ~continues[:-1])
    first = np.maximum.accumulate(np.where(begins, rows, 0))
    past = [np.maximum(rows - back, first) for back in reversed(range(count))]  # k of [N]
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name, each in images.items():
        shown = [each.before[row] for row in past]
        before[name] = Frames(each.frames, np.stack(shown, 1).astype(np.int32))
        following = [*shown[1:], each.after]
        after[name] = Frames(None, np.stack(following, 1).astype(np.int32))
    return before, after
