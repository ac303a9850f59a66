"""Mixtures of equal isotropic Gaussians, whose score and density are known at every time."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import vpsde
from jaxrl_prefs.types import Array


class Mixture(NamedTuple):
    """sum_k w_k N(mu_k, std^2 I); under the SDE, N(m mu_k, m^2 std^2 + 1 - m^2)."""

    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, A]
    std: float

    def _terms(self, y: Array, t: Array) -> tuple[Array, Array, Array]:
        """Distances [..., K, A], variance, and log of weight times density [..., K]."""
        means = jnp.asarray(self.means, y.dtype).reshape((1,) * (y.ndim - 1) + self.means.shape)
        weights = jnp.log(jnp.asarray(self.weights, y.dtype)).reshape((1,) * (y.ndim - 1) + (-1,))
        m = jnp.exp(-0.5 * vpsde.integral(t))
        variance = m**2 * self.std**2 - jnp.expm1(-vpsde.integral(t))
        gap = y[..., None, :] - m * means
        square = jnp.sum(gap**2, -1)
        half = 0.5 * self.means.shape[1]
        return (
            gap,
            variance,
            weights - 0.5 * square / variance - half * jnp.log(2 * math.pi * variance),
        )

    def score(self, y: Array, t: Array) -> Array:
        """The gradient of log p_t at y [..., A]."""
        gap, variance, terms = self._terms(y, t)
        return -jnp.sum(jax.nn.softmax(terms, -1)[..., None] * gap, -2) / variance

    def log_density(self, y: Array, t: float = 0.0) -> Array:
        """log p_t(y) [...]."""
        return jax.nn.logsumexp(self._terms(y, jnp.asarray(t, y.dtype))[2], -1)

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """Samples [count, A] of the data."""
        rng = np.random.default_rng(seed)
        mode = rng.choice(len(self.weights), count, p=self.weights)
        noise = rng.normal(0, self.std, (count, self.means.shape[1]))
        return (self.means[mode] + noise).astype(np.float32)

    def mode_statistics(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of samples [N, A]: shares by nearest mode, and std relative to the mode's: [K], [K]."""
        square = ((y[:, None] - self.means[None]) ** 2).sum(-1)
        mode = square.argmin(1)
        places = range(len(self.weights))
        share = np.array([(mode == k).mean() for k in places])
        spread = [np.sqrt(((y - self.means[k])[mode == k] ** 2).mean()) for k in places]
        return share, np.array(spread) / self.std


def normal(size: int) -> Mixture:
    """N(0, I)."""
    return Mixture(np.ones(1), np.zeros((1, size)), 1.0)


def pair(size: int, weight: float = 0.7, std: float = 0.1) -> Mixture:
    """Two modes at +-0.7 along the first axis; the first has this weight."""
    means = np.zeros((2, size))
    means[:, 0] = 0.7, -0.7
    return Mixture(np.array([weight, 1 - weight]), means, std)


def cross(std: float = 0.05) -> Mixture:
    """Four modes at distance .8 from the origin of the plane."""
    means = 0.8 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    return Mixture(np.full(4, 0.25), means, std)
