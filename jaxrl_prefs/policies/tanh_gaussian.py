"""Tanh-squashed diagonal Gaussians.

An action is centre + radius * tanh(u) with u ~ N(mean(s), std(s)^2). Training keeps the pre-tanh
value u beside the action, because recovering u from an action is unstable near the bounds. The
log-density is our own line (ops/gaussian.py); the tests compare it with distrax, which need not be
installed where a policy is trained.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.ops.shapes import expand_rank, squashed
from jaxrl_prefs.types import Array, Box, Key, Net, Params

EDGE = 1 - 1e-5  # data actions are clipped to this share of the radius before the atanh


class TanhGaussian(NamedTuple):
    """A policy whose network gives the mean and log standard deviation of u: [..., 2A]."""

    net: Net
    box: Box

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation is read for its shape only."""
        return self.net.init(key, observation)

    def moments(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of u: [..., O] -> [..., A] each."""
        mean, log_std = jnp.split(self.net.apply(params, observation), 2, -1)
        return mean, gaussian.bounded_std(log_std)

    def act(self, params: Params, observation: Array) -> Array:
        """The squashed mean of u: [..., O] -> [..., A]."""
        return self.squash(self.moments(params, observation)[0])

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Actions: [B, K, A]."""
        return self.squash(self.sample_pre_tanh(params, observation, key, count))

    def sample_pre_tanh(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Samples of u: [B, K, A]."""
        mean, std = self.moments(params, observation)
        z = jax.random.normal(key, (mean.shape[0], count, mean.shape[-1]), mean.dtype)
        return mean[:, None] + std[:, None] * z

    def log_density(self, params: Params, observation: Array, action: Array) -> Array:
        """log pi(a | s): [..., A] -> [...]. Within 1e-5 radii of a bound, a is first clipped."""
        mean, std = self.moments(params, observation)
        return self._log_density(self.unsquash(action), mean, std)

    def log_density_pre_tanh(self, params: Params, observation: Array, u: Array) -> Array:
        """log pi(squash(u) | s), a density of actions, for u [B, K, A]: [B, K]."""
        chex.assert_rank(u, 3)
        mean, std = self.moments(params, observation)
        return self._log_density(u, mean[:, None], std[:, None])

    def _log_density(self, u: Array, mean: Array, std: Array) -> Array:
        inner = gaussian.tanh_log_density(u, mean, std)
        return inner - float(np.sum(np.log(self.box.radius)))

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The mean negative log-likelihood of actions [B, A]: a scalar."""
        del key
        chex.assert_shape(action, (len(observation), len(self.box.low)))
        return -jnp.mean(self.log_density(params, observation, action))

    def distribution(self, params: Params, observation: Array) -> Any:
        """A distrax distribution over actions [..., A] in the box."""
        import distrax

        mean, std = self.moments(params, observation)
        centre, radius = (expand_rank(x, mean.ndim) for x in (self.box.centre, self.box.radius))
        to_box = distrax.Chain([distrax.ScalarAffine(centre, radius), distrax.Tanh()])
        return distrax.Transformed(
            distrax.MultivariateNormalDiag(mean, std), distrax.Block(to_box, 1)
        )

    def squash(self, u: Array) -> Array:
        """The action of u: [..., A]."""
        return squashed(u, self.box)

    def unsquash(self, action: Array) -> Array:
        """u of an action [..., A], by an atanh clipped near the bounds."""
        centre, radius = (expand_rank(x, action.ndim) for x in (self.box.centre, self.box.radius))
        return jnp.arctanh(jnp.clip((action - centre) / radius, -EDGE, EDGE))
