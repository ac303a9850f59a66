"""Broadcasting said aloud: implicit rank promotion is an error in our tests."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.types import Array


def aligned(x: Array | np.ndarray | float, ndim: int) -> Array:
    """Prepends axes of size 1 up to `ndim`; a scalar stays one.

    >>> aligned(jnp.zeros(3), 2).shape
    (1, 3)
    """
    x = jnp.asarray(x)
    return x.reshape((1,) * (ndim - x.ndim) + x.shape) if x.ndim else x


def boxed(x: Array, low: np.ndarray | float, high: np.ndarray | float) -> Array:
    """Clips [..., A] to a box [A], or to one interval for all dimensions."""
    low, high = np.asarray(low, x.dtype), np.asarray(high, x.dtype)
    return jnp.clip(x, aligned(low, x.ndim), aligned(high, x.ndim))
