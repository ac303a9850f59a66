"""Frames that are stored as PNG or JPEG, decoded by Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}  # Pillow's modes of 8-bit images, and their channels
OTHERS = {"1": "L", "LA": "RGBA", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}  # and what they become


def decoded(place: str, encoded: np.ndarray) -> np.ndarray:
    """Images [N] of bytes as frames uint8 [N, H, W, C].

    Raises:
      DataError: beginning with `place`, with the row that is no image or has another size than the
        first, or if Pillow is missing.
    """
    first = _frame(place, 0, encoded[0])
    size = first.nbytes * len(encoded)
    container.check_size(f"{place}, decoded,", size, size)
    frames = np.empty((len(encoded), *first.shape), np.uint8)
    for row, content in enumerate(encoded):
        frame = _frame(place, row, content)
        if frame.shape != first.shape:
            here, there = ("x".join(map(str, each.shape)) for each in (frame, first))
            raise DataError(
                f"{place} holds images of several sizes: {here} at row {row}, {there} before; "
                "resize them to one size"
            )
        frames[row] = frame
    return frames


def _frame(place: str, row: int, content: Any) -> np.ndarray:
    """One image [H, W, C]."""
    try:
        from PIL import Image
    except ImportError as fault:
        raise DataError(
            f"{place} holds PNG or JPEG images, which the package Pillow decodes: "
            "pip install pillow"
        ) from fault
    if not content:
        raise DataError(
            f"{place} holds no image at row {row}, perhaps the name of a file alone: store the "
            "images themselves in the table"
        )
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            mode = OTHERS.get(image.mode, image.mode)
            if mode not in CHANNELS:
                raise DataError(
                    f"{place} holds an image of the mode {mode} at row {row}: convert it to 8-bit "
                    "grey or colour"
                )
            pixels = np.asarray(image.convert(mode))
    except DataError:
        raise
    except Exception as fault:  # Pillow raises errors of any kind on a damaged image
        raise DataError(
            f"{place}: the image at row {row} cannot be decoded as PNG or JPEG, store it again: "
            + " ".join(str(fault).split())
        ) from fault
    return pixels.reshape(*pixels.shape[:2], CHANNELS[mode])
