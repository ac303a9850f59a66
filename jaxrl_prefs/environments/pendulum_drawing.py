"""Grey pictures of a pendulum: a white rod on black, its pivot in the middle.

Angle 0 points up, and positive angles lean left, as where Gymnasium draws Pendulum-v1. The angular
speed is not drawn: it is the turn between two pictures over the time between them.

The rod is drawn once for each of `ANGLES` directions, and a picture is the nearest of these. A
lookup gives the same bytes in NumPy and JAX, on every device. A rasteriser run anew would not: the
last digit of a cosine is enough to change a grey level.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.types import Array

SIZE = 32  # pixels of a side
ANGLES = 4096  # directions; the tip of the rod moves a fiftieth of a pixel from one to the next
LENGTH, WIDTH = 0.8, 0.2  # of the rod, in halves of a side; its ends are round
BATCH = 64  # pictures drawn at once, which stay in a cache


def draw(angle: Array, size: int = SIZE) -> Array:
    """Draws pendulums.

    Args:
      angle: [...] radians, of any size.
      size: pixels of a side.

    Returns:
      Pictures [..., size, size, 1] uint8; the first row is the upper one.
    """
    return jnp.asarray(pictures(size))[nearest(jnp.asarray(angle))]


def nearest(angle: Any) -> Any:
    """The number of the nearest picture in `pictures`, [...] int32 of angles [...].

    NumPy's arrays give NumPy's, and JAX's give JAX's. Both round in float32, to the same number.
    """
    steps = angle.astype(np.float32) * np.float32(ANGLES / (2 * np.pi))
    return steps.round().astype(np.int32) % ANGLES


@functools.cache
def pictures(size: int = SIZE) -> np.ndarray:
    """The pictures of all directions, [ANGLES, size, size, 1] uint8; not to be written to."""
    angles = np.split(2 * np.pi * np.arange(ANGLES) / ANGLES, ANGLES // BATCH)
    drawn = np.concatenate([_rasterised(each, size) for each in angles])[..., None]
    drawn.flags.writeable = False
    return drawn


def _rasterised(angle: np.ndarray, size: int) -> np.ndarray:
    """Grey levels [B, size, size] of angles [B]: how much of each pixel the rod covers, about.

    A pixel fades over its own width, by the distance of its centre from the rod's axis.
    """
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    right = np.arange(size) - (size - 1) / 2
    up = -right[:, None]
    along, across = cosine * up - sine * right, sine * up + cosine * right
    beyond = along - np.clip(along, 0.0, LENGTH * size / 2)
    inside = WIDTH * size / 4 - np.sqrt(beyond**2 + across**2)
    return np.rint(255 * np.clip(inside + 0.5, 0.0, 1.0)).astype(np.uint8)
