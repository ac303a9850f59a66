"""Confidence bounds over an ensemble, regressions, and how losses weigh and scale values."""

from __future__ import annotations

import math

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


def gumbel_error(error: Array, temperature: float, largest: float) -> Array:
    """exp(z - m) - (z + 1) exp(-m) for z = min(u / temperature, largest), u = target - prediction.

    m = max(max z, -1) over the array carries no gradient; it keeps the exponential finite and only
    scales the loss. Where nothing is clipped, the mean over [B] is smallest where the prediction is
    temperature * log mean exp(target / temperature); it is flat in what is clipped.
    Source: XQL (Garg et al. 2023); clip and scale are its code's.

    >>> round(float(gumbel_error(jnp.array([1.0]), 1.0, 7.0)[0]), 6)  # 1 - 2 / e
    0.264241
    """
    z = jnp.minimum(error / temperature, largest)
    scale = jax.lax.stop_gradient(jnp.maximum(jnp.max(z), -1))
    return jnp.exp(z - scale) - (z + 1) * jnp.exp(-scale)


def log_integral(values: Array, log_density: Array) -> Array:
    """log of the mean of exp(values) / density over the last axis: [..., K] -> [...].

    For points drawn from the density, the exponential of the result estimates without bias the
    integral of exp(values). Source: CQL (Kumar et al. 2020).

    >>> float(log_integral(jnp.zeros(4), jnp.log(jnp.full(4, 0.5))))  # of 1 over [-1, 1]: log 2
    0.6931471824645996
    """
    return jax.nn.logsumexp(values - log_density, -1) - math.log(values.shape[-1])


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
