"""AWAC: weights, advantages and target in closed form, and one update."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxrl_prefs import nets
from jaxrl_prefs.methods import awac
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Net, Spec
from tests.exact import batch_of, compiled, filled, fixed

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)
SMALL = awac.Config(actor_hidden=(8,), critic_hidden=(8,), value_samples=3)
SLOPES = np.array([[1.0, 0.0], [3.0, -2.0]], "f")  # of the two critics: Q_k = slope . a
ACTION = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype("f")


def test_defaults_are_the_authors():
    config = awac.Config()
    assert (config.temperature, config.weights, config.value_samples) == (0.5, "softmax", 1)
    assert config.actor_hidden == (256, 256, 256, 256) and config.critic_hidden == (256, 256)
    assert config.actor_learning_rate == config.critic_learning_rate == 3e-4
    assert (config.actor_weight_decay, config.tau, config.batch_size) == (1e-4, 0.005, 256)


@pytest.mark.parametrize("field", ["batch_size", "value_samples"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        awac.make(awac.Config(**{field: 0}), SPEC)


@pytest.mark.parametrize("kind", ["softmax", "exponential"])
def test_weights(kind):
    advantage = np.array([-2.0, 0.0, 1.0, 50.0], "f")
    config = awac.Config(temperature=0.1, weights=kind, max_weight=20.0)
    found = awac.weights_of(jnp.asarray(advantage), config=config)
    exact = np.exp(0.1 * advantage)
    expected = exact / exact.mean() if kind == "softmax" else np.minimum(exact, 20)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def closed_form():
    """Parts with linear critics and a policy of mean tanh(m) and std 1 / 2 in every state."""
    linear = Net(
        lambda key, *inputs: 0.0,
        lambda slope, s, a: jnp.sum(a * slope.reshape((1,) * (a.ndim - 1) + (2,)), -1),
    )
    constant = Net(
        lambda key, s: jnp.zeros(2),
        lambda m, s: jnp.broadcast_to(jnp.r_[m, jnp.full(2, jnp.log(0.5))], (*s.shape[:-1], 4)),
    )
    box, opt = SPEC.action_box, optax.sgd(1.0)
    return awac.Parts(SMALL, DiagonalGaussian(constant, box), nets.ensemble(linear, 2), opt, opt)


def test_target_and_advantages_are_of_the_policy_s_samples():
    """The baseline is the smaller of the critics' means over the samples; samples are clipped."""
    parts, m = closed_form(), np.array([0.9, -0.4], "f")
    batch = batch_of(ACTION, reward=np.arange(6.0), discount=[0.5, 0.5, 0, 0.9, 0.9, 0.9])
    state = awac.State(fixed(m), fixed(SLOPES, 2 * SLOPES))

    def both(key):
        target = awac.critic_target(state, batch, key, parts=parts)
        return target, awac.advantages(m, SLOPES, batch, key, parts=parts)

    key = jax.random.key(3)
    target, advantage = compiled(both, key)
    one, three = (np.asarray(jax.random.normal(key, (6, k, 2), "f")) for k in (1, 3))
    samples = [np.clip(np.tanh(m) + 0.5 * z, -1, 1) for z in (one, three)]
    assert (np.abs(samples[1]) == 1).any()
    q = 2 * np.einsum("bka,ea->ebk", samples[0], SLOPES)[..., 0].min(0)
    np.testing.assert_allclose(target, batch.reward + batch.discount * q, rtol=1e-5)
    baseline = np.einsum("bka,ea->ebk", samples[1], SLOPES).mean(-1).min(0)
    np.testing.assert_allclose(advantage, (ACTION @ SLOPES.T).min(1) - baseline, atol=1e-5)


def test_the_policy_steps_along_the_weighted_likelihood_of_the_new_critics():
    """Gradient descent on the constant policy, by hand."""
    parts, m = closed_form(), np.array([0.3, -0.4], "f")
    batch = batch_of(ACTION, reward=np.arange(6.0))
    state = awac.State(
        fixed(jnp.asarray(m)).replace(opt_state=optax.sgd(1.0).init(m)),
        fixed(jnp.asarray(SLOPES)).replace(opt_state=optax.sgd(1.0).init(SLOPES)),
    )

    def both(key):
        after, metrics = awac.update(state, batch, key, jnp.int32(0), parts=parts)
        value_key = jax.random.split(key)[1]
        advantage = awac.advantages(m, after.critic.params, batch, value_key, parts=parts)
        return after, metrics, awac.weights_of(advantage, config=SMALL)

    after, metrics, weight = compiled(both, jax.random.key(0))
    error = ACTION @ SLOPES.T - np.arange(6.0)[:, None]  # the discount is 0
    slopes = SLOPES - 2 * np.einsum("be,ba->ea", error, ACTION) / 6
    np.testing.assert_allclose(after.critic.params, slopes, rtol=1e-4)
    np.testing.assert_allclose(after.critic.target, 0.995 * SLOPES + 0.005 * slopes, rtol=1e-5)
    mean = np.tanh(m)
    slope = (weight[:, None] * (ACTION - mean)).mean(0) / 0.25 * (1 - mean**2)
    np.testing.assert_allclose(after.actor.params, m + slope, rtol=1e-4)
    loss = -(weight * scipy.stats.norm.logpdf(ACTION, mean, 0.5).sum(1)).mean()
    assert metrics["actor_loss"][0] == pytest.approx(loss, rel=1e-4)


def test_the_effective_share_counts_equal_weights(tiny):
    """Without a temperature all count; with a huge one, one of them."""
    parts = awac.build(SMALL, Spec.of(tiny))
    state = filled(lambda key: awac.init(key, tiny, parts=parts))

    def share(temperature):
        own = parts._replace(config=replace(SMALL, temperature=temperature))
        return awac.diagnose(state, tiny, jax.random.key(0), parts=own)["effective_share"][0]

    found = compiled(jax.vmap(share), np.array([0.0, 1e4], "f"))
    np.testing.assert_allclose(found, [1, 1 / len(tiny.action)], rtol=1e-3)
