"""SAC of sbx (Stable-Baselines in JAX) as the agent of online.py; needs `jaxrl_prefs[online]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.errors import DataError


class SbxAgent:
    """SAC with sbx's own settings."""

    def __init__(self, env: Any, seed: int) -> None:
        """Makes an untrained agent.

        Raises:
          DataError: if sbx is not installed.
        """
        try:
            from sbx import SAC
            from stable_baselines3.common.logger import Logger
        except ImportError as fault:
            raise DataError(
                "training an agent online needs sbx: pip install 'jaxrl_prefs[online]'"
            ) from fault
        self._kind, self._env, self._seed = SAC, env, seed
        self._logger = Logger(None, [])  # its own makes a temporary folder at each `learn`
        self._take(SAC("MlpPolicy", env, seed=seed))

    def _take(self, model: Any) -> None:
        model.set_logger(self._logger)
        self._model = model

    def learn(self, steps: int) -> None:
        """Goes on training."""
        self._model.learn(steps, reset_num_timesteps=False)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Draws an action [A]."""
        return self._model.predict(observation, deterministic=False)[0]

    def save(self, folder: Path) -> None:
        """Writes networks, optimisers and the replay memory."""
        self._model.save(folder / "sac.zip")
        self._model.save_replay_buffer(folder / "replay.pkl")

    def load(self, folder: Path) -> None:
        """Reads them back. These files are sbx's own and hold pickles: load none but your own."""
        self._take(self._kind.load(folder / "sac.zip", env=self._env, seed=self._seed))
        self._model.load_replay_buffer(folder / "replay.pkl")
