"""Flow matching along straight lines: interpolation, target velocity, samplers, closed forms.

    x_t = (1 - t) x_0 + t x_1,    x_0 ~ N(0, I) noise at t = 0,  x_1 data at t = 1
    v(x, t) = E[x_1 - x_0 | x_t = x],    dx/dt = v(x, t) carries the noise to the data

A network is regressed on the conditional velocity x_1 - x_0; the regression's optimum is the
marginal velocity v. Sources: Lipman et al. 2023 (arXiv 2210.02747), Liu et al. 2023 (arXiv
2209.03003). Leading axes are free and the last axis is the action; t is a scalar or has the
leading axes. A network enters as a function `velocity(x, t)`, never as parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops.mixtures import Mixture
from jaxrl_prefs.ops.schedules import Schedule
from jaxrl_prefs.ops.shapes import expand_rank
from jaxrl_prefs.types import Array

VelocityFn = Callable[[Array, Array], Array]  # (x [..., A], t) -> [..., A]
Sampler = Callable[[VelocityFn, Array, int], Array]  # (velocity, x_0, steps) -> x_1


def interpolate(x0: Array, x1: Array, t: Array) -> Array:
    """The point at time t on the line from noise x0 to data x1, [..., A] each.

    >>> float(interpolate(jnp.array([1.0]), jnp.array([3.0]), jnp.array(0.25))[0])
    1.5
    """
    t = _column(t, x1)
    return (1 - t) * x0 + t * x1


def conditional_velocity(x0: Array, x1: Array) -> Array:
    """The velocity of `interpolate`, the same at every t: x1 - x0."""
    return x1 - x0


def euler(velocity: VelocityFn, start: Array, steps: int) -> Array:
    """Integrates dx/dt = velocity(x, t) from t = 0 to 1 by `steps` equal Euler steps.

    One evaluation a step, at t = 0, 1/steps, ..., 1 - 1/steps. The error is of order 1 / steps; on
    straight paths (all data in one point) it is 0.
    """

    def step(x: Array, t: Array) -> Array:
        return x + velocity(x, t) / steps

    return _integrated(step, start, steps)


def midpoint(velocity: VelocityFn, start: Array, steps: int) -> Array:
    """As `euler`, by the midpoint rule: two evaluations a step, an error of order 1 / steps^2."""

    def step(x: Array, t: Array) -> Array:
        middle = x + velocity(x, t) / (2 * steps)
        return x + velocity(middle, t + 1 / (2 * steps)) / steps

    return _integrated(step, start, steps)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "midpoint": midpoint}


def _integrated(step: Callable[[Array, Array], Array], start: Array, steps: int) -> Array:
    times = jnp.arange(steps, dtype=start.dtype) / steps
    return jax.lax.scan(lambda x, t: (step(x, t), None), start, times)[0]


def predicted_noise(velocity: VelocityFn, schedule: Schedule, x: Array, n: Array) -> Array:
    """E[eps | x_n = x] of the diffusion to whose data the flow leads: [..., A].

    x_n = sqrt(abar) a + sqrt(1 - abar) eps, divided by the sum of both factors, is the point at
    time t = sqrt(abar) / sum on the line from eps to a; and eps = x_t - t (a - eps). So a velocity
    network is a noise prediction in other coordinates, and a chain of Gaussian steps has a path KL
    where the flow's ODE has none.

    Args:
        velocity: of the straight-line flow.
        schedule: of the diffusion.
        x: [..., A].
        n: levels, a scalar or with the leading axes of x.
    """
    level = jnp.asarray(n)
    signal = jnp.asarray(np.sqrt(schedule.alpha_bar), x.dtype)[level]
    noise = jnp.asarray(np.sqrt(1 - schedule.alpha_bar), x.dtype)[level]
    t, on_line = signal / (signal + noise), x / _column(signal + noise, x)
    return on_line - _column(t, x) * velocity(on_line, t)


# --- Closed forms ---------------------------------------------------------------------------------


def gaussian_velocity(x: Array, t: Array, mean: Array, std: Array) -> Array:
    """v(x, t) for data N(mean, std^2), entry by entry: [..., A].

    x_t is N(t mean, (1 - t)^2 + t^2 std^2), and x_1 - x_0 is jointly normal with it. Where std is 0
    this is (mean - x) / (1 - t), and t must be below 1.

    >>> x, one = jnp.array([2.0]), jnp.ones(1)
    >>> float(gaussian_velocity(x, jnp.array(0.0), 3 * one, one)[0])  # E[x_1] - x
    1.0
    """
    t = _column(t, x)
    mean, std = (expand_rank(jnp.asarray(each, x.dtype), x.ndim) for each in (mean, std))
    variance = jnp.square(1 - t) + jnp.square(t * std)
    return mean + (t * jnp.square(std) - (1 - t)) / variance * (x - t * mean)


def gaussian_flow(start: Array, mean: Array, std: Array) -> Array:
    """Where the flow to data N(mean, std^2) carries noise `start` [..., A]: mean + std * start."""
    mean, std = (expand_rank(jnp.asarray(each, start.dtype), start.ndim) for each in (mean, std))
    return mean + std * start


def mixture_velocity(x: Array, t: Array, mixture: Mixture) -> Array:
    """v(x, t) for data from a mixture of Gaussians: [..., A].

    The velocities of the components, weighted by the probability of each given x_t = x.
    """
    t = _column(t, x)
    means = expand_rank(jnp.asarray(mixture.means, x.dtype), x.ndim + 1)  # [..., K, A]
    log_weights = expand_rank(jnp.log(jnp.asarray(mixture.weights, x.dtype)), x.ndim)
    std = mixture.std
    variance = jnp.square(1 - t) + jnp.square(t * std)  # the same for all components
    gap = x[..., None, :] - (t[..., None] if t.ndim else t) * means
    share = jax.nn.softmax(log_weights - jnp.sum(jnp.square(gap), -1) / (2 * variance), -1)
    mean = jnp.sum(share[..., None] * means, -2)  # E[component's mean | x_t = x]
    return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)


def _column(t: Array, like: Array) -> Array:
    """A time as a factor of [..., A]: [..., 1] or a scalar, in the dtype of `like`."""
    t = jnp.asarray(t, like.dtype)
    return t[..., None] if t.ndim else t
