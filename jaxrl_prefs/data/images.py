"""Images of a dataset as they were recorded, and stacked as methods see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import STATE, Frames

CHANNELS = (1, 3, 4)  # grey, colour, colour with depth


class Images(NamedTuple):
    """What one camera saw: every frame once, and which frame a row shows."""

    frames: np.ndarray  # [M, H, W, C] uint8; may be a memory map
    before: np.ndarray  # [N], the frame before each step
    after: np.ndarray  # [N], the frame after it; anything where there is none

    def kept(self, rows: np.ndarray) -> Images:
        """The rows `rows`, numbers or bool [N]; the frames stay where they are."""
        return self._replace(before=self.before[rows], after=self.after[rows])


def check(name: str, camera: str, images: Images, size: int) -> None:
    """Refuses what is no set of images.

    Raises:
        DataError: naming the camera and what is wrong: dtype, order of axes, range of the index.
    """
    frames = images.frames
    where = f"{name}: the images {camera!r}"
    if frames.ndim != 4:
        raise DataError(f"{where} have shape {frames.shape}, expected [frames, height, width, C]")
    if frames.dtype != np.uint8:
        raise DataError(
            f"{where} are {frames.dtype}, expected whole numbers of 0 to 255 as uint8"
            + (f"; here they lie in {frames.min():g} to {frames.max():g}" if frames.size else "")
        )
    if frames.shape[3] not in CHANNELS:
        first = frames.shape[1] in CHANNELS
        hint = "; channels come last: np.moveaxis(images, 1, -1)" if first else ""
        raise DataError(f"{where} have {frames.shape[3]} channels, expected 1, 3 or 4{hint}")
    for key, index in (("before", images.before), ("after", images.after)):
        if index.shape != (size,):
            raise DataError(f"{where}: {key} has shape {index.shape} for {size} steps")


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
        """
        if not isinstance(observation, Mapping):
            return observation
        for name, frame in observation.items():
            if name == STATE:
                continue
            past = self._past.get(name)
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
