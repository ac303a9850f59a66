"""Gymnasium's Pendulum-v1, seen as one grey picture at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.spaces import Box

from jaxrl_prefs.environments import pendulum_drawing

RENDERED = 256  # pixels of a side of what is rendered, at least


class PendulumPixels(PendulumEnv):
    """The pendulum of Pendulum-v1: its physics, rewards, actions and starts.

    Observations [size, size, 1] are pictures (pendulum_drawing.py), which do not show the speed.
    """

    def __init__(self, size: int = pendulum_drawing.SIZE, **kwargs: Any) -> None:
        """Takes what Gymnasium's Pendulum-v1 takes as well, such as `render_mode`."""
        super().__init__(**kwargs)
        self.size = size
        self.observation_space = Box(0, 255, (size, size, 1), np.uint8)

    def _get_obs(self) -> np.ndarray:
        picture = pendulum_drawing.nearest(self.state[0])
        return pendulum_drawing.pictures(self.size)[picture].copy()

    def render(self) -> Any:
        """The observation, enlarged: [H, W, 3]; a window shows Pendulum-v1's own drawing."""
        if self.render_mode != "rgb_array":
            return super().render()
        scale = -(-RENDERED // self.size)
        return self._get_obs().repeat(scale, 0).repeat(scale, 1).repeat(3, 2)
