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


def test_td_target_stops_where_the_discount_is_zero():
    reward, discount = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.9, 0.0, 0.5])
    found = values.td_target(reward, discount, jnp.array([10.0, 1e6, -4.0]))
    np.testing.assert_allclose(found, [10.0, 2.0, 1.0], rtol=1e-6)
