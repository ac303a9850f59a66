"""Seeds what an environment draws from numpy's global generator, as OGBench's mazes do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np


class OwnGenerator(gymnasium.Wrapper):
    """Gives every copy of an environment a global generator of its own.

    `reset(seed=)` seeds it and the action space, from which OGBench's mazes draw as well. The
    process's own generator is put back after every call, so that copies do not disturb each other.
    Without a seed so far, the first reset takes seed 0.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._state = np.random.RandomState(0).get_state()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """As the environment's own."""
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
            self.env.unwrapped.action_space.seed(seed)
        with self._drawing():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """As the environment's own."""
        with self._drawing():
            return self.env.step(action)

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            yield
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002
