"""IDQL: its implicit policy, how it acts, and one update. Its values are tested with IQL."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs.methods import idql
from jaxrl_prefs.ops import values
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.types import Net, Spec
from tests.exact import compiled, filled, fixed

SPEC = Spec(3, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(3)] * 4)
SMALL = idql.Config(
    behavior_width=8,
    behavior_blocks=1,
    critic_hidden=(16,),
    diffusion_steps=3,
    candidates=5,
    expectile=0.8,
)


def test_defaults_are_the_paper_s():
    config = idql.Config()
    assert (config.expectile, config.candidates, config.diffusion_steps) == (0.7, 64, 5)
    assert (config.behavior_width, config.behavior_blocks) == (256, 3)
    assert config.critic_hidden == (256, 256)
    assert (config.tau, config.behavior_tau, config.weight_decay) == (0.005, 0.001, 1e-4)
    assert config.behavior_learning_rate == config.critic_learning_rate == 3e-4
    assert (config.batch_size, config.train_steps) == (512, 3_000_000)


def test_the_implicit_policy_s_mean_value_is_the_expectile():
    """V of the loss's minimum, found by Newton's method, is the mean of Q under the weights."""
    q = np.random.default_rng(0).gamma(2.0, size=500)
    for expectile in (0.3, 0.7, 0.95):
        v = q.mean()
        for _ in range(50):  # the root of the mean of w (Q - V)
            weight = np.where(q < v, 1 - expectile, expectile)
            v += (weight * (q - v)).sum() / weight.sum()

        def both(q, v, expectile=expectile):
            weight = values.implicit_weight(q - v, expectile)
            slope = jax.grad(lambda v: values.expectile_error(q - v, expectile).mean())(v)
            return jnp.sum(weight * q) / jnp.sum(weight), slope

        mean, slope = compiled(both, q.astype("f"), np.float32(v))
        assert mean == pytest.approx(v, rel=1e-5)
        assert slope == pytest.approx(0, abs=1e-5)
    assert v > 1.8 * q.mean()


def test_it_acts_by_argmax_by_weights_or_as_the_behaviour(tiny):
    """On given samples of the behaviour's target network, by the critics' target network."""
    parts, key = idql.build(SMALL, SPEC), jax.random.key(1)
    samples = np.random.default_rng(1).uniform(-1, 1, size=(96, 5, 2)).astype("f")

    def sample(params, observation, key, count):
        assert params == "target"
        return jnp.asarray(samples)[:, :count]

    constant = Net(parts.iql.value.init, lambda v, s: jnp.broadcast_to(v, s.shape[:-1]))
    parts = parts._replace(
        behavior=SimpleNamespace(sample=sample), iql=parts.iql._replace(value=constant)
    )
    single = parts._replace(config=replace(SMALL, candidates=1))
    critic = filled(parts.iql.critic.init, tiny.observation, tiny.action)

    def ways(batch, critic):
        s, net = batch.observation, parts.iql.critic
        q = jnp.stack([net.apply(critic, s, samples[:, i]).min(0) for i in range(5)], -1)
        middle = jnp.median(q)  # V of all states
        state = idql.State(fixed("params", "target"), fixed(None, critic), fixed(middle))
        weight = jnp.where(q < middle, 0.2, 0.8)
        drawn = candidates.resampled(
            jnp.asarray(samples), jnp.log(weight), jax.random.split(key)[1]
        )
        found = [
            idql.act(state, s, key, parts=parts),
            idql.act_implicit(state, s, key, parts=parts),
            idql.act(state, s, key, parts=single),
            idql.act_behavior(state, s, key, parts=parts),
        ]
        return q, drawn, found

    q, drawn, found = compiled(ways, tiny, critic)
    place = q.argmax(-1)
    assert len(set(place)) == 5
    expected = samples[np.arange(96), place], drawn, samples[:, 0], samples[:, 0]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_update_moves_both_averages_and_q_sees_the_new_v(tiny):
    opt = optax.sgd(0.1)
    parts = idql.build(replace(SMALL, behavior_tau=0.2, tau=0.1), SPEC)
    parts = parts._replace(
        behavior_optimizer=opt,
        iql=parts.iql._replace(critic_optimizer=opt, value_optimizer=opt),
    )
    start = filled(lambda key: idql.init(key, tiny, parts=parts))

    def both(key, batch, state):
        after, metrics = idql.update(state, batch, key, jnp.int32(0), parts=parts)
        v = parts.iql.value.apply(after.value.params, batch.next_observation)
        error = parts.behavior.bc_loss(state.behavior.params, batch.observation, batch.action, key)
        return after, metrics, jnp.mean(batch.reward + batch.discount * v), error

    after, metrics, target, error = compiled(both, jax.random.key(0), tiny, start)
    assert metrics["critic_target"][0] == pytest.approx(target, rel=1e-5)
    assert metrics["behavior_loss"][0] == pytest.approx(error, rel=1e-5)
    pairs = (start.behavior, after.behavior, 0.2), (start.critic, after.critic, 0.1)
    for old, new, rate in pairs:
        trees = old.target, new.params, new.target
        for before, params, now in zip(*map(jax.tree.leaves, trees), strict=True):
            expected = (1 - rate) * before + rate * params
            np.testing.assert_allclose(now, expected, rtol=1e-5, atol=1e-6)
