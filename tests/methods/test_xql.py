"""XQL: its V is a soft maximum, its Q robust; weights and policies are IQL's."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import xql
from jaxrl_prefs.types import Net, Spec
from jaxrl_prefs.values import iql
from tests.exact import batch_of, compiled, filled

SPEC = Spec(3, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)
SMALL = xql.Config(actor_hidden=(8,), critic_hidden=(8,), train_steps=100)


def test_defaults_are_the_authors():
    config = xql.Config()
    assert (config.value_temperature, config.max_exponent) == (2.0, 7.0)
    assert (config.temperature, config.max_weight) == (3.0, 100.0)
    assert (config.critic_layer_norm, config.value_layer_norm) == (False, True)
    assert config.actor_learning_rate == config.critic_learning_rate == 3e-4
    assert (config.tau, config.batch_size) == (0.005, 256)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="value_temperature must be above 0"):
        xql.make(xql.Config(value_temperature=0.0), SPEC)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_v_finds_the_soft_maximum_of_q_over_the_data_s_actions(temperature):
    """One state, Q_k(a) = a or 2 a, actions evenly over (0, 1): beta log(beta (e^(1/beta) - 1))."""
    action = (np.arange(500, dtype="f") + 0.5) / 500
    data = batch_of(action[:, None])._replace(observation=jnp.ones((500, 1)))
    built = xql.build(replace(SMALL, value_temperature=temperature), Spec.of(data)).iql
    opt = optax.sgd(0.3 * temperature)
    own = built._replace(
        critic=nets.ensemble(Net(built.critic.init, lambda q, s, a: q * a[..., 0]), 2),
        value=Net(built.value.init, lambda v, s: v * s[..., 0]),
        value_optimizer=opt,
    )

    def step(_, value):
        return iql.update_value(value, jnp.array([1.0, 2.0]), data, iql=own)[0]

    def run(start):
        value = Trainable(start, None, opt.init(start))
        return jax.lax.fori_loop(0, 1_000, step, value).params

    expected = temperature * np.log(temperature * np.expm1(1 / temperature))
    assert compiled(run, np.float32(0)) == pytest.approx(expected, abs=1e-3)


def test_q_is_regressed_by_huber_s_loss():
    error = np.array([-30.0, -20.0, 3.0, 100.0], "f")
    loss, slope = jax.value_and_grad(xql.huber_loss)(jnp.asarray(error), jnp.zeros(4))
    assert loss == pytest.approx((400 + 200 + 4.5 + 1800) / 4, rel=1e-6)
    np.testing.assert_allclose(slope, np.clip(error, -20, 20) / 4, rtol=1e-6)


def test_an_update_weighs_by_advantages_before_v_s_step(tiny):
    """And with min_k Q_k of the target network."""
    parts = xql.build(replace(SMALL, critic_learning_rate=1.0), Spec.of(tiny))
    drawn = filled(lambda key: xql.init(key, tiny, parts=parts), scale=0.3)

    def both(drawn, batch):
        state = xql.State(
            learner.init(drawn.actor.params, parts.actor_optimizer),
            learner.init(drawn.critic.params, parts.iql.critic_optimizer, target=True),
            learner.init(drawn.value.params, parts.iql.value_optimizer),
        )
        after, metrics = xql.update(state, batch, jax.random.key(0), jnp.int32(0), parts=parts)
        q = parts.iql.critic.apply(state.critic.target, batch.observation, batch.action).min(0)
        advantage = q - parts.iql.value.apply(state.value.params, batch.observation)
        v = parts.iql.value.apply(after.value.params, batch.next_observation)
        density = parts.policy.log_density(state.actor.params, batch.observation, batch.action)
        return metrics, advantage, density, batch.reward + batch.discount * v

    metrics, advantage, density, target = compiled(both, drawn, tiny)
    weight = np.exp(np.minimum(3 * advantage, np.log(100)))
    assert metrics["actor_loss"][0] == pytest.approx(-(weight * density).mean(), rel=1e-4)
    assert metrics["critic_target"][0] == pytest.approx(target.mean(), rel=1e-4)
    z = np.minimum(advantage / 2, 7)
    loss = ((np.exp(z) - z - 1) / np.exp(max(z.max(), -1))).mean()
    assert metrics["value_loss"][0] == pytest.approx(loss, rel=1e-4)
