"""Theorem 1 of ARQ's paper on a table: a penalty on Q is a KL to the policy that it prefers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import support

STATES, ACTIONS, GAMMA = 5, 4, 0.9
RNG = np.random.default_rng(0)
AFTER = RNG.dirichlet(np.ones(STATES), (STATES, ACTIONS))  # [s, a, s']
REWARD = RNG.normal(size=(STATES, ACTIONS))
PENALTY = RNG.exponential(2.0, size=(STATES, ACTIONS))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normaliser(penalty):
    return np.log(np.exp(-penalty).sum(-1))


def entropy(policy):
    return -(policy * np.log(np.where(policy > 0, policy, 1))).sum(-1)


def evaluated(policy, cost):
    """The fixed point of Q = r + gamma P (<pi, Q> - cost(s')): a linear equation."""
    moves = np.einsum("sat,tb->satb", AFTER, policy).reshape(STATES * ACTIONS, -1)
    right = REWARD.ravel() - GAMMA * (AFTER @ cost).ravel()
    q = np.linalg.solve(np.eye(len(moves)) - GAMMA * moves, right)
    return q.reshape(STATES, ACTIONS)


def by_divergence(preferred, rounds=8):
    """Policy iteration under KL(pi || preferred)."""
    policy = np.full((STATES, ACTIONS), 1 / ACTIONS)
    for _ in range(rounds):
        kl = (policy * np.log(policy / preferred)).sum(-1)
        q = evaluated(policy, kl)
        policy = softmax(q + np.log(preferred))
        yield q, policy


def by_penalty(penalty, z, rounds=8):
    """Soft policy iteration on Q - penalty, with z [s] taken off the value."""
    policy = np.full((STATES, ACTIONS), 1 / ACTIONS)
    for _ in range(rounds):
        q = evaluated(policy, (policy * penalty).sum(-1) + z - entropy(policy))
        policy = softmax(q - penalty)
        yield q, policy


def gaps(one, other):
    """The largest difference of Q or policy in each round."""
    rounds = zip(one, other, strict=True)
    return [max(np.abs(a - b).max() for a, b in zip(*pair, strict=True)) for pair in rounds]


def test_both_iterations_are_one():
    found = gaps(by_divergence(softmax(-PENALTY)), by_penalty(PENALTY, normaliser(PENALTY)))
    assert max(found) < 1e-10


def test_a_normaliser_that_varies_cannot_be_left_out():
    found = gaps(by_divergence(softmax(-PENALTY)), by_penalty(PENALTY, np.zeros(STATES)))
    assert max(found) > 0.01


def test_a_constant_normaliser_moves_all_of_q():
    """The policies stay the same; Q moves by gamma Z / (1 - gamma)."""
    level = PENALTY + normaliser(PENALTY)[:, None] - 0.3  # Z is .3 in every state
    for (q, policy), (other, same) in zip(
        by_divergence(softmax(-level)), by_penalty(level, np.zeros(STATES)), strict=True
    ):
        np.testing.assert_allclose(same, policy, atol=1e-10)
        np.testing.assert_allclose(other - q, GAMMA * 0.3 / (1 - GAMMA), atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_support_set_leaves_the_restricted_maximum():
    """Equation 4's penalty at a small temperature is ARQ's backup with K = 1."""
    keep = RNG.random((STATES, ACTIONS)) < 0.5
    keep[:, 0] = True
    q = np.zeros((STATES, ACTIONS))
    for _ in range(400):
        value = support.restricted_value(jnp.asarray(q), keep, 1, jnp.asarray(q[:, 0]), floor=True)
        q = REWARD + GAMMA * AFTER @ np.asarray(value)
    cold = 1e-3
    soft = np.zeros((STATES, ACTIONS))
    for _ in range(400):
        inside = np.where(keep, soft, -np.inf) / cold
        top = inside.max(-1)
        value = cold * (top + np.log(np.exp(inside - top[:, None]).sum(-1)))
        soft = REWARD + GAMMA * AFTER @ value
    np.testing.assert_allclose(soft, q, atol=cold * np.log(ACTIONS) * GAMMA / (1 - GAMMA))
    assert (softmax(np.where(keep, soft, -np.inf) / cold)[~keep] == 0).all()
