"""Importance sampling on a two-step task whose values are known."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from jaxrl_prefs.estimation import importance
from jaxrl_prefs.estimation.importance import Steps

GAMMA = 0.5


def steps(ratio: np.ndarray, reward: np.ndarray, live: np.ndarray | None = None) -> Steps:
    nothing = np.zeros_like(reward)
    shown = np.ones_like(reward, bool) if live is None else live
    return Steps(np.log(ratio), reward, nothing, nothing, shown)


def test_weights_of_one_give_the_mean_return() -> None:
    reward = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    live = np.array([[True, True], [True, True], [True, False]])  # the third episode is shorter
    found = importance.weighted(
        steps(np.ones((3, 2)), reward, live), np.zeros(3), GAMMA, np.ones((1, 3))
    )
    assert found.members == pytest.approx([np.mean([2.0, 5.0, 5.0])])
    assert found.effective == pytest.approx(3)


def test_by_hand() -> None:
    """Episodes with ratios (2, 1) and (1, 3): weights 2/3 and 1/3, then 2/5 and 3/5."""
    ratio, reward = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, 10.0], [4.0, 20.0]])
    found = importance.weighted(steps(ratio, reward), np.zeros(2), GAMMA, np.ones((1, 2)))
    assert found.members == pytest.approx([2 / 3 + 4 / 3 + 0.5 * (0.4 * 10 + 0.6 * 20)])
    assert found.effective == pytest.approx(5**2 / (2**2 + 3**2))


def test_another_policy_is_worth_what_it_is() -> None:
    """A bandit with rewards 0 and 1; the behaviour takes 1 in 30 %, the policy in 80 %."""
    rng = np.random.default_rng(0)
    action = rng.random((20_000, 1)) < 0.3
    ratio = np.where(action, 0.8 / 0.3, 0.2 / 0.7)
    counts = rng.exponential(size=(100, 20_000))
    found = importance.weighted(steps(ratio, action * 1.0), np.zeros(20_000), 1.0, counts)
    assert found.members.mean() == pytest.approx(0.8, abs=0.01)
    # Its variance is E[rho^2 (r - V)^2] / n under the behaviour.
    spread = 0.3 * (0.8 / 0.3 * 0.2) ** 2 + 0.7 * (0.2 / 0.7 * 0.8) ** 2
    assert found.members.std() == pytest.approx(np.sqrt(spread / 20_000), rel=0.25)


def test_a_right_model_needs_no_weights_and_a_wrong_one_is_corrected() -> None:
    rng = np.random.default_rng(1)
    size = 20_000
    action = rng.random((size, 1)) < 0.3
    ratio = np.where(action, 0.8 / 0.3, 0.2 / 0.7)
    reward = action * 1.0
    base = steps(ratio, reward)
    right = base._replace(q=reward)  # Q(a) = a, V = .8: no variance at all
    exact = importance.weighted(right, np.full(size, 0.8), 1.0, rng.exponential(size=(50, size)))
    assert exact.members == pytest.approx(0.8, abs=1e-9)
    wrong = base._replace(q=np.full((size, 1), 7.0))  # Q = V = 7
    found = importance.weighted(wrong, np.full(size, 7.0), 1.0, np.ones((1, size)))
    assert found.members == pytest.approx([0.8], abs=0.02)


def test_long_products_neither_overflow_nor_vanish() -> None:
    rng = np.random.default_rng(2)
    base = steps(np.exp(rng.normal(size=(20, 1000)) * 3), np.ones((20, 1000)))
    found = importance.weighted(base, np.zeros(20), 0.9, np.ones((1, 20)))
    assert found.members == pytest.approx([10], rel=1e-6)  # every step has reward 1
    assert 1 <= found.effective < 2


def test_examples() -> None:
    assert doctest.testmod(importance).failed == 0
