"""IQL's values: one step by hand, and the expectile of a known distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.types import Net
from jaxrl_prefs.values import iql
from tests.exact import batch_of, compiled

pytestmark = pytest.mark.usefixtures("x64")

TAU, RATE, EXPECTILE = 0.25, 0.05, 0.8
STATE = np.array([0.4, -1.0, 0.3, 0.8, 1.2])
NEXT = np.array([-0.5, 0.9, 1.1, -0.2, 0.6])
ACTION = np.array([0.9, -0.3, 0.5, 1.4, -0.8])
REWARD = np.array([1.0, 0.2, -0.5, 0.3, 0.7])
DISCOUNT = np.array([0.9, 0.0, 0.9, 0.5, 0.9])
Q, Q_MEAN, V = np.array([1.0, -0.5]), np.array([0.8, 0.3]), np.array(0.4)


def parts_of(expectile=EXPECTILE):
    """Q_k = q_k s a and V = v s, by gradient descent."""

    def critic(q, observation, action):
        return q * observation[..., 0] * action[..., 0]

    return iql.Iql(
        critic=nets.ensemble(Net(lambda key, *inputs: jnp.zeros(()), critic), 2),
        value=Net(lambda key, s: jnp.zeros(()), lambda v, s: v * s[..., 0]),
        critic_optimizer=optax.sgd(RATE),
        value_optimizer=optax.sgd(RATE),
        expectile=expectile,
        tau=TAU,
    )


def batch():
    data = batch_of(ACTION[:, None], reward=REWARD, discount=DISCOUNT)
    return data._replace(observation=STATE[:, None], next_observation=NEXT[:, None])


def test_one_step_is_the_one_by_hand():
    """V by the old average of Q, then Q by the new V, then the average."""
    state = optax.sgd(RATE).init(jnp.zeros(()))
    critic = Trainable(jnp.asarray(Q), jnp.asarray(Q_MEAN), state)
    value = Trainable(jnp.asarray(V), None, state)
    critic, value, advantage, metrics = compiled(
        lambda c, v: iql.update(c, v, batch(), iql=parts_of()), critic, value
    )
    u = (Q_MEAN[:, None] * STATE * ACTION).min(0) - V * STATE
    assert (u > 0).any() and (u < 0).any()
    weight = np.where(u < 0, 1 - EXPECTILE, EXPECTILE)
    v = V + RATE * 2 * (weight * u * STATE).mean()
    y = REWARD + DISCOUNT * v * NEXT
    error = Q[:, None] * STATE * ACTION - y
    q = Q - RATE * 2 * (error * STATE * ACTION).mean(1)
    np.testing.assert_allclose(advantage, u, rtol=1e-12)
    np.testing.assert_allclose(value.params, v, rtol=1e-12)
    np.testing.assert_allclose(critic.params, q, rtol=1e-12)
    np.testing.assert_allclose(critic.target, TAU * q + (1 - TAU) * Q_MEAN, rtol=1e-12)
    found = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert found["value_loss"] == pytest.approx((weight * u**2).mean(), rel=1e-6)
    assert found["critic_loss"] == pytest.approx((error**2).mean(), rel=1e-6)
    assert found["critic_target"] == pytest.approx(y.mean(), rel=1e-6)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_v_finds_the_expectile_of_q_over_the_data_s_actions(expectile):
    """One state, Q(a) = a, actions evenly over (0, 1): sqrt(t) / (sqrt(t) + sqrt(1 - t))."""
    action = (np.arange(2_000) + 0.5) / 2_000
    data = batch_of(action[:, None])._replace(observation=np.ones((2_000, 1)))
    parts = parts_of(expectile)

    def step(_, value):
        return iql.update_value(value, jnp.ones(2), data, iql=parts)[0]

    def run(start):
        value = Trainable(start, None, optax.sgd(RATE).init(start))
        return jax.lax.fori_loop(0, 1_000, step, value).params

    root, other = np.sqrt(expectile), np.sqrt(1 - expectile)
    assert compiled(run, np.float64(0)) == pytest.approx(root / (root + other), abs=1e-4)
