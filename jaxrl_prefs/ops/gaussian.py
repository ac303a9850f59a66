"""Diagonal Gaussians over the last axis: log-density, KL, and the density after a tanh."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # of policies, as in the published codes of IQL and ARQ


def bounded_std(log_std: Array, *, largest: float = LOG_STD_MAX) -> Array:
    """The standard deviation of a network's output, entry by entry.

    exp(log_std), with log_std first clipped to [LOG_STD_MIN, largest].

    >>> [round(float(x), 4) for x in bounded_std(jnp.array([-9.0, 0.0, 9.0]))]
    [0.0067, 1.0, 7.3891]
    """
    return jnp.exp(jnp.clip(log_std, LOG_STD_MIN, largest))


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


def log_tanh_slope(u: Array) -> Array:
    """log d tanh(u) / du, summed over the last axis; exact where 1 - tanh(u)^2 rounds to 0.

    >>> float(log_tanh_slope(jnp.array([100.0])))
    -198.61370849609375
    """
    return jnp.sum(2 * (math.log(2) - u - jax.nn.softplus(-2 * u)), -1)


def tanh_log_density(u: Array, mean: Array, std: Array) -> Array:
    """The log-density of a = tanh(u) for u ~ N(mean, std^2), given u, over the last axis.

    u is carried from sampling: recovering it from a is unstable near +-1.

    >>> one = jnp.ones(1)
    >>> round(float(tanh_log_density(0.7 * one, 0.2 * one, 0.5 * one)), 6)
    -0.271251
    """
    return log_density(u, mean, std) - log_tanh_slope(u)
