"""Diagonal Gaussians over the last axis: log-density and KL."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxrl_prefs.types import Array


def log_density(x: Array, mean: Array, std: Array) -> Array:
    """log N(x; mean, std^2), summed over the last axis.

    >>> round(float(log_density(jnp.zeros(2), jnp.zeros(2), jnp.ones(2))), 6)
    -1.837877
    """
    z = (x - mean) / std
    return jnp.sum(-0.5 * jnp.square(z) - jnp.log(std) - 0.5 * math.log(2 * math.pi), -1)


def kl(mean: Array, std: Array, other_mean: Array, other_std: Array) -> Array:
    """KL[N(mean, std^2) || N(other_mean, other_std^2)], summed over the last axis.

    >>> float(kl(jnp.ones(1), jnp.ones(1), jnp.zeros(1), jnp.ones(1)))
    0.5
    """
    ratio, gap = std / other_std, (mean - other_mean) / other_std
    return jnp.sum(0.5 * (jnp.square(ratio) + jnp.square(gap) - 1) - jnp.log(ratio), -1)
