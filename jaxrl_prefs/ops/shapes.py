"""Explicit broadcasting (the tests refuse implicit rank promotion), and maps into action boxes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.types import Array, Box, Key


def expand_rank(x: Array | np.ndarray | float, ndim: int) -> Array:
    """Prepends axes of size 1 up to `ndim`; a scalar stays one.

    >>> expand_rank(jnp.zeros(3), 2).shape
    (1, 3)
    """
    x = jnp.asarray(x)
    return x.reshape((1,) * (ndim - x.ndim) + x.shape) if x.ndim else x


def clip_to_box(x: Array, box: Box) -> Array:
    """Clips [..., A] to the box."""
    low, high = (np.asarray(bound, x.dtype) for bound in box)
    return jnp.clip(x, expand_rank(low, x.ndim), expand_rank(high, x.ndim))


def squashed(x: Array, box: Box) -> Array:
    """Maps [..., A] into the box: centre + radius * tanh(x)."""
    return expand_rank(box.centre, x.ndim) + expand_rank(box.radius, x.ndim) * jnp.tanh(x)


def uniform_in(box: Box, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform samples [..., A] of the given shape from the box."""
    unit = jax.random.uniform(key, shape, dtype)
    low, size = (
        expand_rank(jnp.asarray(x, dtype), len(shape)) for x in (box.low, box.high - box.low)
    )
    return low + unit * size
