"""Diagonal Gaussians against scipy."""

from __future__ import annotations

import warnings

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


# ------------------------------------------------------------------------------- behind a tanh


def test_density_of_a_squashed_normal():
    """BPR's check F."""
    found = gaussian.tanh_log_density(*(jnp.full(1, x) for x in (0.7, 0.2, 0.5)))
    assert found == pytest.approx(-0.271251, abs=1e-6)


def test_it_is_distrax_s_normal_and_tanh():
    with warnings.catch_warnings():  # what distrax builds on asks jax for deprecated names
        warnings.simplefilter("ignore")
        import distrax

    (mean, std), (u, _) = draws(0, 5, 3), draws(1, 5, 3)
    mean, std, u = (jnp.asarray(x) for x in (mean, std, u))
    inner = distrax.Normal(mean, std).log_prob(u)
    expected = (inner - distrax.Tanh().forward_log_det_jacobian(u)).sum(-1)
    np.testing.assert_allclose(gaussian.tanh_log_density(u, mean, std), expected, rtol=1e-12)


def test_its_integral_over_the_box_is_one():
    def density(a):
        u = jnp.arctanh(jnp.full(1, a))
        return float(jnp.exp(gaussian.tanh_log_density(u, jnp.full(1, 0.4), jnp.full(1, 0.8))))

    assert scipy.integrate.quad(density, -1, 1, limit=200)[0] == pytest.approx(1, abs=1e-8)


def test_far_out_the_slope_of_tanh_stays_a_number():
    u = np.array([[-40.0], [9.0], [300.0]])
    expected = 2 * (np.log(2) - np.abs(u[:, 0]))  # 1 - tanh^2 = 4 exp(-2|u|) out there
    np.testing.assert_allclose(gaussian.log_tanh_slope(jnp.asarray(u)), expected, rtol=1e-7)
    slope = jax.grad(lambda u: gaussian.log_tanh_slope(u).sum())(jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(slope, [[2], [-2], [-2]], atol=1e-6)
