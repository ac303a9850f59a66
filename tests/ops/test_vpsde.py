"""The variance-preserving SDE against its closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import mixtures, vpsde

# t, I, mean coefficient, std
TABLE = [
    (1e-5, 1.000995e-6, 0.9999994995, 1.000497e-3),
    (1e-3, 1.0995e-4, 0.99994503, 0.01048542),
    (0.1, 0.1095, 0.9467218, 0.3220525),
    (0.5, 2.5375, 0.2811829, 0.9596542),
    (1.0, 10.05, 0.0065716, 0.9999784),
]
TIMES = np.concatenate([np.geomspace(1e-5, 1, 50), np.linspace(0.02, 1, 50)])


@pytest.mark.parametrize(("t", "total", "mean", "std"), TABLE)
def test_marginals(t, total, mean, std):
    """In single precision: 1 - exp(-I) without expm1 is off by a percent at t = 1e-5."""
    t = jnp.float32(t)
    assert vpsde.integral(t) == pytest.approx(total, rel=2e-6)
    assert vpsde.mean_coefficient(t) == pytest.approx(mean, rel=2e-5)
    assert vpsde.std(t) == pytest.approx(std, rel=2e-6)


@pytest.mark.usefixtures("x64")
def test_the_integral_is_that_of_the_rate():
    np.testing.assert_allclose(jax.vmap(jax.grad(vpsde.integral))(TIMES), vpsde.beta(TIMES))


def test_time_and_noise_ratio_are_inverse():
    t = jnp.float32(TIMES)
    ratio = vpsde.log_ratio(t)
    np.testing.assert_allclose(
        ratio, np.log(vpsde.std(t) / vpsde.mean_coefficient(t)), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(vpsde.time_of(ratio), t, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [1e-5, 0.3])
def test_drifts_of_a_mixture_move_its_density(t):
    """Fokker and Planck: d p / dt = -div(p flow), for the ODE and, in reverse, for the SDE."""
    mixture, y = mixtures.pair(1, std=0.4), jnp.linspace(-2, 2, 9)[:, None]

    def density(y, t):
        return jnp.exp(mixture.log_density(y, t))

    def ode(y):
        return density(y, t) * vpsde.flow(mixture.score, y, t)[0]

    def sde(y):  # p drift - d(g^2 p)/2 in reversed time has the opposite noise term
        return density(y, t) * vpsde.reverse_drift(mixture.score, y, t)[0]

    def bend(y):
        return jax.grad(lambda y: jax.grad(density)(y, t)[0])(y)[0]

    rate = jax.vmap(jax.grad(density, 1), (0, None))(y, t)
    by_ode = -jax.vmap(lambda y: jax.grad(ode)(y)[0])(y)
    by_sde = -jax.vmap(lambda y: jax.grad(sde)(y)[0] + 0.5 * vpsde.beta(t) * bend(y))(y)
    np.testing.assert_allclose(by_ode, rate, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_sde, rate, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_ratio_flow_is_the_flow_in_another_variable():
    mixture, y = mixtures.cross(), jnp.array([[0.3, -0.2]])
    for t in (1e-5, 0.02, 0.5, 1.0):
        slope = jax.grad(vpsde.log_ratio)(t)
        found = vpsde.ratio_flow(mixture.score, y, t) * slope
        np.testing.assert_allclose(found, vpsde.flow(mixture.score, y, t), rtol=1e-9)


def test_normal_data_stand_still():
    """Score -y at every time: neither flow nor divergence."""
    y = jnp.array([[0.3, -2.0, 1.1]])
    for t in (1e-5, 0.2, 1.0):
        t = jnp.float32(t)
        np.testing.assert_allclose(mixtures.normal(3).score(y, t), -y, rtol=1e-6)
        assert not vpsde.flow(lambda y, t: -y, y, t).any()
        assert not vpsde.ratio_flow(lambda y, t: -y, y, t).any()


@pytest.mark.usefixtures("x64")
def test_the_score_of_a_mixture_is_the_slope_of_its_density():
    mixture, y = mixtures.cross(), jnp.array(np.random.default_rng(0).normal(size=(7, 2)))
    for t in (1e-3, 0.1, 1.0):
        slope = jax.vmap(jax.grad(lambda y, t=t: mixture.log_density(y, t)))(y)
        np.testing.assert_allclose(mixture.score(y, t), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_clean_data_of_one_gaussian():
    """Prior N(mu, s^2), seen through m y + std z: the posterior mean."""
    mixture = mixtures.Mixture(np.ones(1), np.array([[0.4]]), 0.3)
    t, y = jnp.float64(0.2), jnp.array([[0.9]])
    m, std = vpsde.mean_coefficient(t), vpsde.std(t)
    gain = 0.09 * m / (m**2 * 0.09 + std**2)
    expected = 0.4 + gain * (y - m * 0.4)
    np.testing.assert_allclose(vpsde.clean(mixture.score, y, t), expected, rtol=1e-9)


def test_noised_data_have_the_marginal_moments():
    t = jnp.array([0.1, 0.5])
    y, z = jnp.array([[2.0], [2.0]]), jnp.array([[1.0], [-1.0]])
    expected = [[0.9467218 * 2 + 0.3220525], [0.2811829 * 2 - 0.9596542]]
    np.testing.assert_allclose(vpsde.noised(y, t, z), expected, rtol=1e-5)


def test_nodes_span_the_times_and_measure_their_steps():
    times, steps = vpsde.nodes(1e-5, 1.0, 201)
    np.testing.assert_allclose(times[jnp.array([0, -1])], [1e-5, 1], rtol=1e-4)
    assert (np.diff(times) > 0).all()
    ratio = np.asarray(vpsde.log_ratio(times))
    np.testing.assert_allclose(np.gradient(ratio)[1:-1], steps[1:-1], rtol=1e-3)
    backwards, down = vpsde.nodes(1.0, 1e-5, 201)
    np.testing.assert_allclose(backwards, times[::-1], rtol=1e-4)
    assert (down < 0).all()
