"""NeoRL-2's SafetyHalfCheetah, after its published definition (polixir/NeoRL2).

Gymnasium's HalfCheetah-v5 with the x position kept in the observation [18]. With v the speed of a
step, the reward is v - 0.1 |a|^2, and -100 instead if v > 3.2096. Episodes last 1000 steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

FASTEST = 3.2096  # length units per second
PENALTY = -100.0


class SafetyHalfCheetah(HalfCheetahEnv):
    """A cheetah that must run, but not too fast; never terminates."""

    def __init__(self, **kwargs: Any) -> None:
        """Takes what Gymnasium's HalfCheetah-v5 takes, such as `render_mode`."""
        super().__init__(exclude_current_positions_from_observation=False, **kwargs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Applies torques [6] in [-1, 1] for a twentieth of a second."""
        observation, reward, terminated, truncated, info = super().step(action)
        if info["x_velocity"] > FASTEST:
            reward = np.float64(PENALTY)
        return observation, reward, terminated, truncated, info
