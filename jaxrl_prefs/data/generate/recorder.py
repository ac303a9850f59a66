"""Keeps the steps of whatever plays in an environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from jaxrl_prefs.data.generate.episodes import Episode, episode
from jaxrl_prefs.environments import task


class Recorder(gymnasium.Wrapper):
    """An environment that keeps its steps; otherwise the environment itself."""

    def __init__(self, env: gymnasium.Env, on_step: Callable[[], None] = lambda: None) -> None:
        """Records `env` from its next reset on; calls `on_step` before each step."""
        super().__init__(env)
        self._on_step = on_step
        self._episodes: list[Episode] = []
        self._begin(None)

    def reset(self, **arguments: Any) -> tuple[Any, dict]:
        """Starts an episode; one that was going on is cut off."""
        self._finish(terminal=False)
        observation, info = self.env.reset(**arguments)
        self._begin(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Steps the environment and keeps the step."""
        self._on_step()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observations.append(np.array(observation))
        self._actions.append(np.array(action))
        self._rewards.append(task.number(reward))
        if terminated or truncated:
            self._finish(terminal=terminated)
        return observation, task.number(reward), terminated, truncated, info

    def take(self) -> list[Episode]:
        """The episodes since the last call; one that is going on is cut in two here."""
        now = self._observations[-1] if self._observations else None
        self._finish(terminal=False)
        self._begin(now)
        taken, self._episodes = self._episodes, []
        return taken

    def _begin(self, observation: Any) -> None:
        self._observations = [] if observation is None else [np.array(observation)]
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []

    def _finish(self, *, terminal: bool) -> None:
        if self._rewards:
            parts = (self._observations, self._actions, self._rewards)
            self._episodes.append(episode(*parts, terminal=terminal))
        self._begin(None)
