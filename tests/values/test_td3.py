"""TD3's step followed by hand for seven updates: Q_k = q_k s a, pi = p s, gradient descent."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.types import Net, Spec
from jaxrl_prefs.values import td3
from tests.exact import batch_of, compiled

pytestmark = pytest.mark.usefixtures("x64")

TAU, RATE, INTERVAL, BOUND = 0.25, 0.05, 3, 5.0
STATE = np.array([0.4, -1.0, 0.3, 0.8, 1.2])
NEXT = np.array([-0.5, 0.9, 1.1, -0.2, 0.6])
ACTION = np.array([0.9, -0.3, 0.5, 1.4, -0.8])
REWARD = np.array([1.0, 0.2, -0.5, 0.3, 0.7])
DISCOUNT = np.array([0.9, 0.0, 0.9, 0.5, 0.9])
START = {"p": (1.1, 0.7), "q": (np.array([1.0, -0.5]), np.array([0.8, 0.3]))}


def parts_of(noise=0.0):
    def critic(q, observation, action):
        return q * observation[..., 0] * action[..., 0]

    return td3.Td3(
        policy=Net(lambda key, s: jnp.zeros(()), lambda p, s: p * s),
        critic=nets.ensemble(Net(lambda key, *inputs: jnp.zeros(()), critic), 2),
        low=np.array([-BOUND]),
        high=np.array([BOUND]),
        actor_optimizer=optax.sgd(RATE),
        critic_optimizer=optax.sgd(RATE),
        tau=TAU,
        noise=noise,
        noise_clip=0.5,
        actor_interval=INTERVAL,
    )


def batch():
    data = batch_of(ACTION[:, None], reward=REWARD, discount=DISCOUNT)
    return data._replace(observation=STATE[:, None], next_observation=NEXT[:, None])


def parts_at(numbers):
    def part(pair):
        params, target = jnp.asarray(pair[0]), jnp.asarray(pair[1])
        return Trainable(params, target, optax.sgd(RATE).init(params))

    return part(numbers["p"]), part(numbers["q"])


def climb(params, critic_params):
    """The policy's loss: minus the mean of the first critic."""
    loss = -jnp.mean(critic_params[0] * STATE * (params * STATE))
    return loss, learner.measured(actor_loss=loss)


def averaged(params, target):
    return params, TAU * params + (1 - TAU) * target


def by_hand(numbers, step):
    (p, p_mean), (q, q_mean) = numbers["p"], numbers["q"]
    values = q_mean[:, None] * NEXT * np.clip(p_mean * NEXT, -BOUND, BOUND)
    y = REWARD + DISCOUNT * values.min(0)
    error = q[:, None] * STATE * ACTION - y
    q = q - RATE * 2 * (error * STATE * ACTION).mean(1)
    metrics = {"critic_loss": (error**2).mean(), "critic_target": y.mean()}
    if step % INTERVAL:
        return {"p": (p, p_mean), "q": (q, q_mean)}, metrics
    metrics["actor_loss"] = -(q[0] * STATE * p * STATE).mean()
    p = p + RATE * (q[0] * STATE**2).mean()
    return {"p": averaged(p, p_mean), "q": averaged(q, q_mean)}, metrics


def test_seven_steps_follow_the_reference():
    """The policy and both averages wait for every third step, and see the critic's new numbers."""
    update = jax.jit(partial(td3.update, td3=parts_of(), loss=climb, measures=("actor_loss",)))
    (actor, critic), numbers = parts_at(START), START
    for i in range(7):
        actor, critic, metrics = update(actor, critic, batch(), jax.random.key(i), i)
        numbers, expected = by_hand(numbers, i)
        for part, name in ((actor, "p"), (critic, "q")):
            np.testing.assert_allclose(part.params, numbers[name][0], rtol=1e-10)
            np.testing.assert_allclose(part.target, numbers[name][1], rtol=1e-10)
        found = {name: float(total) for name, (total, count) in metrics.items() if count}
        found.pop("q")
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_target_s_action_is_noisy_and_its_own_at_every_step():
    def target(key, noise):
        actor, critic = parts_at(START)
        _, metrics = td3.update_critic(
            critic, actor.target, batch(), key, td3=parts_of(noise=noise)
        )
        return metrics["critic_target"][0]

    keys = jax.random.split(jax.random.key(0), 3)
    quiet = compiled(lambda k: jnp.stack([target(k[0], 0.0), target(k[1], 0.0)]), keys)
    loud = compiled(lambda k: jnp.stack([target(k[i], 0.2) for i in range(3)]), keys)
    assert quiet[0] == quiet[1]
    assert len({*loud, quiet[0]}) == 4


def test_fresh_parts_start_at_their_averages():
    with jax.enable_x64(False):
        actor, critic = td3.init(jax.random.key(0), batch(), td3=parts_of())
    for part in (actor, critic):
        np.testing.assert_array_equal(part.params, part.target)


def test_the_actors_rate_decays_over_its_own_updates():
    spec = Spec.of(batch())
    still = td3_bc.Config(train_steps=7, actor_interval=3)
    sizes = {}
    for decays in (False, True):
        opt = td3.of(replace(still, actor_decays=decays), spec).actor_optimizer
        state, sizes[decays] = opt.init(jnp.zeros(())), []
        for _ in range(3):  # at updates 0, 3 and 6; Adam's step along a constant slope is its rate
            step, state = opt.update(jnp.ones(()), state)
            sizes[decays].append(-float(step) / still.actor_learning_rate)
    np.testing.assert_allclose(sizes[False], [1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(sizes[True], [1, 0.75, 0.25], rtol=1e-6)
