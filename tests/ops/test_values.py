"""Targets and ensemble bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs.ops import values


def test_lower_confidence_bound_of_one_two_three():
    """Check H: the population deviation of {1, 2, 3} is 0.816497."""
    members = jnp.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    np.testing.assert_allclose(values.lcb(members, 1.0), 1.183503, atol=1e-6)
    np.testing.assert_allclose(values.lcb(members, 0.5), 1.591752, atol=1e-6)


def test_without_pessimism_the_bound_is_the_mean():
    members = jnp.array([[1.0, 5.0], [2.0, -1.0], [6.0, 2.0]])
    np.testing.assert_array_equal(values.lcb(members, 0.0), [3.0, 2.0])


@pytest.mark.parametrize("size", [1, 4])
def test_bound_of_members_that_agree_has_a_finite_gradient(size):
    slope = jax.grad(lambda x: values.lcb(x, 0.5))(jnp.ones(size))
    np.testing.assert_allclose(slope, 1 / size, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gradient_of_the_bound():
    members, rho = jnp.array([1.0, 2.0, 4.0]), 0.7
    x = np.asarray(members)
    expected = 1 / 3 - rho * (x - x.mean()) / (3 * x.std())
    np.testing.assert_allclose(jax.grad(values.lcb)(members, rho), expected, rtol=1e-12)


def test_bound_by_variance():
    """BPR's check G: members 1, 2, 3, 4 have population variance 1.25 (and deviation 1.118)."""
    members = jnp.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.0, 2.0]])
    np.testing.assert_allclose(values.variance_lcb(members, 2.0), [0, 2], atol=1e-6)
    np.testing.assert_allclose(values.variance_lcb(members, 0.4), [2, 2], atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_expectile_error_is_smallest_at_the_expectile_of_the_uniform_law(expectile):
    """Of U(0, 1) it is sqrt(t) / (sqrt(t) + sqrt(1 - t)): t (1 - e)^2 = (1 - t) e^2."""
    sample = (jnp.arange(20_000) + 0.5) / 20_000
    expected = np.sqrt(expectile) / (np.sqrt(expectile) + np.sqrt(1 - expectile))

    def loss(v):
        return values.expectile_error(sample - v, expectile).mean()

    slope = jax.grad(loss)
    assert abs(slope(expected)) < 1e-8
    assert slope(expected - 0.01) < -1e-3 and slope(expected + 0.01) > 1e-3
    if expectile == 0.5:
        assert loss(0.3) == pytest.approx(0.5 * float(jnp.square(sample - 0.3).mean()), rel=1e-12)


def test_advantage_weights_are_exponential_up_to_their_bound():
    advantage = jnp.array([-2.0, 0.0, 1.0, 3.0, 1e30])
    found = values.advantage_weight(advantage, 3.0, 100.0)
    expected = [np.exp(-6), 1.0, np.exp(3), 100.0, 100.0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(
        jax.vmap(jax.grad(values.advantage_weight), (0, None, None))(advantage, 3.0, 100.0)
    ).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_normalised_values_forget_their_scale_and_gradients_skip_the_divisor(scale):
    q = jnp.array([1.0, -3.0, 0.5])
    found = values.normalised(scale * q)
    np.testing.assert_allclose(found, q / 1.5, rtol=1e-12)
    # with the mean's own derivative the slope of the sum would not be 1 / mean |q|
    slope = jax.grad(lambda x: values.normalised(x).sum())(scale * q)
    np.testing.assert_allclose(slope, 1 / (1.5 * scale), rtol=1e-12)


def test_values_that_are_all_zero_stay_so():
    np.testing.assert_array_equal(values.normalised(jnp.zeros(3)), 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_gumbel_error_is_smallest_at_the_log_mean_exponential(temperature):
    """From the maximum (0.05) to the mean (20); values far apart do not overflow."""
    targets = np.random.default_rng(0).normal(size=500) * np.array([1.0, 3.0]).repeat(250)
    largest = targets.max()
    exponentials = np.exp((targets - largest) / temperature)
    expected = largest + temperature * np.log(exponentials.mean())

    def loss(v):
        return values.gumbel_error(jnp.asarray(targets) - v, temperature, np.inf).mean()

    both = jax.jit(jax.value_and_grad(loss))
    assert abs(both(expected)[1]) < 1e-12
    assert both(expected - 0.1)[1] < -1e-4 and both(expected + 0.1)[1] > 1e-4
    assert np.isfinite([both(-1e5), both(1e5)]).all()


@pytest.mark.usefixtures("x64")
def test_gumbel_error_by_hand():
    """One error is clipped and has no slope; all are divided by e to the largest exponent, 2."""
    error, temperature = np.array([-3.0, 0.5, 4.0, 9.0]), 2.0
    z = np.minimum(error / temperature, 2.0)
    found = values.gumbel_error(jnp.asarray(error), temperature, 2.0)
    np.testing.assert_allclose(found, (np.exp(z) - z - 1) / np.exp(2), rtol=1e-12)
    slope = jax.grad(lambda u: values.gumbel_error(u, temperature, 2.0).sum())(jnp.asarray(error))
    expected = (np.exp(z) - 1) / np.exp(2) / temperature * [1, 1, 0.5, 0]  # min's slope at a tie
    np.testing.assert_allclose(slope, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("curvature", [0.5, 8.0])
def test_log_integral_agrees_with_quadrature_for_a_quadratic(curvature):
    """Q(a) = 1 - c (a - .3)^2 over [-1, 1], from uniform and from normal points; and its error."""
    middle, count = 0.3, 100_000

    def q(a):
        return 1 - curvature * (a - middle) ** 2

    grid = (np.arange(20_000) + 0.5) / 10_000 - 1
    expected = np.log(2 * np.exp(q(grid)).mean())
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-1, 1, count)
    tails = rng.normal(0.2, 0.6, 2 * count)
    inside = tails[np.abs(tails) < 1][:count]  # a truncated normal: its density is larger by 1 / p
    share = scipy.stats.norm.cdf([-1, 1], 0.2, 0.6)
    density = scipy.stats.norm.logpdf(inside, 0.2, 0.6) - np.log(share[1] - share[0])
    points = np.concatenate([uniform, inside])
    densities = np.concatenate([np.full(count, -np.log(2)), density])
    found = values.log_integral(jnp.asarray(q(points)), jnp.asarray(densities))
    weights = np.exp(q(points) - densities)
    error = weights.std() / weights.mean() / np.sqrt(len(points))
    assert error < 5e-3
    assert abs(found - expected) < 4 * error
