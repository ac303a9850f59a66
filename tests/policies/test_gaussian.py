"""Policies that sample in one step: closed forms of divergence, cloning loss and bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs.ops.gaussian import LOG_STD_MIN
from jaxrl_prefs.policies import gaussian, paths
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Box, Net
from tests.exact import compiled, import_distrax

pytestmark = pytest.mark.usefixtures("x64")

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 4.0])
CENTRE, RADIUS = np.array([0.0, 1.0]), np.array([1.0, 3.0])
# the output itself is the parameter, the same in every state
TABLE = Net(
    lambda key, observation: jnp.zeros(4),
    lambda output, observation: jnp.broadcast_to(output, (len(observation), len(output))),
)
ACTOR = np.array([0.3, -0.2, np.log(0.5), np.log(0.2)])
BEHAVIOR = np.array([-0.1, 0.4, np.log(0.3), np.log(0.7)])


GAUSSIAN = DiagonalGaussian(TABLE, Box(LOW, HIGH))
POINT = Deterministic(TABLE, Box(LOW, HIGH))


def diagonal():
    return paths.gaussian_path(GAUSSIAN)


def deterministic():
    return paths.deterministic_path(POINT)


def mean_of(output):
    return CENTRE + RADIUS * np.tanh(output[:2])


def divergence(policy, actor, behavior, rows=6, count=3):
    state, action = jnp.zeros((rows, 1)), jnp.zeros((rows, 2))

    def both():
        path = policy.paths(actor, behavior, state, jax.random.key(0), count)
        return path, policy.refine(actor, behavior, state, action, jax.random.key(0), count)

    return compiled(both)


def test_gaussians_pay_their_analytic_kl():
    policy = diagonal()
    (samples, penalty), step = divergence(policy, ACTOR, BEHAVIOR)
    one, other = np.exp(ACTOR[2:]), np.exp(BEHAVIOR[2:])
    gap = mean_of(ACTOR) - mean_of(BEHAVIOR)
    expected = np.sum(np.log(other / one) + (one**2 + gap**2) / (2 * other**2) - 0.5)
    np.testing.assert_allclose(penalty, np.full((6, 3), expected), rtol=1e-12)
    np.testing.assert_allclose(step.penalty, np.full(6, expected), rtol=1e-12)
    assert samples.shape == step.samples.shape == (6, 3, 2)
    assert (step.level == 1).all() and policy.steps == 1


def test_points_pay_half_their_squared_distance():
    policy = deterministic()
    (samples, penalty), step = divergence(policy, ACTOR[:2], BEHAVIOR[:2])
    expected = 0.5 * np.sum((mean_of(ACTOR) - mean_of(BEHAVIOR)) ** 2)
    np.testing.assert_allclose(penalty, np.full((6, 3), expected), rtol=1e-12)
    np.testing.assert_allclose(step.penalty, np.full(6, expected), rtol=1e-12)
    np.testing.assert_allclose(samples, np.tile(mean_of(ACTOR), (6, 3, 1)), rtol=1e-12)


@pytest.mark.parametrize("make", [diagonal, deterministic])
def test_a_policy_pays_nothing_against_itself(make):
    output = ACTOR if make is diagonal else ACTOR[:2]
    (_, penalty), step = divergence(make(), output, output)
    np.testing.assert_array_equal(penalty, 0)
    np.testing.assert_array_equal(step.penalty, 0)


def test_gaussian_samples_are_the_normal_clipped_to_the_box():
    rows, policy = 40_000, diagonal()
    wide = np.array([0.3, -0.2, np.log(0.5), np.log(2.0)])
    samples = compiled(lambda: policy.sample(wide, jnp.zeros((rows, 1)), jax.random.key(0), 1))
    samples = samples[:, 0]
    assert (samples >= LOW).all() and (samples <= HIGH).all()
    law = scipy.stats.norm(mean_of(wide), np.exp(wide[2:]))
    shares = ((samples == LOW).mean(0), law.cdf(LOW)), ((samples == HIGH).mean(0), law.sf(HIGH))
    middle = ((samples < mean_of(wide) + 0.3).mean(0), law.cdf(mean_of(wide) + 0.3))
    for found, share in (*shares, middle):
        assert (np.abs(found - share) < 5 * np.sqrt(share * (1 - share) / rows)).all()


def test_gaussian_fit_is_the_negative_log_likelihood():
    policy = diagonal()
    action = np.random.default_rng(0).uniform(LOW, HIGH, (7, 2))
    loss = compiled(
        lambda a: policy.bc_loss(jnp.asarray(ACTOR), jnp.zeros((7, 1)), a, jax.random.key(0)),
        action,
    )
    expected = -scipy.stats.norm.logpdf(action, mean_of(ACTOR), np.exp(ACTOR[2:])).sum(1).mean()
    assert loss == pytest.approx(expected, rel=1e-12)


def test_point_fit_is_the_mean_squared_error():
    policy = deterministic()
    action = np.random.default_rng(0).uniform(LOW, HIGH, (7, 2))
    loss = compiled(
        lambda a: policy.bc_loss(jnp.asarray(ACTOR[:2]), jnp.zeros((7, 1)), a, jax.random.key(0)),
        action,
    )
    assert loss == pytest.approx(np.mean((mean_of(ACTOR) - action) ** 2), rel=1e-12)


@pytest.mark.parametrize("make", [diagonal, deterministic])
def test_extreme_outputs_stay_inside_the_box_and_finite(make):
    size = 4 if make is diagonal else 2
    policy = make()
    for output in (np.full(size, 1e4), np.full(size, -1e4)):
        (samples, penalty), _ = divergence(policy, output, np.zeros(size))
        assert (samples >= LOW).all() and (samples <= HIGH).all()
        assert np.isfinite(penalty).all()


def test_standard_deviations_stay_between_their_bounds():
    outputs = np.array([[0, 0, -50.0, 50.0], [0, 0, -1.0, 0.5]])
    for largest in (gaussian.LOG_STD_MAX, 2.0):
        policy = DiagonalGaussian(Net(lambda *of: None, lambda p, s: s), Box(LOW, HIGH), largest)
        _, std = compiled(lambda s, policy=policy: policy.moments(None, s), outputs)
        expected = np.exp([[LOG_STD_MIN, largest], [-1.0, 0.5]])
        np.testing.assert_allclose(std, expected, rtol=1e-12)


def test_the_distribution_is_the_density():
    """distrax's log-density, mean and standard deviation are the policy's own."""
    import_distrax()
    state = jnp.zeros((7, 1))
    action = np.random.default_rng(0).uniform(LOW, HIGH, (7, 2))

    def both(a):
        law = GAUSSIAN.distribution(ACTOR, state)
        own = GAUSSIAN.log_density(ACTOR, state, a)
        return law.log_prob(a), own, law.mean(), GAUSSIAN.act(ACTOR, state), law.stddev()

    density, own, mean, action_without_noise, std = compiled(both, action)
    np.testing.assert_allclose(density, own, rtol=1e-12)
    np.testing.assert_allclose(mean, action_without_noise, rtol=1e-12)
    np.testing.assert_allclose(std, np.tile(np.exp(ACTOR[2:]), (7, 1)), rtol=1e-12)


@pytest.mark.parametrize("make", [diagonal, deterministic])
def test_gradients_reach_the_actor_and_never_the_behaviour(make):
    policy = make()
    size = 4 if make is diagonal else 2

    def sums(actor, behavior):
        state, action = jnp.zeros((5, 1)), jnp.zeros((5, 2))
        step = policy.refine(actor, behavior, state, action, jax.random.key(0), 3)
        return jnp.stack([step.samples.sum(), step.penalty.sum()])

    by_actor, by_behavior = compiled(
        jax.jacobian(sums, argnums=(0, 1)), ACTOR[:size], BEHAVIOR[:size]
    )
    assert (by_actor != 0).all(1).any() and (by_actor[1] != 0).all()
    np.testing.assert_array_equal(by_behavior, 0)
