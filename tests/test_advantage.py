"""How a benchmark compares Q with returns: on Q and returns that are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import advantage

SIZE = (4_000, 10)


def normal(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


TRUTH = normal(0, *SIZE) + 50 * normal(1, SIZE[0], 1)  # states differ far more than actions


def returns(noise: float, repeats: int = 4) -> np.ndarray:
    return TRUTH[..., None] + noise * normal(2, *SIZE, repeats)


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_a_perfect_q_reaches_the_ceiling(noise: float) -> None:
    found = advantage.agreement(3 * TRUTH + 7, returns(noise))
    expected = 1 / np.sqrt(1 + noise**2 / 4)  # the mean of four repeats
    np.testing.assert_allclose(found.correlation, expected, atol=0.02)
    np.testing.assert_allclose(found.ceiling, expected, atol=0.03)
    # Centred on the state's mean, ten unit normals have deviation sqrt(.9).
    np.testing.assert_allclose(found.spread, 3 * np.sqrt(0.9), rtol=0.02)
    # The largest of ten standard normals is 1.539 in the mean.
    np.testing.assert_allclose(found.gain, 1.539 * expected / np.sqrt(0.9), rtol=0.05)


def test_a_q_that_knows_the_state_alone_gains_nothing() -> None:
    blind = TRUTH.mean(1, keepdims=True) + normal(3, *SIZE)
    found = advantage.agreement(blind, returns(0.0))
    assert abs(found.correlation) < 0.04
    assert abs(found.gain) < 0.1


def test_returns_of_noise_have_no_ceiling() -> None:
    assert advantage.ceiling(normal(4, *SIZE, 4)) < 0.2


class Line:
    """A robot at x that moves by its action, earns x, and ends beyond 3."""

    def __init__(self) -> None:
        self.robot = self

    def place(self, observation: np.ndarray) -> None:
        self.x = float(observation[0])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.x += float(action[0])
        return np.array([self.x]), self.x, self.x > 3


def test_returns_are_discounted_and_end() -> None:
    advantage.FLAGS(["advantage", "--steps=4"])
    actions = np.array([[0.0], [1.0], [3.0]])
    found = advantage.discounted(
        [Line() for _ in actions], np.ones(1), actions, lambda seen: np.ones_like(seen), 0.5
    )
    by_hand = [1 + 2 / 2 + 3 / 4 + 4 / 8, 2 + 3 / 2 + 4 / 4, 4.0]
    np.testing.assert_allclose(found, by_hand)
