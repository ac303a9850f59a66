"""Spectral norms by power iteration: only matrix-vector products, safe under vmap.

A kernel [I, O] keeps a unit vector u [I]; each step of training moves it one iteration towards the
first left singular vector (Miyato et al. 2018, "Spectral normalization for GANs", algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl_prefs.ops.products import exact
from jaxrl_prefs.types import Array

TINY = 1e-12  # keeps the direction of a zero vector finite


def direction(x: Array) -> Array:
    """x divided by its length; zeros stay zeros.

    >>> direction(jnp.array([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    return x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), TINY)


def power_step(kernel: Array, u: Array) -> Array:
    """One power iteration: kernel [I, O], u [I] -> u [I]."""
    return direction(exact(kernel, direction(exact(u, kernel))))


def spectral_norm(kernel: Array, u: Array) -> Array:
    """u K v with v the direction of u K: never above the largest singular value, equal to it once
    u has converged. u and v count as constants, so the gradient is the outer product u v.
    """
    u = jax.lax.stop_gradient(u)
    v = jax.lax.stop_gradient(direction(exact(u, kernel)))
    return exact(exact(u, kernel), v)


def normalized(kernel: Array, u: Array) -> Array:
    """The kernel divided by its spectral norm."""
    return kernel / jnp.maximum(spectral_norm(kernel, u), TINY)


def operator_step(linear: Callable[[Array], Array], u: Array) -> Array:
    """One power iteration of a linear map given as a function, such as a convolution; u any shape.

    The transpose is taken by reverse mode.
    """
    v, transposed = jax.vjp(linear, u)
    return direction(transposed(direction(v))[0])


def operator_norm(linear: Callable[[Array], Array], u: Array) -> Array:
    """The length of the map's value at the unit vector u: never above its largest singular value,
    equal to it once u has converged. u counts as a constant; the gradient is by the map's own.
    """
    v = linear(jax.lax.stop_gradient(u))
    return jnp.sum(jax.lax.stop_gradient(direction(v)) * v)
