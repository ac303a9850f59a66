"""Policies that draw at once: closed forms of divergence, fit and bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.types import Net
from tests.exact import compiled

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


def mean_of(output):
    return CENTRE + RADIUS * np.tanh(output[:2])


def divergence(family, actor, behavior, rows=6, count=3):
    state, action = jnp.zeros((rows, 1)), jnp.zeros((rows, 2))

    def both():
        path = family.paths(actor, behavior, state, jax.random.key(0), count)
        return path, family.refine(actor, behavior, state, action, jax.random.key(0), count)

    return compiled(both)


def test_gaussians_pay_their_analytic_kl():
    family = gaussian.diagonal(TABLE, LOW, HIGH)
    (samples, penalty), step = divergence(family, ACTOR, BEHAVIOR)
    one, other = np.exp(ACTOR[2:]), np.exp(BEHAVIOR[2:])
    gap = mean_of(ACTOR) - mean_of(BEHAVIOR)
    expected = np.sum(np.log(other / one) + (one**2 + gap**2) / (2 * other**2) - 0.5)
    np.testing.assert_allclose(penalty, np.full((6, 3), expected), rtol=1e-12)
    np.testing.assert_allclose(step.penalty, np.full(6, expected), rtol=1e-12)
    assert samples.shape == step.samples.shape == (6, 3, 2)
    assert (step.level == 1).all() and family.levels == 1


def test_points_pay_half_their_squared_distance():
    family = gaussian.deterministic(TABLE, LOW, HIGH)
    (samples, penalty), step = divergence(family, ACTOR[:2], BEHAVIOR[:2])
    expected = 0.5 * np.sum((mean_of(ACTOR) - mean_of(BEHAVIOR)) ** 2)
    np.testing.assert_allclose(penalty, np.full((6, 3), expected), rtol=1e-12)
    np.testing.assert_allclose(step.penalty, np.full(6, expected), rtol=1e-12)
    np.testing.assert_allclose(samples, np.tile(mean_of(ACTOR), (6, 3, 1)), rtol=1e-12)


@pytest.mark.parametrize("make", [gaussian.diagonal, gaussian.deterministic])
def test_a_policy_pays_nothing_against_itself(make):
    output = ACTOR if make is gaussian.diagonal else ACTOR[:2]
    (_, penalty), step = divergence(make(TABLE, LOW, HIGH), output, output)
    np.testing.assert_array_equal(penalty, 0)
    np.testing.assert_array_equal(step.penalty, 0)


def test_gaussian_samples_are_the_normal_clipped_to_the_box():
    rows, family = 40_000, gaussian.diagonal(TABLE, LOW, HIGH)
    wide = np.array([0.3, -0.2, np.log(0.5), np.log(2.0)])
    samples = compiled(lambda: family.draw(wide, jnp.zeros((rows, 1)), jax.random.key(0), 1))
    samples = samples[:, 0]
    assert (samples >= LOW).all() and (samples <= HIGH).all()
    law = scipy.stats.norm(mean_of(wide), np.exp(wide[2:]))
    shares = ((samples == LOW).mean(0), law.cdf(LOW)), ((samples == HIGH).mean(0), law.sf(HIGH))
    middle = ((samples < mean_of(wide) + 0.3).mean(0), law.cdf(mean_of(wide) + 0.3))
    for found, share in (*shares, middle):
        assert (np.abs(found - share) < 5 * np.sqrt(share * (1 - share) / rows)).all()


def test_gaussian_fit_is_the_negative_log_likelihood():
    family = gaussian.diagonal(TABLE, LOW, HIGH)
    action = np.random.default_rng(0).uniform(LOW, HIGH, (7, 2))
    loss, metrics = compiled(
        lambda a: family.fit(jnp.asarray(ACTOR), jnp.zeros((7, 1)), a, jax.random.key(0)), action
    )
    expected = -scipy.stats.norm.logpdf(action, mean_of(ACTOR), np.exp(ACTOR[2:])).sum(1).mean()
    assert loss == pytest.approx(expected, rel=1e-12)
    assert metrics["behavior_loss"] == (np.float32(loss), 1)


def test_point_fit_is_the_mean_squared_error():
    family = gaussian.deterministic(TABLE, LOW, HIGH)
    action = np.random.default_rng(0).uniform(LOW, HIGH, (7, 2))
    loss, _ = compiled(
        lambda a: family.fit(jnp.asarray(ACTOR[:2]), jnp.zeros((7, 1)), a, jax.random.key(0)),
        action,
    )
    assert loss == pytest.approx(np.mean((mean_of(ACTOR) - action) ** 2), rel=1e-12)


@pytest.mark.parametrize("make", [gaussian.diagonal, gaussian.deterministic])
def test_extreme_outputs_stay_inside_the_box_and_finite(make):
    size = 4 if make is gaussian.diagonal else 2
    family = make(TABLE, LOW, HIGH)
    for output in (np.full(size, 1e4), np.full(size, -1e4)):
        (samples, penalty), _ = divergence(family, output, np.zeros(size))
        assert (samples >= LOW).all() and (samples <= HIGH).all()
        assert np.isfinite(penalty).all()


def test_deviations_are_held_between_their_bounds():
    head = gaussian.gaussian_head(LOW, HIGH)
    _, std = compiled(head, np.array([[0, 0, -50.0, 50.0], [0, 0, -1.0, 0.5]]))
    expected = np.exp([[gaussian.LOG_STD_MIN, gaussian.LOG_STD_MAX], [-1.0, 0.5]])
    np.testing.assert_allclose(std, expected, rtol=1e-12)


@pytest.mark.parametrize("make", [gaussian.diagonal, gaussian.deterministic])
def test_gradients_reach_the_actor_and_never_the_behaviour(make):
    family = make(TABLE, LOW, HIGH)
    size = 4 if make is gaussian.diagonal else 2

    def sums(actor, behavior):
        state, action = jnp.zeros((5, 1)), jnp.zeros((5, 2))
        step = family.refine(actor, behavior, state, action, jax.random.key(0), 3)
        return jnp.stack([step.samples.sum(), step.penalty.sum()])

    by_actor, by_behavior = compiled(
        jax.jacobian(sums, argnums=(0, 1)), ACTOR[:size], BEHAVIOR[:size]
    )
    assert (by_actor != 0).all(1).any() and (by_actor[1] != 0).all()
    np.testing.assert_array_equal(by_behavior, 0)
