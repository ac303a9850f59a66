"""CQL: its gap against quadrature, its losses by hand, and the two multipliers."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxrl_prefs import nets
from jaxrl_prefs.methods import cql
from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.types import Net, Spec
from tests.exact import batch_of, compiled, filled, fixed

SPEC = Spec(1, 1, 100, -np.ones(1, "f"), np.ones(1, "f"), *[np.zeros(1)] * 4)
SMALL = cql.Config(actor_hidden=(8,), critic_hidden=(8,), action_samples=4)
CURVES = np.array([1.0, 4.0], "f")  # of the two critics: Q_k = -c_k (a - 0.3)^2


def test_defaults_are_the_authors():
    config = cql.Config()
    assert (config.conservatism, config.lagrange, config.target_gap) == (5.0, False, 5.0)
    assert (config.action_samples, config.max_backup, config.target_entropy) == (10, False, -1)
    assert config.actor_hidden == config.critic_hidden == (256, 256, 256)
    assert (config.actor_learning_rate, config.critic_learning_rate) == (1e-4, 3e-4)
    assert (config.tau, config.batch_size) == (0.005, 256)


@pytest.mark.parametrize("field", ["batch_size", "action_samples"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        cql.make(cql.Config(**{field: 0}), SPEC)


def closed_form(config):
    """Parts with quadratic critics and a policy tanh(u), u ~ N(m, (1 / 2)^2), in every state."""
    member = Net(lambda key, *inputs: 0.0, lambda c, s, a: -c * jnp.square(a[..., 0] - 0.3))
    constant = Net(
        lambda key, s: jnp.zeros(1),
        lambda m, s: jnp.broadcast_to(jnp.r_[m, jnp.log(0.5)], (*s.shape[:-1], 2)),
    )
    opt = optax.sgd(1.0)
    policy = TanhGaussian(constant, SPEC.action_box)
    return cql.Parts(config, policy, nets.ensemble(member, 2), -1.0, opt, opt)


def state_at(m, log_multiplier=None):
    opt = optax.sgd(1.0)

    def at(value):
        return fixed(jnp.asarray(value, "float32")).replace(opt_state=opt.init(value))

    critic = at(CURVES).replace(target=2 * jnp.asarray(CURVES))
    return cql.State(
        at([m]), critic, at(0.5), None if log_multiplier is None else at(log_multiplier)
    )


def test_the_log_integral_agrees_with_quadrature():
    """Over uniform actions, the policy's, and the next policy's; plus log of their number."""
    config = replace(SMALL, action_samples=20_000)
    parts, batch = closed_form(config), batch_of(np.zeros((2, 1), "f"))

    def both(key):
        draws = cql.draw(state_at(0.4), batch, key, parts=parts)
        return cql.log_integrals(jnp.asarray(CURVES), batch, draws, parts=parts), draws

    found, draws = compiled(both, jax.random.key(0))
    grid = (np.arange(20_000) + 0.5) / 10_000 - 1
    exact = np.log(2 * np.exp(-CURVES[:, None] * (grid - 0.3) ** 2).mean(1))
    np.testing.assert_allclose(found - np.log(60_000), exact[:, None].repeat(2, 1), atol=0.02)
    u = np.arctanh(draws.current.action[..., 0].astype("float64"))
    density = scipy.stats.norm.logpdf(u, 0.4, 0.5) - np.log1p(-(np.tanh(u) ** 2))
    np.testing.assert_allclose(draws.current.log_density, density, atol=5e-3)
    assert np.abs(draws.uniform).max() <= 1
    assert draws.uniform.std() == pytest.approx(1 / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("max_backup", [False, True])
def test_the_target_is_by_one_action_or_by_the_best(max_backup):
    parts = closed_form(replace(SMALL, max_backup=max_backup))
    batch = batch_of(np.zeros((3, 1), "f"), reward=[1.0, 2.0, 3.0], discount=[0.5, 0.9, 0.0])

    def both(key):
        draws = cql.draw(state_at(0.4), batch, key, parts=parts)
        action = draws.target.action
        return action, cql.critic_target(2 * jnp.asarray(CURVES), batch, action, parts=parts)

    action, target = compiled(both, jax.random.key(1))
    assert action.shape == (3, 4 if max_backup else 1, 1)
    q = -8.0 * (action[..., 0] - 0.3) ** 2  # of the critic with the larger curve
    expected = batch.reward + batch.discount * q.max(-1)
    np.testing.assert_allclose(target, expected, rtol=1e-5)


@pytest.mark.parametrize("lagrange", [False, True])
def test_one_update_by_hand(lagrange):
    """Gradient descent on critics, policy and both scalars, all from the state as it was."""
    config = replace(SMALL, lagrange=lagrange, target_gap=1.5, conservatism=2.0)
    parts, m, log_multiplier = closed_form(config), 0.4, 0.7
    action = np.array([[-0.5], [0.8], [0.1]], "f")
    batch = batch_of(action, reward=[1.0, 2.0, 3.0])
    state = state_at(m, log_multiplier if lagrange else None)

    def both(key):
        draws = cql.draw(state, batch, key, parts=parts)
        return *cql.update_with(state, batch, draws, parts=parts), draws

    after, metrics, draws = compiled(both, jax.random.key(2))
    sampled = np.concatenate([draws.uniform, draws.following.action, draws.current.action], 1)[
        ..., 0
    ].astype("float64")
    density = np.concatenate(
        [np.full((3, 4), -np.log(2)), draws.following.log_density, draws.current.log_density], 1
    )
    q = -CURVES[:, None, None] * (sampled - 0.3) ** 2
    exponentials = np.exp(q - density)
    share = exponentials / exponentials.sum(-1, keepdims=True)
    base = -((action[:, 0] - 0.3) ** 2)  # the slope of Q_k(s, a) in its curve
    data = CURVES[:, None] * base
    gap = np.log(exponentials.sum(-1)) - data
    weight = 2.0 * (np.exp(log_multiplier) if lagrange else 1.0)
    slope = (2 * (data - [1, 2, 3]) * base).mean(1)
    slope += weight * ((share * -((sampled - 0.3) ** 2)).sum(-1) - base).mean(1)
    curves = CURVES - slope
    np.testing.assert_allclose(after.critic.params, curves, rtol=1e-4)
    np.testing.assert_allclose(after.critic.target, 0.995 * 2 * CURVES + 0.005 * curves, rtol=1e-5)
    assert metrics["conservative_gap"][0] == pytest.approx(gap.mean(), rel=1e-4)
    assert metrics["gap_weight"][0] == pytest.approx(weight, rel=1e-5)
    if lagrange:
        rise = np.exp(log_multiplier) * 2.0 * (gap.mean() - 1.5)
        assert after.multiplier.params == pytest.approx(log_multiplier + rise, rel=1e-4)
    u = m + 0.5 * draws.noise[:, 0, 0].astype("float64")
    pi, eta = np.tanh(u), np.exp(0.5)
    log_pi = scipy.stats.norm.logpdf(u, m, 0.5) - np.log(1 - pi**2)
    assert metrics["entropy"][0] == pytest.approx(-log_pi.mean(), rel=1e-3)
    by_m = eta * 2 * pi - (-2 * 4.0 * (pi - 0.3)) * (1 - pi**2)  # the smaller Q has the curve 4
    np.testing.assert_allclose(after.actor.params[0], m - by_m.mean(), rtol=1e-3)
    excess = log_pi.mean() - 1.0  # log pi plus the target entropy
    assert after.temperature.params == pytest.approx(0.5 + excess, rel=1e-3)


def test_samples_carry_no_gradient_to_the_policy(tiny):
    """The conservative term trains the critics alone."""
    parts = cql.build(SMALL, Spec.of(tiny))
    state = filled(lambda key: cql.init(key, tiny, parts=parts), scale=0.3)

    def gap(params):
        own = state.replace(actor=state.actor.replace(params=params))
        draws = cql.draw(own, tiny, jax.random.key(0), parts=parts)
        return cql.log_integrals(state.critic.params, tiny, draws, parts=parts).sum()

    slopes = compiled(jax.grad(gap), state.actor.params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slopes))
