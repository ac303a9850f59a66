"""Broadcasting said aloud (implicit rank promotion is an error in our tests), and action boxes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.types import Array, Key


def expand_rank(x: Array | np.ndarray | float, ndim: int) -> Array:
    """Prepends axes of size 1 up to `ndim`; a scalar stays one.

    >>> expand_rank(jnp.zeros(3), 2).shape
    (1, 3)
    """
    x = jnp.asarray(x)
    return x.reshape((1,) * (ndim - x.ndim) + x.shape) if x.ndim else x


def clip_to_box(x: Array, low: np.ndarray | float, high: np.ndarray | float) -> Array:
    """Clips [..., A] to a box [A], or to one interval for all dimensions."""
    low, high = np.asarray(low, x.dtype), np.asarray(high, x.dtype)
    return jnp.clip(x, expand_rank(low, x.ndim), expand_rank(high, x.ndim))


def squashed(x: Array, low: np.ndarray, high: np.ndarray) -> Array:
    """Maps [..., A] into a box [A] by a tanh around the box's centre."""
    centre, radius = (low + high) / 2, (high - low) / 2
    return expand_rank(centre, x.ndim) + expand_rank(radius, x.ndim) * jnp.tanh(x)


def uniform_in(
    low: np.ndarray, high: np.ndarray, key: Key, shape: tuple[int, ...], dtype: jnp.dtype
) -> Array:
    """Draws points [..., A] of the given shape evenly from a box [A]."""
    unit = jax.random.uniform(key, shape, dtype)
    floor, size = (expand_rank(jnp.asarray(x, dtype), len(shape)) for x in (low, high - low))
    return floor + unit * size
