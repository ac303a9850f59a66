"""Targets and ensemble bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
