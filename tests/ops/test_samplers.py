"""Samplers on the exact scores of mixtures: weights of modes, spread, stationarity."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxrl_prefs.ops import mixtures, samplers

COUNT = 10_000


def drawn(mixture, sampler, count=COUNT, seed=0):
    key, size = jax.random.key(seed), mixture.means.shape[1]

    @jax.jit
    def draw(key):
        start_key, noise_key = jax.random.split(key)
        start = jax.random.normal(start_key, (count, size))
        return sampler(mixture.score, start, samplers.normal_noise(noise_key, start))

    return np.asarray(draw(key))


def corrected(**how):
    return partial(samplers.predictor_corrector, correct=samplers.langevin(**how))


def few(score, start, noise, **more):
    del noise
    return samplers.few_step(score, start, **more)


PREDICTOR = partial(samplers.predictor_corrector, correct=None)


@pytest.mark.parametrize(
    "sampler", [PREDICTOR, corrected(per_sample=False)], ids=["predictor", "batch norms"]
)
def test_500_steps_find_the_modes(sampler):
    """Deviations lie below 1 because the last step's noise is left out."""
    mixture = mixtures.pair(1)
    share, spread = mixture.mode_statistics(drawn(mixture, sampler, count=20_000))
    assert share[0] == pytest.approx(0.7, abs=0.01)
    assert 0.98 <= np.sqrt(share @ spread**2) <= 1.0


@pytest.mark.parametrize(("size", "weight", "spread"), [(1, 0.532, None), (3, 0.637, 1.47)])
def test_norms_of_each_sample_are_biased_as_they_are_known_to_be(size, weight, spread):
    """The published sampler, with the exact score: section 4 of the sheet has the table."""
    mixture = mixtures.pair(size)
    y = drawn(mixture, corrected(per_sample=True))
    assert np.isfinite(y).all()
    share, _ = mixture.mode_statistics(y)
    assert share[0] == pytest.approx(weight, abs=0.012)
    far = ((y[:, None] - mixture.means[None]) ** 2).sum(-1).min(1) > 25 * 0.01 * size
    if size == 1:
        assert far.mean() == pytest.approx(0.17, abs=0.02)
    else:
        assert far.mean() < 0.005
        inside = (y - np.where(y[:, :1] > 0, *mixture.means[:, None]))[~far]
        assert inside.std() / 0.1 == pytest.approx(spread, abs=0.05)


@pytest.mark.parametrize(("size", "std"), [(1, 0.1), (3, 0.05), (3, 0.2)])
def test_24_steps_find_the_modes_as_well(size, std):
    mixture = mixtures.pair(size, std=std)
    share, spread = mixture.mode_statistics(drawn(mixture, few))
    assert share[0] == pytest.approx(0.7, abs=0.02)
    np.testing.assert_allclose(spread, 1, atol=0.05)


def test_24_steps_find_four_modes():
    share, spread = mixtures.cross().mode_statistics(drawn(mixtures.cross(), few))
    np.testing.assert_allclose(share, 0.25, atol=0.02)
    np.testing.assert_allclose(spread, 1, atol=0.05)


def test_few_steps_converge_to_the_flow():
    """On a line the flow keeps the order of points: x has the quantile of the noise it comes from.

    But for the last time, whose noise is left out: END moves no quantile by more than 2e-3.
    """
    mixture = mixtures.pair(1, std=0.4)
    start = jnp.linspace(-2, 2, 41)[:, None]
    expected = np.asarray(norm.cdf(start[:, 0]))
    errors = []
    for steps in (10, 24):
        x = jax.jit(partial(samplers.few_step, mixture.score, steps=steps))(start)
        below = norm.cdf((np.asarray(x) - mixture.means[None, :, 0]) / 0.4) @ mixture.weights
        errors.append(np.abs(below - expected).max())
    assert errors[1] < 2e-3 < errors[0] / 2


def test_the_adaptive_flow_finds_the_modes():
    """Each item with its own steps; stds keep the noise at the last time, .5 % of .1."""
    mixture = mixtures.pair(1)

    def sampler(score, start, noise):
        del noise
        return jax.vmap(lambda y: samplers.flow(score, y))(start)

    y = drawn(mixture, sampler, count=2_000)
    share, spread = mixture.mode_statistics(y)
    assert share[0] == pytest.approx(0.7, abs=0.04)
    np.testing.assert_allclose(spread, 1.005, atol=0.05)


def test_few_steps_leave_normal_data_alone():
    start = jnp.float32(np.random.default_rng(0).normal(size=(50, 3)))
    score = mixtures.normal(3).score
    np.testing.assert_allclose(samplers.few_step(score, start), start, rtol=2e-4, atol=2e-4)


def test_the_langevin_step_has_its_size():
    """e = 2 (.16 |z| / |g|)^2, by hand."""
    y = jnp.zeros((2, 2))
    g, z = jnp.array([[3.0, 4.0], [0.0, 1.0]]), jnp.array([[0.0, 2.0], [1.0, 0.0]])
    own = 2 * (0.16 * np.array([[2.0], [1.0]]) / np.array([[5.0], [1.0]])) ** 2
    mean = 2 * (0.16 * 1.5 / 3.0) ** 2
    for per_sample, e in ((True, own), (False, mean)):
        found = samplers.langevin(per_sample=per_sample)(y, g, z)
        np.testing.assert_allclose(found, e * g + np.sqrt(2 * e) * z, rtol=1e-6)


def test_the_langevin_chain_stays_where_it_is_known_to_stay():
    """N(0, v I) under batch norms: step / v = 2 .16^2 = .0512, variance v / (1 - .0256)."""
    v, correct = 0.3, samplers.langevin(per_sample=False)

    @jax.jit
    def chain(key):
        y = jnp.sqrt(v) * jax.random.normal(key, (COUNT, 2))
        noise = samplers.normal_noise(key, y)

        def body(n, carry):
            y, total = carry
            y = correct(y, -y / v, noise(n))
            return y, total + (n >= 200) * jnp.mean(y**2) / 200

        return jax.lax.fori_loop(0, 400, body, (y, 0.0))[1]

    seen = chain(jax.random.key(0))
    assert seen / v == pytest.approx(1.0256, abs=0.004)


def test_one_step_by_hand():
    """Two times, 1 and END, corrector before predictor, the mean of the last step returned."""
    mixture = mixtures.pair(1, std=0.4)
    draws = [np.full((1, 1), x, np.float32) for x in (0.3, -0.2, 0.7, 0.1)]
    start = jnp.full((1, 1), 0.5)
    correct = samplers.langevin()
    found = samplers.predictor_corrector(
        mixture.score, start, lambda n: jnp.asarray(draws)[n], correct=correct, steps=2
    )
    y, dt = start, 1 - 1e-3
    for t, (z, zz) in zip((1.0, 1e-3), (draws[:2], draws[2:]), strict=True):
        beta = 0.1 + 19.9 * t
        y = correct(y, mixture.score(y, jnp.float32(t)), z)
        mean = y + dt * beta * (0.5 * y + mixture.score(y, jnp.float32(t)))
        y = mean + np.sqrt(beta * dt) * zz
    np.testing.assert_allclose(found, mean, rtol=1e-5)
