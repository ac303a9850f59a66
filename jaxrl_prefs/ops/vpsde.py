"""The variance-preserving SDE with a linear rate, for t from 0 (data) to 1 (noise).

    dy = -beta(t) / 2 y dt + sqrt(beta(t)) dw,      beta(t) = 0.1 + 19.9 t
    y(t) = m(t) y(0) + std(t) z,      m = exp(-I / 2),   std^2 = 1 - exp(-I),   I = integral of beta

Source: Song et al. 2021 (arXiv 2011.13456), equations 11 and 32 to 33; ARQ, appendix A.2. A model
enters as a function `score(y, t)`, the gradient of log p_t at y, with t a scalar; y is [..., A].
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxrl_prefs.types import Array

BETA_MIN, BETA_MAX = 0.1, 20.0

Score = Callable[[Array, Array], Array]


def beta(t: Array) -> Array:
    """The rate of the diffusion."""
    return BETA_MIN + (BETA_MAX - BETA_MIN) * t


def integral(t: Array) -> Array:
    """I(t), the integral of beta from 0."""
    return BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * jnp.square(t)


def mean_coefficient(t: Array) -> Array:
    """m(t), the factor of the data.

    >>> round(float(mean_coefficient(jnp.float32(0.5))), 6)
    0.281183
    """
    return jnp.exp(-0.5 * integral(t))


def std(t: Array) -> Array:
    """The noise's standard deviation, accurate to t = 1e-5, where 1 - exp(-I) loses all digits."""
    return jnp.sqrt(-jnp.expm1(-integral(t)))


def log_ratio(t: Array) -> Array:
    """log(std / m): noise over signal, -6.9 at t = 1e-5 and 5.0 at t = 1. Increases with t."""
    return 0.5 * jnp.log(jnp.expm1(integral(t)))


def time_of(log_ratio: Array) -> Array:
    """The inverse of `log_ratio`."""
    total = jnp.log1p(jnp.exp(2 * log_ratio))
    slope = 2 * (BETA_MAX - BETA_MIN)
    return 2 * total / (BETA_MIN + jnp.sqrt(BETA_MIN**2 + slope * total))


def noised(y: Array, t: Array, z: Array) -> Array:
    """Moves data y [..., A] to time t [...] with standard normal numbers z [..., A]."""
    return mean_coefficient(t)[..., None] * y + std(t)[..., None] * z


def reverse_drift(score: Score, y: Array, t: Array) -> Array:
    """dy/dt of the reverse SDE (Song et al., equation 6), whose noise is sqrt(beta) dw."""
    return -beta(t) * (0.5 * y + score(y, t))


def flow(score: Score, y: Array, t: Array) -> Array:
    """dy/dt of the probability-flow ODE (Song et al., equation 13)."""
    return -0.5 * beta(t) * (y + score(y, t))


def clean(score: Score, y: Array, t: Array) -> Array:
    """The clean data that the score predicts: E[y(0) | y(t) = y] (Tweedie's formula)."""
    return (y + jnp.square(std(t)) * score(y, t)) / mean_coefficient(t)


# --- Nodes for few evaluations --------------------------------------------------------------------

CENTRE, WIDTH = -1.5, 1.0  # of log(std / m): where modes of standardised data come apart


def position(log_ratio: Array) -> Array:
    """A coordinate in which few equal steps suffice: arcsinh((log_ratio - CENTRE) / WIDTH).

    Ours. For data of unit variance with modes of standard deviation .05 to .5, samples choose their
    mode while noise over signal is about that large; below and above, the flow is nearly linear.
    """
    return jnp.arcsinh((log_ratio - CENTRE) / WIDTH)


def nodes(start: float, stop: float, count: int) -> tuple[Array, Array]:
    """Times from `start` to `stop`, equally spaced in `position`: [count].

    Also d log_ratio per step at each, so that `flow` can be integrated with unit steps.
    """
    ends = position(log_ratio(jnp.array([start, stop])))
    u = jnp.linspace(ends[0], ends[1], count)
    step = (ends[1] - ends[0]) / (count - 1)
    return time_of(CENTRE + WIDTH * jnp.sinh(u)), WIDTH * jnp.cosh(u) * step


def ratio_flow(score: Score, y: Array, t: Array) -> Array:
    """dy / d log_ratio of the probability-flow ODE: -std^2 (y + score).

    It follows from d I = beta dt = 2 std^2 d log_ratio. Where the score is a network over std, no
    term grows as t goes to 0.
    """
    return -jnp.square(std(t)) * (y + score(y, t))
