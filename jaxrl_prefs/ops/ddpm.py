"""Denoising diffusion with noise prediction: conversions, one-step kernels, sampler, path KL.

Notation: x_n = sqrt(abar_n) x_0 + sqrt(1 - abar_n) eps, n = 0..T, x_0 data, x_T noise. Leading axes
are free and the last axis is the action; `n` is a scalar or has shapes that broadcast against the
leading axes. A network enters as a function `eps_fn(x, n) -> eps`, never as parameters.

The penalty uses variance beta_n at every step: the exact posterior variance (BDPO, equation 8)
vanishes at n = 1 and would make it infinite. The sampler uses beta_n for n > 1 and adds no noise at
n = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops.schedules import Schedule
from jaxrl_prefs.ops.shapes import clip_to_box
from jaxrl_prefs.types import Array, Box, Key

EpsFn = Callable[[Array, Array], Array]
Step = Callable[[Schedule, Array, Array, Array, Array], Array]  # (schedule, x, eps, n, z) -> x'

UNBOUNDED = Box(np.asarray(-np.inf), np.asarray(np.inf))  # one interval for all dimensions


def at(table: np.ndarray, n: Array, like: Array) -> Array:
    """Reads a schedule's table at n, in the dtype of `like`, ready to multiply [..., A]."""
    value = jnp.asarray(table, like.dtype)[n]
    return value[..., None] if value.ndim else value


def noised(schedule: Schedule, x0: Array, n: Array, eps: Array) -> Array:
    """Moves clean data to step n with the given noise: q(x_n | x_0)."""
    abar = at(schedule.alpha_bar, n, x0)
    return jnp.sqrt(abar) * x0 + jnp.sqrt(1 - abar) * eps


def x0_from_eps(schedule: Schedule, x: Array, eps: Array, n: Array) -> Array:
    """The clean data that `eps` implies at x_n."""
    abar = at(schedule.alpha_bar, n, x)
    return (x - jnp.sqrt(1 - abar) * eps) / jnp.sqrt(abar)


def eps_from_x0(schedule: Schedule, x: Array, x0: Array, n: Array) -> Array:
    """The noise that `x0` implies at x_n; the inverse of `x0_from_eps`."""
    abar = at(schedule.alpha_bar, n, x)
    return (x - jnp.sqrt(abar) * x0) / jnp.sqrt(1 - abar)


def score_from_eps(schedule: Schedule, eps: Array, n: Array) -> Array:
    """The gradient of log p_n at x_n that `eps` implies."""
    return -eps / jnp.sqrt(1 - at(schedule.alpha_bar, n, eps))


def eps_from_score(schedule: Schedule, score: Array, n: Array) -> Array:
    """The inverse of `score_from_eps`."""
    return -score * jnp.sqrt(1 - at(schedule.alpha_bar, n, score))


def posterior_mean(schedule: Schedule, x: Array, x0: Array, n: Array) -> Array:
    """The mean of q(x_{n-1} | x_n, x_0)."""
    abar, before = at(schedule.alpha_bar, n, x), at(schedule.alpha_bar, n - 1, x)
    beta, alpha = at(schedule.beta, n, x), at(schedule.alpha, n, x)
    return (jnp.sqrt(before) * beta * x0 + jnp.sqrt(alpha) * (1 - before) * x) / (1 - abar)


def posterior_variance(schedule: Schedule) -> np.ndarray:
    """The variance of q(x_{n-1} | x_n, x_0) for n = 0..T: [T + 1]; it is 0 at n = 1.

    >>> from jaxrl_prefs.ops.schedules import from_betas
    >>> posterior_variance(from_betas(np.array([0.5, 0.5]))).round(6)  # 1/2 * 1/2 / (3/4) at 2
    array([0.      , 0.      , 0.333333])
    """
    before = 1 - schedule.alpha_bar[:-1]
    exact = schedule.beta[1:] * before / (1 - schedule.alpha_bar[1:])
    return np.concatenate([[0.0], exact])


def ancestral(box: Box = UNBOUNDED, *, exact_variance: bool = False) -> Step:
    """The DDPM step: N(posterior mean, beta_n), without noise at n = 1.

    The clean data that eps implies is clipped to the box first. With `exact_variance` the variance
    is the posterior's, which is smaller than beta_n.
    """

    def step(schedule: Schedule, x: Array, eps: Array, n: Array, z: Array) -> Array:
        x0 = clip_to_box(x0_from_eps(schedule, x, eps, n), box)
        variance = posterior_variance(schedule) if exact_variance else schedule.beta
        spread = jnp.where(n > 1, jnp.sqrt(jnp.asarray(variance, x.dtype)[n]), 0)
        spread = spread[..., None] if spread.ndim else spread
        return posterior_mean(schedule, x, x0, n) + spread * z

    return step


def ddim(box: Box = UNBOUNDED) -> Step:
    """The deterministic step of DDIM (Song et al. 2021, eq. 12 with sigma 0); it adds no noise.

    The clean data that eps implies is clipped to the box first, while eps stays as it was. Where
    the clip acts, the step therefore differs from that of BDPO's code.
    """

    def step(schedule: Schedule, x: Array, eps: Array, n: Array, z: Array) -> Array:
        del z
        x0 = clip_to_box(x0_from_eps(schedule, x, eps, n), box)
        before = at(schedule.alpha_bar, n - 1, x)
        return jnp.sqrt(before) * x0 + jnp.sqrt(1 - before) * eps

    return step


def clipped(step: Step, box: Box) -> Step:
    """Another step whose result x_{n-1} is clipped to the box, noise included."""

    def bounded(schedule: Schedule, x: Array, eps: Array, n: Array, z: Array) -> Array:
        return clip_to_box(step(schedule, x, eps, n, z), box)

    return bounded


def path_kl(schedule: Schedule, eps: Array, reference: Array, n: Array) -> Array:
    """KL between two reverse kernels at x_n, from their noise predictions (BDPO, equation 17).

    l_n = w_n |eps - reference|^2 with w_n = beta_n / (2 alpha_n (1 - abar_n)), summed over the last
    axis: both kernels are Gaussians of variance beta_n. Raw predictions count, clipped means do
    not. Returns the leading axes of `eps`.
    """
    weight = schedule.beta[1:] / (2 * schedule.alpha[1:] * (1 - schedule.alpha_bar[1:]))
    gap = jnp.sum(jnp.square(eps - reference), -1)
    return jnp.asarray(np.concatenate([[0.0], weight]), eps.dtype)[n] * gap


def reverse(
    schedule: Schedule,
    eps_fn: EpsFn,
    start: Array,
    key: Key,
    step: Step,
    visit: Callable[[Array, Array, Array], Any] = lambda x, eps, n: None,
) -> tuple[Array, Any]:
    """Runs the reverse chain from x_T = `start` to x_0.

    `visit(x_n, eps, n)` is called on the way down and its results are stacked in a new first axis,
    in the order n = T..1: `lambda x, eps, n: x` records the path, a penalty sums to a path KL.
    Returns (x_0, results).
    """

    def body(x: Array, n: Array) -> tuple[Array, Any]:
        eps = eps_fn(x, n)
        z = jax.random.normal(jax.random.fold_in(key, n), x.shape, x.dtype)
        return step(schedule, x, eps, n, z), visit(x, eps, n)

    return jax.lax.scan(body, start, jnp.arange(schedule.steps, 0, -1))
