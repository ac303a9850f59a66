"""The score model on networks whose score is known."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import learner
from jaxrl_prefs.behavior import score
from jaxrl_prefs.ops import likelihood, mixtures, samplers, vpsde
from jaxrl_prefs.types import Net, Spec
from tests.exact import compiled, fixed

FIXED = score.Solver(lambda s, y, noise: likelihood.log_density(s, y), False)
FEW = score.Solver(lambda s, y, noise: samplers.few_step(s, y), False)


def spec(size=3, std=1.0, mean=0.0):
    one = np.ones(size, np.float32)
    return Spec(2, size, 10, -one, one, np.zeros(2), np.ones(2), mean * one, std * one)


def known(mixture):
    """f = std * score, times the parameter."""
    return Net(
        lambda key, *inputs: jnp.ones(()),
        lambda params, y, context, t: params * vpsde.std(t) * mixture.score(y, t),
    )


def model_of(mixture, members=1, **moments):
    return score.model(known(mixture), members, spec(mixture.means.shape[1], **moments))


# ------------------------------------------------------------------------------------ standardising


def test_standardised_data_and_back():
    """Deviations below .05 are raised to it; what never varies is 0, and comes back as its mean."""
    standard = score.Standard.of(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.01, 0.0]))
    x = jnp.float32([[5.0, 2.1, 3.0]])
    np.testing.assert_allclose(standard.apply(x), [[2.0, 2.0, 0.0]], rtol=1e-4)
    np.testing.assert_allclose(standard.invert(standard.apply(x)), x, rtol=1e-6)
    assert standard.invert(jnp.ones((1, 3)))[0, 2] == 3


def test_a_density_in_raw_units_has_the_volume():
    """Doubling all stds moves the raw log-density by -d log 2, and no filter decision."""
    mixture, y = mixtures.pair(3), jnp.float32([[[0.7, 0.0, 0.1]], [[0.2, 0.3, 0.0]]])
    values, raw = [], []
    for std in (0.5, 1.0):
        model = model_of(mixture, std=std)
        action = model.action.invert(y)
        again = model.action.apply(action)
        found = compiled(
            lambda again, model=model: score.log_density(
                model, jnp.ones(1), jnp.zeros((2, 2)), again, FIXED
            ),
            again,
        )
        values.append(found)
        raw.append(values[-1] + model.action.log_volume)
    np.testing.assert_allclose(values[0], values[1], atol=1e-4)
    np.testing.assert_allclose(raw[1] - raw[0], -3 * math.log(2), atol=1e-4)
    np.testing.assert_allclose(raw[0] - values[0], 3 * math.log(2), atol=1e-6)


# ------------------------------------------------------------------------------------ loss


def loss(gain, rows=200_000):
    """Of f = -gain std y, which for data N(0, I) in three dimensions is best at gain 1."""
    net = Net(None, lambda params, y, context, t: -params * vpsde.std(t)[:, None] * y)
    action = jnp.float32(np.random.default_rng(0).normal(size=(rows, 3)))

    def of(params, key):
        return score.denoising_loss(
            params,
            model=score.model(net, 1, spec()),
            observation=jnp.zeros((rows, 2)),
            action=action,
            key=key,
        )[0]

    return compiled(of, jnp.float32([gain]), jax.random.key(0))


def test_an_output_of_zero_loses_the_dimension():
    """Sum of z^2 over dimensions, neither halved nor averaged."""
    assert loss(0) == pytest.approx(3, abs=0.03)


def test_the_best_network_loses_what_is_known():
    """For N(0, I): d E[exp(-I)] over the times."""
    t = np.linspace(0, 1, 20_001)
    assert loss(1) == pytest.approx(3 * np.exp(-(0.1 * t + 9.95 * t**2)).mean(), rel=0.02)


def test_members_take_their_own_rows():
    """The sum over members of each one's mean over its share; gradients do not mix."""
    seen = Net(lambda key, *inputs: jnp.ones(()), lambda p, y, c, t: p * jnp.ones_like(y))
    model = score.model(seen, 2, spec())
    action, key = jnp.zeros((6, 3)), jax.random.key(0)
    z = jax.random.normal(jax.random.split(key)[1], (6, 3))

    def of(params):
        return score.denoising_loss(
            params, model=model, observation=jnp.zeros((6, 2)), action=action, key=key
        )[0]

    expected = [((1 + z[:3]) ** 2).sum(-1).mean(), ((2 + z[3:]) ** 2).sum(-1).mean()]
    found, grads = jax.value_and_grad(of)(jnp.array([1.0, 2.0]))
    assert found == pytest.approx(sum(map(float, expected)), rel=1e-5)
    slopes = [(2 * (1 + z[:3])).sum(-1).mean(), (2 * (2 + z[3:])).sum(-1).mean()]
    np.testing.assert_allclose(grads, slopes, rtol=1e-5)


def test_the_moving_average_forgets_its_start():
    part = fixed(jnp.float32(2.0), jnp.float32(5.0))
    for _ in range(100):
        part = learner.polyak(part, 0.001)
    assert part.target == pytest.approx(2 + 0.999**100 * 3, rel=1e-5)


# ------------------------------------------------------------------------------------ solving


def test_scores_of_members_are_averaged():
    mixture = mixtures.normal(3)
    model = model_of(mixture, members=3)
    y = jnp.float32(np.random.default_rng(0).normal(size=(4, 5, 3)))
    at = score.score_at(model, jnp.array([1.0, 2.0, 6.0]), jnp.zeros((4, 1, 2)))
    np.testing.assert_allclose(at(y, jnp.float32(0.3)), -3 * y, rtol=1e-5)


def test_samples_and_densities_are_those_of_the_data():
    mixture = mixtures.pair(2)
    model = model_of(mixture)

    def both(key):
        streams = jax.random.split(key, 100)
        y = score.sample(model, jnp.ones(1), jnp.zeros((100, 2)), streams, 40, FEW)
        return y, score.log_density(model, jnp.ones(1), jnp.zeros((100, 2)), y, FIXED)

    y, density = compiled(both, jax.random.key(0))
    share, spread = mixture.mode_statistics(y.reshape(-1, 2))
    assert share[0] == pytest.approx(0.7, abs=0.03)
    np.testing.assert_allclose(spread, 1, atol=0.05)
    assert np.abs(density - mixture.log_density(jnp.asarray(y))).mean() < 0.01


def test_each_item_may_have_its_own_steps():
    """Adaptive and fixed steps agree; each state has its own, which the network reads."""
    mixture = mixtures.pair(2, std=0.4)
    exact = known(mixture)
    net = exact._replace(apply=lambda p, y, c, t: exact.apply(p, y - 0.2 * c, c, t))
    model = score.model(net, 1, spec(2))
    observation = jnp.float32(np.random.default_rng(1).normal(size=(2, 2)))
    y = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 2)))
    each = score.Solver(lambda s, y, noise: likelihood.adaptive_log_density(s, y), True)
    many = score.Solver(lambda s, y, noise: likelihood.log_density(s, y, nodes=200), False)
    found, expected = compiled(
        lambda p: [score.log_density(model, p, observation, y, s) for s in (each, many)],
        jnp.ones(1),
    )
    assert expected.std() > 0.5
    np.testing.assert_allclose(found, expected, atol=0.005)


def test_a_row_has_the_same_samples_in_any_batch():
    model = model_of(mixtures.pair(2))
    langevin = samplers.langevin()

    def solve(s, y, noise):
        return samplers.predictor_corrector(s, y, noise, correct=langevin, steps=5)

    def sample(streams):
        return score.sample(
            model, jnp.ones(1), jnp.zeros((len(streams), 2)), streams, 3, score.Solver(solve, False)
        )

    keys = jax.random.split(jax.random.key(0), 4)
    together, alone = compiled(lambda: (sample(keys), sample(keys[2:3])))
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.1
