"""Confidence bounds over an ensemble, expectiles, and how losses weigh and scale values."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array


def lcb(values: Array, rho: float) -> Array:
    """Lower confidence bound over the first axis: mean - rho * population standard deviation.

    rho = 0 is the mean. Source: BDPO, equation 18.

    >>> round(float(lcb(jnp.array([1.0, 2.0, 3.0]), 1.0)), 6)
    1.183503
    """
    if isinstance(rho, int | float) and not rho:
        return values.mean(0)
    variance = values.var(0)
    # Where all members agree the root has no derivative; its gradient is then 0.
    varies = variance > 0
    spread = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)
    return values.mean(0) - rho * spread


def expectile_error(error: Array, expectile: float) -> Array:
    """|expectile - 1(u < 0)| u^2 for u = target - prediction, entry by entry.

    Its mean is smallest where the prediction is the targets' expectile; 0.5 is half the squared
    error. Source: IQL (Kostrikov et al. 2022), equation 5.

    >>> [round(float(x), 6) for x in expectile_error(jnp.array([2.0, -2.0]), 0.9)]
    [3.6, 0.4]
    """
    return jnp.where(error < 0, 1 - expectile, expectile) * jnp.square(error)


def implicit_weight(advantage: Array, expectile: float) -> Array:
    """|expectile - 1(A < 0)|, entry by entry: how IDQL's implicit policy reweighs the behaviour.

    V is the expectile of Q over the behaviour where the mean of Q with these weights is V. Source:
    IDQL (Hansen-Estruch et al. 2023), section on the expectile's implicit policy.

    >>> [round(float(x), 6) for x in implicit_weight(jnp.array([2.0, -2.0]), 0.9)]
    [0.9, 0.1]
    """
    return jnp.where(advantage < 0, 1 - expectile, jnp.asarray(expectile, advantage.dtype))


def advantage_weight(advantage: Array, temperature: float, largest: float) -> Array:
    """min(exp(temperature * advantage), largest), entry by entry; the exponent cannot overflow.

    `temperature` is an inverse one (the beta of IQL, equation 7), the bound is its code's.

    >>> [round(float(x), 4) for x in advantage_weight(jnp.array([0.0, 0.5, 1e9]), 2.0, 100.0)]
    [1.0, 2.7183, 100.0]
    """
    bound = jnp.log(jnp.asarray(largest, advantage.dtype))
    return jnp.exp(jnp.minimum(temperature * advantage, bound))


def normalised(q: Array) -> Array:
    """q divided by the batch mean of |q|, which carries no gradient: [B] -> [B].

    A policy's gradient through it does not depend on the reward's scale (TD3+BC, equation 5).

    >>> [round(float(x), 6) for x in normalised(jnp.array([1.0, -3.0]))]
    [0.5, -1.5]
    """
    size = jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
    return q / jnp.maximum(size, jnp.finfo(q.dtype).tiny)


def variance_lcb(values: Array, omega: float) -> Array:
    """Lower confidence bound over the first axis: mean - omega * population variance.

    Source: BPR, section on the ensemble (the work it cites takes the std, as `lcb`).

    >>> float(variance_lcb(jnp.array([1.0, 2.0, 3.0, 4.0]), 2.0))
    0.0
    """
    return values.mean(0) - omega * values.var(0)
