"""Environments that draw from numpy's global generator, and what counts as a success."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxrl_prefs.environments import task
from jaxrl_prefs.environments.seeded import OwnGenerator


class Drawing(gymnasium.Env):
    """Starts and goes on at random, as OGBench's mazes do: from the global generator."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self) -> None:
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def _seen(self) -> np.ndarray:
        return np.array([np.random.uniform(), self.action_space.sample()[0]])  # noqa: NPY002

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self._seen(), 0.0, False, False, {}


def test_a_seed_decides_what_is_drawn_from_the_global_generator() -> None:
    one, other = OwnGenerator(Drawing()), OwnGenerator(Drawing())
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]  # noqa: NPY002
    first = one.reset(seed=3)[0]
    assert other.reset(seed=3)[0].tolist() == first.tolist() != other.reset(seed=4)[0].tolist()
    other.reset(seed=3)
    other.step(None)  # between the steps of the other copy
    assert one.step(None)[0].tolist() != first.tolist()
    assert one.step(None)[0].tolist() == other.step(None)[0].tolist()
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]  # noqa: NPY002


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ([None, None], None),
        ([None, True], [False, True]),
        ([[None, False], [True, None]], [[False, False], [True, False]]),
    ],
)
def test_an_episode_without_a_report_fails_once_another_has_one(
    reported: list, expected: list | None
) -> None:
    found = task.successes(reported)
    assert (None if found is None else found.tolist()) == expected
