"""The example of a method of one's own: the contract, and its two penalties in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import own_method
from jaxrl_prefs.testing import check_method, transitions
from jaxrl_prefs.types import Net, Spec, Transition

# A linear policy pi(s) = w s, and critics Q_1 = 2 s + a, Q_2 = s - 3 a with one action.
CRITIC = Net(
    lambda key, s, a: jnp.zeros(()),
    lambda scale, s, a: scale * jnp.stack([2 * s + a, s - 3 * a])[..., 0],
)
S, A = np.float32([1.0, -2.0, 0.5, 4.0]), np.float32([0.5, 0.1, -0.7, 0.2])
DISCOUNT = np.float32([0.9, 0.0, 0.9, 0.9])  # the second row is terminal, the last one is cut


@pytest.fixture
def batch() -> Transition:
    reward = np.float32([1, 2, 3, 4])
    return jax.tree.map(jnp.asarray, transitions(S[:, None], A[:, None], reward, DISCOUNT))


def test_it_keeps_the_contract() -> None:
    config = own_method.Config(
        actor_hidden=(8,), critic_hidden=(8,), batch_size=8, train_steps=5, actor_penalty=0.3
    )
    check_method(own_method, config, changes={"train": {"actor", "critic"}})


def test_the_critics_penalty_is_taken_off_the_next_value(batch: Transition) -> None:
    action = np.float32([0.3, -0.4, 0.8, 0.0])
    found = own_method.critic_target(
        jnp.float32(1), batch, jnp.asarray(action[:, None]), critic=CRITIC, penalty=2.0
    )
    follower = [1, 1, 3, 3]  # 1 is terminal, 3 follows itself and has no next action
    s, a = S[follower], A[follower]
    q = np.minimum(2 * s + action, s - 3 * action)
    gap = (action - a) ** 2 * [1, 0, 1, 0]
    np.testing.assert_allclose(found, [1, 2, 3, 4] + DISCOUNT * (q - 2.0 * gap), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_policys_penalty_weighs_against_a_value_without_scale(
    batch: Transition, scale: float
) -> None:
    """The loss and its slope in w; critics times a number change neither."""

    def loss(w: jax.Array) -> jax.Array:
        return own_method.actor_loss(
            w,
            policy=lambda w, s: w * s,
            critic=CRITIC,
            critic_params=jnp.float32(scale),
            batch=batch,
            penalty=0.7,
        )[0]

    value, slope = jax.value_and_grad(loss)(jnp.float32(0.6))
    action = 0.6 * S
    first, second = 2 * S + action, S - 3 * action
    q, by_action = np.minimum(first, second), np.where(first < second, 1, -3)
    size = np.abs(q).mean()
    expected = (0.7 * (action - A) ** 2 - q / size).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    expected_slope = ((1.4 * (action - A) - by_action / size) * S).mean()
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5)


def test_distances_are_sums_over_the_actions_dimensions() -> None:
    """Two dimensions, each off by 1: a penalty of 2, not of 1."""
    zeros, ones = np.zeros((2, 2)), np.ones((2, 2), np.float32)
    rows = jax.tree.map(jnp.asarray, transitions(zeros, zeros, np.zeros(2), np.array([1.0, 0.0])))
    flat = Net(lambda key, s, a: 0.0, lambda params, s, a: jnp.zeros((2, len(s))))
    found = own_method.critic_target(0.0, rows, jnp.asarray(ones), critic=flat, penalty=1.0)
    np.testing.assert_allclose(found, [-2, 0])


def test_a_bad_config_is_refused() -> None:
    spec = Spec.of(transitions(S[:, None], A[:, None], S, DISCOUNT))
    with pytest.raises(ValueError, match="critic_penalty must not be negative"):
        own_method.make(own_method.Config(critic_penalty=-1), spec)
