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


def to_unit(action: Array, box: Box) -> Array:
    """Scales [..., A] from the box to [-1, 1]; no bit changes where the box is that already.

    >>> box = Box(np.zeros(1), np.full(1, 4.0))
    >>> float(to_unit(jnp.array([3.0]), box)[0])
    0.5
    """
    centre, radius = (_numbers(x, action) for x in (box.centre, box.radius))
    return (action - centre) / radius


def from_unit(x: Array, box: Box) -> Array:
    """The inverse of `to_unit`."""
    return _numbers(box.centre, x) + _numbers(box.radius, x) * x


def _numbers(values: np.ndarray, like: Array) -> Array:
    return expand_rank(jnp.asarray(values, like.dtype), like.ndim)


def uniform_in(box: Box, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform samples [..., A] of the given shape from the box."""
    unit = jax.random.uniform(key, shape, dtype)
    low, size = (
        expand_rank(jnp.asarray(x, dtype), len(shape)) for x in (box.low, box.high - box.low)
    )
    return low + unit * size
