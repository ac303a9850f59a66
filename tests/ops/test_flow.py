"""Straight-line flows: velocities and samplers against closed forms of Gaussians and mixtures."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import flow, gaussian, schedules
from jaxrl_prefs.ops.mixtures import Mixture
from tests.exact import M, compiled

pytestmark = pytest.mark.usefixtures("x64")

STD = np.array([0.5, 2.0])
TIMES = np.array([0.0, 0.3, 0.9])
MODES = Mixture(np.array([0.6, 0.4]), np.array([[0.8, -0.2], [-0.5, 0.4]]), 0.3)
LINE = Mixture(np.array([0.7, 0.3]), np.array([[0.6], [-0.6]]), 0.25)  # in one dimension


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# -------------------------------------------------------------------------------- straight lines


def test_the_line_goes_from_noise_to_data_at_constant_velocity():
    noise, data = normal(0, 4, 2), normal(1, 4, 2)

    def along(noise, data):
        ends = [flow.interpolate(noise, data, t) for t in (0.0, 1.0)]
        _, slope = jax.jvp(lambda t: flow.interpolate(noise, data, t), (0.3,), (1.0,))
        return *ends, slope, flow.conditional_velocity(noise, data)

    start, end, slope, velocity = compiled(along, noise, data)
    np.testing.assert_array_equal(start, noise)
    np.testing.assert_array_equal(end, data)
    np.testing.assert_allclose(slope, data - noise, rtol=1e-12)
    np.testing.assert_allclose(velocity, data - noise, rtol=1e-12)


@pytest.mark.parametrize("sampler", flow.SAMPLERS.values(), ids=flow.SAMPLERS)
@pytest.mark.parametrize("steps", [1, 7])
def test_a_point_mass_is_reached_without_error(sampler, steps):
    """All lines end in the same point and none cross: the marginal flow is straight."""

    def end(x):
        return sampler(lambda x, t: flow.gaussian_velocity(x, t, M, np.zeros(2)), x, steps)

    np.testing.assert_allclose(compiled(end, normal(2, 5, 2)), np.tile(M, (5, 1)), atol=1e-13)


# ------------------------------------------------------------------------------ marginal velocity


def test_gaussian_velocity_is_the_regression_of_the_conditional_one():
    """E[x_1 - x_0 | x_t] is linear; its slope and intercept are ratios of moments of samples."""
    count = 200_000
    noise, data = normal(3, count, 2), M + STD * normal(4, count, 2)
    probe = np.array([[0.0, 0.0], [1.0, 1.0]])  # the line through two points
    for t in TIMES:
        x, y = (1 - t) * noise + t * data, data - noise
        slope = ((x - x.mean(0)) * (y - y.mean(0))).mean(0) / x.var(0)
        intercept = y.mean(0) - slope * x.mean(0)
        at_zero, at_one = compiled(lambda x, t=t: flow.gaussian_velocity(x, t, M, STD), probe)
        np.testing.assert_allclose(at_zero, intercept, atol=0.03)
        np.testing.assert_allclose(at_one - at_zero, slope, atol=0.03)


def log_density(x, t, mixture):
    """log p_t(x) of a mixture under the straight-line path, [A] -> scalar."""
    std = jnp.sqrt((1 - t) ** 2 + t**2 * mixture.std**2)
    terms = [
        math.log(weight) + gaussian.log_density(x, t * mean, jnp.full(mean.shape, std))
        for weight, mean in zip(mixture.weights, mixture.means, strict=True)
    ]
    return jax.nn.logsumexp(jnp.stack(terms))


@pytest.mark.parametrize("t", TIMES[1:])
def test_mixture_velocity_follows_from_the_score(t):
    """The score is -E[x_0 | x_t] / (1 - t), and so v = (x + (1 - t) score) / t."""
    x = normal(5, 6, 2)

    def both(x):
        score = jax.vmap(jax.grad(lambda y: log_density(y, t, MODES)))(x)
        return flow.mixture_velocity(x, t, MODES), (x + (1 - t) * score) / t

    np.testing.assert_allclose(*compiled(both, x), rtol=1e-10)


def test_a_mixture_of_one_is_a_gaussian():
    single = Mixture(np.ones(1), M[None], 0.4)
    x, std = normal(6, 3, 2), np.full(2, 0.4)

    def both(x):
        return [
            (flow.mixture_velocity(x, t, single), flow.gaussian_velocity(x, t, M, std))
            for t in TIMES
        ]

    for found, expected in compiled(both, x):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_time_may_be_scalar_or_have_the_leading_axes():
    x = normal(7, 3, 4, 2)

    def ways(x):
        each = jnp.tile(TIMES[:, None], (1, 4))
        fields = (
            lambda x, t: flow.gaussian_velocity(x, t, M, STD),
            lambda x, t: flow.mixture_velocity(x, t, MODES),
            lambda x, t: flow.interpolate(x, 2 * x, t),
        )
        return [(f(x, each), jnp.stack([f(x[i], t) for i, t in enumerate(TIMES)])) for f in fields]

    for together, alone in compiled(ways, x):
        np.testing.assert_allclose(together, alone, rtol=1e-12)


# --------------------------------------------------------------------------------------- samplers


def errors(sampler, velocity, start, exact, steps):
    """The largest distance from the exact end of the flow, for each number of steps."""
    ends = compiled(lambda x: [sampler(velocity, x, n) for n in steps], start)
    return [np.abs(end - exact).max() for end in ends]


@pytest.mark.parametrize(("name", "factor"), [("euler", 2), ("midpoint", 8)])
def test_a_gaussian_is_sampled_to_the_order_of_the_sampler(name, factor):
    """With the exact field noise z ends in mean + std z; twice the steps divide the error.

    The midpoint rule is better than its order here: for Gaussian data its terms of second order
    cancel between t = 0 and 1.
    """
    start = normal(8, 50, 2)

    def velocity(x, t):
        return flow.gaussian_velocity(x, t, M, STD)

    exact = compiled(lambda x: flow.gaussian_flow(x, M, STD), start)
    np.testing.assert_allclose(exact, M + STD * start, rtol=1e-12)
    few, many = errors(flow.SAMPLERS[name], velocity, start, exact, (64, 128))
    assert few / many == pytest.approx(factor, rel=0.06)
    assert many < {"euler": 0.1, "midpoint": 1e-4}[name]


def distribution(x):
    """The distribution function of LINE."""
    root = LINE.std * math.sqrt(2)
    each = [
        w * 0.5 * (1 + math.erf((x - m) / root))
        for w, m in zip(LINE.weights, LINE.means[:, 0], strict=True)
    ]
    return sum(each)


@pytest.mark.parametrize(("name", "factor"), [("euler", 2), ("midpoint", 4)])
def test_a_mixture_is_sampled_to_the_order_of_the_sampler(name, factor):
    """Paths on a line do not cross: the p-quantile of the noise ends in the data's p-quantile."""
    places = np.linspace(-2.5, 2.5, 21)
    p = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in places])

    def velocity(x, t):
        return flow.mixture_velocity(x, t, LINE)

    def missed(steps):
        start = places[:, None]
        end = compiled(lambda x: flow.SAMPLERS[name](velocity, x, steps), start)[:, 0]
        return np.abs(np.array([distribution(x) for x in end]) - p).max()

    few, many = missed(128), missed(256)
    assert few / many == pytest.approx(factor, rel=0.1)
    assert many < {"euler": 0.01, "midpoint": 2e-4}[name]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_every_op_keeps_the_dtype_of_its_inputs(dtype):
    x, t = jax.ShapeDtypeStruct((2, 2), dtype), jax.ShapeDtypeStruct((2,), dtype)

    def ops(x, t):
        def velocity(x, t):
            return flow.gaussian_velocity(x, t, M, STD)

        return (
            flow.interpolate(x, x, t),
            velocity(x, t),
            flow.gaussian_flow(x, M, STD),
            flow.mixture_velocity(x, t, MODES),
            *(sampler(velocity, x, 3) for sampler in flow.SAMPLERS.values()),
        )

    assert {y.dtype for y in jax.eval_shape(ops, x, t)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("schedule", [schedules.vp(5), schedules.linear(4, last=0.5)])
def test_a_velocity_predicts_the_noise_of_a_diffusion(schedule):
    """For Gaussian data both are known; levels per row, and one level for all."""
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    rows = np.arange(1, 4)[:, None]

    def found(x, n):
        return flow.predicted_noise(
            lambda x, t: flow.gaussian_velocity(x, t, M, STD), schedule, x, n
        )

    def exact(n):
        share = schedule.alpha_bar[n][..., None] if np.ndim(n) else schedule.alpha_bar[n]
        gap = x - np.sqrt(share) * M
        return np.sqrt(1 - share) * gap / (share * STD**2 + 1 - share)

    for n in (rows, 2):
        np.testing.assert_allclose(compiled(found, x, n), exact(n), rtol=1e-9, atol=1e-12)
