"""ReBRAC: its two penalties in closed form, one update, and a moment of training."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.method import uniform
from jaxrl_prefs.methods import rebrac
from jaxrl_prefs.testing import transitions
from jaxrl_prefs.types import Net, Spec
from jaxrl_prefs.values import td3
from tests import probes
from tests.exact import compiled, filled

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)


def test_defaults_are_the_published_ones():
    config = rebrac.Config()
    assert (config.actor_penalty, config.critic_penalty) == (0.01, 0.01)
    assert (config.noise, config.noise_clip, config.actor_interval) == (0.2, 0.5, 2)
    assert config.actor_hidden == config.critic_hidden == (256, 256, 256)
    assert (config.critic_layer_norm, config.activation) == (True, "relu")
    assert config.actor_learning_rate == config.critic_learning_rate == 1e-3
    assert (config.tau, config.batch_size, config.train_steps) == (0.005, 1024, 1_000_000)


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="critic_penalty must not be negative"):
        rebrac.make(rebrac.Config(critic_penalty=-1), SPEC)


# ---------------------------------------------------------------------------- losses, by hand

# A linear policy pi(s) = w s, and critics Q_1 = 2 s + a, Q_2 = s - 3 a with one action.
SLOPES = np.float32([[2, 1], [1, -3]])
CRITIC = nets.ensemble(
    Net(lambda key, s, a: jnp.zeros(2), lambda p, s, a: (p[0] * s + p[1] * a)[..., 0]), 2
)
S, A = np.float32([1.0, -2.0, 0.5, 4.0]), np.float32([0.5, 0.1, -0.7, 0.2])
DISCOUNT = np.float32([0.9, 0.0, 0.9, 0.9])  # the second row is terminal, the last one is cut
DATA = jax.tree.map(
    jnp.asarray, transitions(S[:, None], A[:, None], np.float32([1, 2, 3, 4]), DISCOUNT)
)


def test_the_critic_s_penalty_is_taken_off_the_next_value():
    action = np.float32([0.3, -0.4, 0.8, 0.0])
    found = rebrac.critic_target(
        SLOPES, DATA, jnp.asarray(action[:, None]), critic=CRITIC, penalty=2.0
    )
    follower = [1, 1, 3, 3]  # 1 is terminal, 3 follows itself and has no next action
    s, a = S[follower], A[follower]
    q = np.minimum(2 * s + action, s - 3 * action)
    gap = (action - a) ** 2 * [1, 0, 1, 0]
    np.testing.assert_allclose(found, [1, 2, 3, 4] + DISCOUNT * (q - 2.0 * gap), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_policy_s_penalty_weighs_against_a_value_without_scale(scale):
    """The loss and its slope in w; critics times a number change neither."""

    def loss(w):
        return rebrac.actor_loss(
            w,
            policy=lambda w, s: w * s,
            critic=CRITIC,
            critic_params=scale * SLOPES,
            batch=DATA,
            penalty=0.7,
        )[0]

    value, slope = compiled(jax.value_and_grad(loss), jnp.float32(0.6))
    action = 0.6 * S
    first, second = 2 * S + action, S - 3 * action
    q, by_action = np.minimum(first, second), np.where(first < second, 1, -3)
    size = np.abs(q).mean()
    np.testing.assert_allclose(value, (0.7 * (action - A) ** 2 - q / size).mean(), rtol=1e-5)
    expected = ((1.4 * (action - A) - by_action / size) * S).mean()
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_distances_are_sums_over_the_actions_dimensions():
    """Two dimensions, each off by 1: a penalty of 2, not of 1."""
    zeros, ones = np.zeros((2, 2)), np.ones((2, 2), np.float32)
    rows = jax.tree.map(jnp.asarray, transitions(zeros, zeros, np.zeros(2), np.array([1.0, 0.0])))
    flat = Net(lambda key, s, a: 0.0, lambda params, s, a: jnp.zeros((2, len(s))))
    found = rebrac.critic_target(0.0, rows, jnp.asarray(ones), critic=flat, penalty=1.0)
    np.testing.assert_allclose(found, [-2, 0])


def test_networks_start_as_the_authors_do():
    """Hidden kernels within 1 / sqrt(inputs), hidden biases at 0.1, small last layers."""
    spec = SPEC._replace(observation_dim=2)
    batch = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:])), DATA)
    batch = batch._replace(observation=jnp.zeros((1, 2)), action=jnp.zeros((1, 2)))
    parts = rebrac.build(rebrac.Config(), spec)
    state = compiled(lambda key: rebrac.init(key, batch, parts=parts), jax.random.key(0))
    for trainable, inputs, last in ((state.actor, 2, 0.001), (state.critic, 4, 0.003)):
        params = trainable.params
        first, second = params["_JoinedDense_0"], params["_Dense_0"]["Dense_0"]
        kernels = first["kernel"], second["kernel"], params["_Dense_2"]["Dense_0"]["kernel"]
        for kernel, bound in zip(kernels, (inputs**-0.5, 1 / 16, last), strict=True):
            assert 0.95 * bound < np.abs(kernel).max() <= bound * (1 + 1e-5)
            assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert (first["bias"] == np.float32(0.1)).all() and (second["bias"] == first["bias"]).all()
        for one, two in zip(*map(jax.tree.leaves, (params, trainable.target)), strict=True):
            np.testing.assert_array_equal(one, two)


# -------------------------------------------------------------------------------- one update


def test_the_policy_s_target_lags_by_a_step_and_the_critics_does_not(tiny):
    """At a step without the policy only the critics move; noise is clipped like the action."""
    config = rebrac.Config(
        actor_hidden=(8,), critic_hidden=(8,), critic_penalty=0.3, noise=5.0, noise_clip=0.4
    )
    parts = rebrac.build(config, Spec.of(tiny))
    start = filled(lambda key: rebrac.init(key, tiny, parts=parts))

    def both(key, batch, old):
        action = td3.smoothed_action(old.actor.target, batch.next_observation, key, td3=parts)
        target = rebrac.critic_target(
            old.critic.target, batch, action, critic=parts.critic, penalty=0.3
        )
        steps = [rebrac.update(old, batch, key, i, parts=parts, config=config) for i in (0, 1)]
        plain = parts.policy.act(old.actor.target, batch.next_observation)
        return *steps, jnp.mean(target), action, plain

    (full, metrics), (half, _), target, action, plain = compiled(
        both, jax.random.key(0), tiny, start
    )
    assert metrics["critic_target"][0] == pytest.approx(target, rel=1e-5)
    noise = np.abs(action - plain)
    assert noise.max() == pytest.approx(0.4, rel=1e-4) and np.abs(action).max() <= 1
    for old, step in ((start.actor.params, full.actor), (full.critic.params, full.critic)):
        before = start.actor.target if step is full.actor else start.critic.target
        for one, two, now in zip(*map(jax.tree.leaves, (before, old, step.target)), strict=True):
            np.testing.assert_allclose(now, 0.995 * one + 0.005 * two, rtol=1e-5, atol=1e-6)
    same = (start.actor, half.actor), (start.critic.target, half.critic.target)
    for one, two in zip(*map(jax.tree.leaves, zip(*same, strict=True)), strict=True):
        np.testing.assert_array_equal(one, two)


# ------------------------------------------------------------------------ a moment of training


@pytest.fixture(scope="module")
def trained():
    """trained(probe, actor_penalty) -> Q on the data, actions; one program for all."""
    size = 512
    config = rebrac.Config(
        actor_hidden=(32,),
        critic_hidden=(32, 32),
        actor_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        tau=0.05,
        critic_penalty=0.0,
        batch_size=64,
    )
    row = jax.tree.map(lambda x: x[:1], probes.constant_reward(size).data)
    parts = rebrac.build(config, Spec.of(row))

    @jax.jit
    def program(data, penalty, key):
        own = replace(config, actor_penalty=penalty)

        def body(step, state):
            rows = uniform(jax.random.key(7), step, size, config.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            key = jax.random.fold_in(jax.random.key(8), step)
            return rebrac.update(state, batch, key, step, parts=parts, config=own)[0]

        state = jax.lax.fori_loop(0, 1_500, body, rebrac.init(key, row, parts=parts))
        q = parts.critic.apply(state.critic.params, data.observation, data.action)
        return q, parts.policy.act(state.actor.params, data.observation)

    def run(probe, penalty):
        return map(np.asarray, program(probe(size).data, penalty, jax.random.key(0)))

    return run, size


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
def test_probes_are_solved(trained, probe):
    """With imitation almost off: the data's actions are uniform, and their mean is not best."""
    run, size = trained
    data, q, best = probe(size)
    found, action = run(probe, 1e-3)
    assert np.sqrt(np.mean((found - q(data.observation, data.action)[None]) ** 2)) < 0.1
    if best is not None:
        assert np.abs(action - best(data.observation)).max() < 0.15


def test_a_large_penalty_is_behaviour_cloning(trained):
    run, size = trained
    _, action = run(probes.action_reward, 100.0)
    np.testing.assert_allclose(action, probes.action_reward(size).data.action.mean(), atol=0.1)
