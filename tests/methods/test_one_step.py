"""One-step RL: the fixed points of SARSA, and what it leaves out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.methods import one_step
from jaxrl_prefs.types import Spec, Transition
from tests.exact import batch_of

GAMMA, REWARD = 0.5, 0.3
SPEC = Spec(1, 1, 9, -np.ones(1, "f"), np.ones(1, "f"), *[np.zeros(1)] * 4)
CONFIG = one_step.Config(
    actor_hidden=(8,), critic_hidden=(16,), critic_learning_rate=1e-2, tau=0.2, batch_size=3
)


def rows() -> Transition:
    """A state that goes on for ever, one that ends, and one whose episode was cut: s = 0, 1, 2.

    The cut row's reward is absurd, to be seen if it is trained on.
    """
    state = np.array([[0.0], [1.0], [2.0]], "f")
    return batch_of(np.full((3, 1), 0.5, "f"))._replace(
        observation=state,
        next_observation=state,
        reward=np.array([REWARD, REWARD, 1e3], "f"),
        discount=np.array([GAMMA, 0.0, GAMMA], "f"),
        next_action=np.array([[0.5], [0.0], [0.0]], "f"),
        has_next_action=np.array([1.0, 0.0, 0.0], "f"),
    )


def test_sarsa_has_its_fixed_points():
    """r / (1 - gamma) on a self-loop, r at a terminal; a row that was cut teaches nothing."""
    method, parts = one_step.make(CONFIG, SPEC), one_step.build(CONFIG, SPEC)
    critic = method.phases[0]

    @jax.jit
    def train(key, batch):
        def step(i, state):
            return critic.update(state, batch, key, i)[0]

        start = method.init(key, batch)
        state = jax.lax.fori_loop(0, 1_000, step, start)
        _, metrics = critic.update(state, batch, key, 0)
        return parts.critic.apply(state.critic.params, batch.observation, batch.action), metrics

    q, metrics = train(jax.random.key(0), rows())
    np.testing.assert_allclose(q[:, 0], REWARD / (1 - GAMMA), atol=5e-3)
    np.testing.assert_allclose(q[:, 1], REWARD, atol=5e-3)
    assert np.abs(q[:, 2]).max() < 5
    assert float(metrics["known"][0]) == pytest.approx(2 / 3)


def liking_positive_actions(state: one_step.State) -> one_step.State:
    """Both critics become 16 max(a, 0), whatever the state."""
    likes = jax.tree.map(jnp.zeros_like, state.critic.params)
    first = likes["_JoinedDense_0"]["kernel"].at[:, 1].set(1.0)  # reads the action alone
    last = likes["_Dense_0"]["Dense_0"]["kernel"] + 1.0
    likes["_JoinedDense_0"]["kernel"] = first
    likes["_Dense_0"]["Dense_0"]["kernel"] = last
    return state.replace(critic=state.critic.replace(params=likes))


def test_the_policy_s_phase_leaves_the_critic_alone_and_climbs_it():
    """The critic is made to like a = 1 everywhere; imitation is at .5."""
    method = one_step.make(CONFIG, SPEC)
    batch = jax.tree.map(jnp.asarray, rows())
    state = method.init(jax.random.key(0), batch)
    update = jax.jit(method.phases[1].update)
    state = liking_positive_actions(state)
    before = method.policies["actor"].act(state, batch.observation, jax.random.key(1))
    for i in range(20):
        after, _ = update(state, batch, jax.random.key(i), i)
        for one, two in zip(
            jax.tree.leaves(state.critic), jax.tree.leaves(after.critic), strict=True
        ):
            np.testing.assert_array_equal(one, two)
        state = after
    climbed = method.policies["actor"].act(state, batch.observation, jax.random.key(1))
    assert (climbed > before).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_weighted_imitation_has_its_fixed_point(temperature: float) -> None:
    """Half of the data's actions are .5, half -.5, and Q = 16 max(a, 0): worth 8 and 0.

    With weights w the policy is at p = .5 (w_+ - w_-) / (w_+ + w_-) = .5 tanh(T 8 / (2 rms(p))),
    the advantages being 8 - 16 p and -16 p (p is not below 0): an equation for p alone.
    """
    config = dataclasses.replace(
        CONFIG, improvement="weighted", temperature=temperature, actor_learning_rate=1e-2
    )
    method = one_step.make(config, SPEC)
    batch = batch_of(np.array([[0.5], [-0.5]], "f"))._replace(
        observation=np.zeros((2, 1), "f"), next_observation=np.zeros((2, 1), "f")
    )
    state = liking_positive_actions(method.init(jax.random.key(0), batch))
    update = method.phases[1].update
    state = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, 2_000, lambda i, state: update(state, batch, jax.random.key(0), i)[0], state
        )
    )(state)
    p = 0.0
    for _ in range(1_000):
        rms = np.sqrt(((8 - 16 * p) ** 2 + (16 * p) ** 2) / 2)
        p += 0.1 * (0.5 * np.tanh(temperature * 8 / (2 * rms)) - p)
    action = method.policies["actor"].act(state, batch.observation, jax.random.key(1))
    np.testing.assert_allclose(action, p, atol=2e-3)
    assert temperature == 0 or p > 0.1


def test_an_unknown_improvement_is_refused() -> None:
    with pytest.raises(ValueError, match="improvement must be one of gradient, weighted, not 'x'"):
        one_step.make(dataclasses.replace(CONFIG, improvement="x"), SPEC)
