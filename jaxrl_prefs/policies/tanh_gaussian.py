"""Tanh-squashed diagonal Gaussians, with the draw before the tanh carried along.

An action is centre + radius * tanh(u), u ~ N(mean, std^2). Densities are of the action, in its box,
but functions take u: recovering it from an action is unstable near the bounds. The density is our
own line (ops/gaussian.py), equal to distrax's Normal and Tanh in the tests: distrax need not be
installed where a policy is trained.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.ops.shapes import expand_rank, squashed
from jaxrl_prefs.types import Array, Key, Net, Params

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
EDGE = 1 - 1e-5  # data actions are clipped to it before atanh, as the datasets are


class Squashed(NamedTuple):
    """The policy class of `net`, whose output [..., 2A] holds mean and log standard deviation."""

    net: Net
    low: np.ndarray  # [A]
    high: np.ndarray  # [A]

    def distribution(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of u, [..., A] each."""
        mean, log_std = jnp.split(self.net.apply(params, observation), 2, -1)
        return mean, jnp.exp(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))

    def draw(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """u for `count` actions of each observation: [B, K, A]."""
        mean, std = self.distribution(params, observation)
        z = jax.random.normal(key, (mean.shape[0], count, mean.shape[-1]), mean.dtype)
        return mean[:, None] + std[:, None] * z

    def log_density(self, params: Params, observation: Array, u: Array) -> Array:
        """log pi(action(u) | s) for u [B, K, A]: [B, K]."""
        mean, std = self.distribution(params, observation)
        inner = gaussian.tanh_log_density(u, mean[:, None], std[:, None])
        return inner - float(np.sum(np.log(self._radius)))

    def action(self, u: Array) -> Array:
        """The action that u stands for, [..., A]."""
        return squashed(u, self.low, self.high)

    def source(self, action: Array) -> Array:
        """u of a recorded action, [..., A], by a clipped atanh."""
        centre, radius = (expand_rank(x, action.ndim) for x in (self._centre, self._radius))
        return jnp.arctanh(jnp.clip((action - centre) / radius, -EDGE, EDGE))

    @property
    def _centre(self) -> np.ndarray:
        return (self.low + self.high) / 2

    @property
    def _radius(self) -> np.ndarray:
        return (self.high - self.low) / 2
