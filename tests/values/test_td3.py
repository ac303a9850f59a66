"""TD3's step followed by hand for seven updates: Q_k = q_k s a, pi = p s, gradient descent."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.types import Box, Net, Spec
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
        policy=SimpleNamespace(init=lambda key, s: jnp.zeros(()), act=lambda p, s: p * s),
        critic=nets.ensemble(Net(lambda key, *inputs: jnp.zeros(()), critic), 2),
        box=Box(np.array([-BOUND]), np.array([BOUND])),
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
    """Policy and target networks move at every third step, with the critic's new parameters."""
    update = jax.jit(partial(td3.update, td3=parts_of(), loss=climb, metric_names=("actor_loss",)))
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
        _, metrics = td3.update_critic(critic, actor, batch(), key, td3=parts_of(noise=noise))
        return metrics["critic_target"][0]

    keys = jax.random.split(jax.random.key(0), 3)
    quiet = compiled(lambda k: jnp.stack([target(k[0], 0.0), target(k[1], 0.0)]), keys)
    loud = compiled(lambda k: jnp.stack([target(k[i], 0.2) for i in range(3)]), keys)
    assert quiet[0] == quiet[1]
    assert len({*loud, quiet[0]}) == 4


def test_target_networks_start_at_the_parameters():
    with jax.enable_x64(False):
        actor, critic = td3.init(jax.random.key(0), batch(), td3=parts_of())
    for part in (actor, critic):
        np.testing.assert_array_equal(part.params, part.target)


def test_the_actors_rate_decays_over_its_own_updates():
    spec = Spec.of(batch())
    still = td3_bc.Config(train_steps=7, actor_interval=3)
    sizes = {}
    for decays in (False, True):
        opt = td3.from_config(replace(still, actor_decays=decays), spec).actor_optimizer
        state, sizes[decays] = opt.init(jnp.zeros(())), []
        for _ in range(3):  # at updates 0, 3 and 6; Adam's step along a constant slope is its rate
            step, state = opt.update(jnp.ones(()), state)
            sizes[decays].append(-float(step) / still.actor_learning_rate)
    np.testing.assert_allclose(sizes[False], [1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(sizes[True], [1, 0.75, 0.25], rtol=1e-6)


# ---------------------------------------------------------------------- the critics' target

LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 4.0])


def parts_with_box(critic, **changes):
    """A policy whose parameters are its actions, in a box of two dimensions."""
    policy = SimpleNamespace(act=lambda actions, s: actions)
    box = Box(LOW, HIGH)
    return parts_of()._replace(policy=policy, critic=critic, box=box, **changes)


def rows_of(count):
    return batch_of(np.zeros((count, 2)), reward=np.zeros(count), discount=np.ones(count))


def identity_critic():
    """Two members that return the first or the second entry of the action."""
    return nets.ensemble(Net(lambda key, *of: 0.0, lambda i, s, a: a @ i), 2)


def smoothed(actions, noise, clip):
    """The next actions, entry by entry, read off the target of a critic that returns them."""
    parts = parts_with_box(identity_critic(), noise=noise, noise_clip=clip)

    def target(axis):
        both = jnp.stack([axis, axis])  # the minimum of two equal members
        return td3.critic_target(both, actions, rows_of(len(actions)), jax.random.key(0), td3=parts)

    return compiled(lambda: jnp.stack([target(axis) for axis in jnp.eye(2)], -1))


def test_smoothing_noise_is_a_clipped_normal_in_halves_of_the_box():
    rows, noise, clip = 40_000, 0.2, 0.3
    centre = np.tile((LOW + HIGH) / 2, (rows, 1))
    z = (smoothed(centre, noise, clip) - centre) / ((HIGH - LOW) / 2)
    assert np.abs(z).max() == pytest.approx(clip)
    share = 2 * 0.0668072  # of a normal beyond 1.5 standard deviations
    assert np.abs((np.abs(z) > clip - 1e-9).mean(0) - share).max() < 5 * np.sqrt(share / rows)
    # a normal clipped at c of its std has variance 1 - 2 c phi(c) - 2 (1 - c^2) (1 - Phi(c))
    c, phi = 1.5, np.exp(-1.125) / np.sqrt(2 * np.pi)
    variance = noise**2 * (1 - 2 * c * phi - 2 * (1 - c**2) * 0.0668072)
    np.testing.assert_allclose(z.var(0), variance, rtol=5 * np.sqrt(2 / rows))
    assert np.abs(z.mean(0)).max() < 5 * noise / np.sqrt(rows)
    assert abs(np.corrcoef(z.T)[0, 1]) < 5 / np.sqrt(rows)


def test_smoothed_actions_stay_in_the_box():
    found = smoothed(np.tile(HIGH, (500, 1)), 0.2, 0.5)
    assert (found <= HIGH).all() and (found >= LOW).all() and (found < HIGH).any()


def test_clipped_double_q_takes_the_smaller_member_in_every_row():
    rng = np.random.default_rng(0)
    actions = rng.uniform(LOW, HIGH, (6, 2))
    discount = np.array([0.9, 0.0, 0.9, 0.9, 0.0, 0.9])
    data = batch_of(np.zeros((6, 2)), reward=rng.normal(size=6), discount=discount)
    params, parts = np.array([[1.0, 0.2], [-0.5, 0.6]]), parts_with_box(identity_critic())

    def target(params, actions):
        return td3.critic_target(params, actions, data, jax.random.key(0), td3=parts)

    both = params @ actions.T
    assert len(set(both.argmin(0))) == 2  # neither member is always the smaller
    expected = data.reward + discount * both.min(0)
    np.testing.assert_allclose(compiled(target, params, actions), expected, rtol=1e-12)
    slopes = compiled(jax.grad(lambda *of: target(*of).sum(), argnums=(0, 1)), params, actions)
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(leaf, 0)
