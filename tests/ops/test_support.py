"""Backups and choices among a few candidates, worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import support

# The recorded action first, then five samples.
Q = np.float32([1, 5, 4, 3, 2, 0.5])
ALL, NONE = np.ones(6), np.eye(6)[0]
FEWER = np.array([1, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("keep", "k", "expected"),
    [
        (ALL, 1, 5.0),
        (ALL, 3, 3.0),
        (ALL, 6, 1.0),  # .5, raised to the recorded action's value
        (FEWER, 3, 1.0),
        (FEWER, 1, 3.0),
        (NONE, 1, 1.0),
        (NONE, 2, 1.0),
        (NONE, 6, 1.0),
    ],
)
def test_the_published_backup(keep, k, expected):
    found = support.restricted_value(Q, keep, k, jnp.float32(1), floor=True)
    assert found == expected


@pytest.mark.parametrize(
    ("keep", "k", "expected"),
    [(ALL, 6, 0.5), (ALL, 3, 3.0), (FEWER, 4, 0.5), (FEWER, 5, 0.5), (np.zeros(6), 2, 7.0)],
)
def test_the_printed_backup(keep, k, expected):
    """Without the floor; where nothing is kept, the recorded action's value."""
    found = support.restricted_value(Q, keep, k, jnp.float32(7), floor=False)
    assert found == expected


def test_fewer_than_k_are_minus_infinity():
    assert support.kth_largest(Q, FEWER, 4) == 0.5
    assert support.kth_largest(Q, FEWER, 5) == -np.inf


def test_rows_are_independent():
    q, keep = np.stack([Q, -Q]), np.stack([ALL, FEWER])
    np.testing.assert_array_equal(support.kth_largest(q, keep, 2), [4, -1])
    found = support.restricted_value(q, keep, 2, jnp.float32([0, 9]), floor=True)
    np.testing.assert_array_equal(found, [4, 9])


REWARDS = np.array([0.2, 1.0, 0.8, 0.6, 0.4, 0.0])  # the recorded action first


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("keep", "k", "expected"),
    [(ALL, 1, 10.0), (ALL, 3, 6.0), (ALL, 6, 2.0), (np.array([1, 0, 0, 1, 1, 1]), 1, 6.0)],
)
def test_one_state_that_returns_to_itself(keep, k, expected):
    """gamma .9: Q(a) = r(a) + .9 V with V the backup's fixed point."""
    value = jnp.float64(0)
    for _ in range(400):
        q = REWARDS + 0.9 * value
        value = support.restricted_value(q, keep, k, q[0], floor=True)
    assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("candidates", ["all", "recorded", "none"])
def test_a_deterministic_table(candidates):
    """K = 1: all actions give value iteration, recorded ones the in-sample maximum, none SARSA."""
    rng = np.random.default_rng(0)
    states, actions, gamma = 5, 3, 0.9
    reward = rng.normal(size=(states, actions))
    after = rng.integers(0, states, (states, actions))
    recorded = rng.random((states, actions)) < 0.6
    chosen = rng.integers(0, actions, states)  # the behaviour's next action in each state
    recorded[np.arange(states), chosen] = True
    keep = {"all": np.ones_like(recorded), "recorded": recorded}.get(
        candidates, np.zeros_like(recorded)
    )
    q = exact = np.zeros((states, actions))
    for _ in range(500):
        data = q[np.arange(states), chosen]
        value = support.restricted_value(jnp.asarray(q), keep, 1, jnp.asarray(data), floor=True)
        q = reward + gamma * np.asarray(value)[after]
        best = {
            "all": exact.max(1),
            "recorded": np.where(recorded, exact, -np.inf).max(1),
            "none": exact[np.arange(states), chosen],
        }[candidates]
        exact = reward + gamma * best[after]
    np.testing.assert_allclose(q, exact, atol=1e-12)


DENSITY = np.float32([0.0, -6.0, -4.9, -5.1, 2.0, -1.0])


def probabilities(alpha, density=DENSITY, q=Q):
    return np.asarray(jax.nn.softmax(support.choice_logits(q, density, -5.0, alpha)))


def test_alpha_zero_is_the_behaviour():
    np.testing.assert_allclose(probabilities(0.0), [0.25, 0, 0.25, 0, 0.25, 0.25], rtol=1e-6)


def test_a_large_alpha_is_greedy_among_the_kept():
    np.testing.assert_allclose(probabilities(1e5), np.eye(6)[2])


def test_q_and_advantage_give_one_policy():
    """A differs from Q by a number for each state."""
    exact = np.where(DENSITY > -5, np.exp(0.7 * Q), 0)
    np.testing.assert_allclose(probabilities(0.7), exact / exact.sum(), rtol=1e-5)
    np.testing.assert_allclose(probabilities(0.7, q=Q - 100), exact / exact.sum(), rtol=1e-4)


def test_where_all_are_rejected_the_densest_is_taken():
    np.testing.assert_array_equal(probabilities(1.0, DENSITY - 9), np.eye(6)[4])
    nowhere = np.full(6, -np.inf, np.float32)
    assert probabilities(1.0, nowhere).sum() == pytest.approx(1)


def test_rejected_values_do_not_matter():
    """Not even if they are not numbers."""
    broken = np.where(DENSITY > -5, Q, np.nan)
    np.testing.assert_allclose(probabilities(1.0, q=broken), probabilities(1.0), rtol=1e-6)
    assert support.restricted_value(broken, DENSITY > -5, 1, 0.0, floor=True) == 4


def test_the_mean_of_the_kept():
    assert support.mean_kept(Q, FEWER) == pytest.approx((1 + 3 + 2 + 0.5) / 4)
    assert support.mean_kept(Q, np.zeros(6)) == 0
