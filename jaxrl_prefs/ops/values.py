"""Temporal-difference targets and how an ensemble's opinions become one number."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_prefs.types import Array


def td_target(reward: Array, discount: Array, next_value: Array) -> Array:
    """r + discount * V(s'), all [B]; `discount` is gamma * (1 - terminal), so terminals stop.

    >>> float(td_target(jnp.float32(1), jnp.float32(0), jnp.float32(9)))
    1.0
    """
    return reward + discount * next_value


def lcb(values: Array, rho: float) -> Array:
    """Lower confidence bound over the first axis: mean - rho * population standard deviation.

    rho = 0 is the mean. Source: BDPO, equation 18.

    >>> round(float(lcb(jnp.array([1.0, 2.0, 3.0]), 1.0)), 6)
    1.183503
    """
    if not rho:
        return values.mean(0)
    variance = values.var(0)
    # Where all members agree the root has no derivative; a gradient of 0 stands in for it.
    varies = variance > 0
    spread = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)
    return values.mean(0) - rho * spread
