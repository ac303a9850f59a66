"""Diagonal Gaussians against scipy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxrl_prefs.ops import gaussian

pytestmark = pytest.mark.usefixtures("x64")


def draws(seed, *shape):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.uniform(0.2, 3.0, size=shape)


def test_log_density_matches_scipy():
    mean, std = draws(0, 5, 3)
    x, _ = draws(1, 5, 3)
    expected = scipy.stats.norm.logpdf(x, mean, std).sum(-1)
    found = gaussian.log_density(jnp.asarray(x), jnp.asarray(mean), jnp.asarray(std))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("first", "second"), [((0.3, 0.7), (-0.5, 1.6)), ((2.0, 1.5), (1.0, 0.4))])
def test_kl_is_the_integral_of_the_log_ratio(first, second):
    one, other = scipy.stats.norm(*first), scipy.stats.norm(*second)
    integral, _ = scipy.integrate.quad(
        lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), -20, 20, epsabs=1e-12
    )
    found = gaussian.kl(*(jnp.full(1, value) for value in (*first, *second)))
    assert found == pytest.approx(integral, rel=1e-8)


def test_kl_adds_over_dimensions():
    (mean, std), (other_mean, other_std) = draws(2, 5, 3), draws(3, 5, 3)
    arrays = [jnp.asarray(x) for x in (mean, std, other_mean, other_std)]
    alone = [gaussian.kl(*(x[:, i : i + 1] for x in arrays)) for i in range(3)]
    np.testing.assert_allclose(gaussian.kl(*arrays), sum(alone), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_of_the_inputs_is_kept(dtype):
    x = jax.ShapeDtypeStruct((2, 3), dtype)
    found = jax.eval_shape(lambda x: (gaussian.log_density(x, x, x), gaussian.kl(x, x, x, x)), x)
    assert {y.dtype for y in found} == {jnp.dtype(dtype)}


def test_kl_vanishes_with_its_gradient_at_equality():
    mean, std = map(jnp.asarray, draws(4, 3))
    value, slopes = jax.value_and_grad(gaussian.kl, argnums=(0, 1))(mean, std, mean, std)
    assert value == 0
    np.testing.assert_allclose(slopes, np.zeros((2, 3)), atol=1e-15)
