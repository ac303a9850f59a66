"""Samplers of a score model: from standard normal `start` [..., A] to data, by `score(y, t)`.

`noise(n)` gives the n-th array of standard normal numbers of the shape of `start`: the caller
decides on keys, so that each row of a dataset can have its own key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_prefs.ops import vpsde
from jaxrl_prefs.ops.vpsde import Score
from jaxrl_prefs.types import Array, Key

Noise = Callable[[Array], Array]
Corrector = Callable[[Array, Array, Array], Array]  # (y, its score, z) -> y

END = 1e-3  # the last time of every sampler
SMALLEST_NORM = 1e-6  # of a score; ours, so that a step inside a mode stays finite


def normal_noise(key: Key, start: Array) -> Noise:
    """Noise for all rows from one key."""
    return lambda n: jax.random.normal(jax.random.fold_in(key, n), start.shape, start.dtype)


def langevin(*, snr: float = 0.16, per_sample: bool = True) -> Corrector:
    """One Langevin step y + e g + sqrt(2 e) z with e = 2 (snr |z| / |g|)^2.

    The norms are each sample's own, as in the published ARQ, or means over all samples (Song et
    al. 2021, algorithm 5). Own norms are biased in few dimensions even with the exact score: the
    step depends on the noise that it scales and explodes where the score is near 0.
    """

    def norm(x: Array) -> Array:
        size = jnp.sqrt(jnp.sum(jnp.square(x), -1, keepdims=True))
        return size if per_sample else jnp.mean(size)

    def correct(y: Array, g: Array, z: Array) -> Array:
        e = 2 * jnp.square(snr * norm(z) / jnp.maximum(norm(g), SMALLEST_NORM))
        return y + e * g + jnp.sqrt(2 * e) * z

    return correct


def predictor_corrector(
    score: Score, start: Array, noise: Noise, *, correct: Corrector | None, steps: int = 500
) -> Array:
    """Solves the reverse SDE by Euler-Maruyama, with a corrector before each step, or None.

    Times are `steps` equal ones from 1 to END, END included; the last step's mean is returned.
    ARQ, appendix A.2, and Song et al. 2021, appendix G. Two score evaluations a step, or one.
    """
    times = jnp.linspace(1.0, END, steps, dtype=start.dtype)
    dt = (1 - END) / (steps - 1)

    def step(carry: tuple[Array, Array], n: Array) -> tuple[tuple[Array, Array], None]:
        y, _ = carry
        t = times[n]
        if correct is not None:
            y = correct(y, score(y, t), noise(2 * n))
        mean = y - dt * vpsde.reverse_drift(score, y, t)
        return (mean + jnp.sqrt(vpsde.beta(t) * dt) * noise(2 * n + 1), mean), None

    (_, mean), _ = jax.lax.scan(step, (start, start), jnp.arange(steps))
    return mean


def few_step(score: Score, start: Array, *, steps: int = 24) -> Array:
    """DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095), multistep of third order, on our nodes.

    Deterministic given `start`. The clean data is extrapolated in log(m / std) by the polynomial
    through its last three values, and the flow is integrated exactly under that polynomial. `steps`
    is the number of score evaluations; the last one's clean data is returned.
    """
    times, _ = vpsde.nodes(1.0, END, steps)
    places = -vpsde.log_ratio(times)

    def step(carry: tuple, n: Array) -> tuple[tuple, None]:
        y, one, two, _ = carry
        now = vpsde.clean(score, y, times[n])
        after = jnp.minimum(n + 1, steps - 1)
        h = places[after] - places[n]
        p0 = -jnp.expm1(-h)  # integrals of 1, x, x^2 times exp(x - h) over 0 to h
        p1 = h - p0
        p2 = jnp.square(h) - 2 * p1
        gap, wide = places[n] - places[n - 1], places[n] - places[n - 2]
        slope = (now - one) / gap
        bend = (slope - (one - two) / (wide - gap)) / wide
        slope, bend = jnp.where(n > 0, slope, 0), jnp.where(n > 1, bend, 0)
        change = p0 * now + p1 * slope + (p2 + gap * p1) * bend
        t, end = times[n], times[after]
        y = vpsde.std(end) / vpsde.std(t) * y + vpsde.mean_coefficient(end) * change
        return (y, now, one, now), None

    (_, _, _, last), _ = jax.lax.scan(step, (start,) * 4, jnp.arange(steps))
    return last


def flow(score: Score, start: Array, *, tolerance: float = 1e-5) -> Array:
    """Solves the probability-flow ODE by Dormand and Prince's adaptive steps (diffrax).

    All of `start` is one system with one step size; map the function for steps of each item's own.
    Returns NaN where the solver gives up.
    """
    return integrated(lambda t, y: vpsde.flow(score, y, t), start, 1.0, END, tolerance)


def integrated(
    field: Callable[[Array, Any], Any], start: Any, first: float, last: float, tolerance: float
) -> Any:
    """Integrates dy/dt = `field(t, y)` from `first` to `last`; y is a tree of arrays.

    The result is NaN where the solver gives up.
    """
    import diffrax

    def slope(t: Any, y: Any, args: None) -> Any:
        return field(t, y)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri5(),
        jnp.asarray(first, jnp.float32),
        jnp.asarray(last, jnp.float32),
        None,
        start,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        throw=False,
    )
    success = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda leaf: jnp.where(success, leaf[-1], jnp.nan), solution.ys)
