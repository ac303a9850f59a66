"""Diagonal Gaussian policies with their mean in the action box; samples are clipped to the box.

Sources: the policy of IQL's published code, and BDPO's ablation of the policy class (appendix E),
whose paper does not say how its Gaussians are bounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, squashed
from jaxrl_prefs.types import Array, Box, Key, Net, Params

LOG_STD_MAX = 1.0  # ours: in the box [-1, 1] a standard deviation of e is uniform; IQL's code has 2


class DiagonalGaussian(NamedTuple):
    """N(mean(s), std(s)^2) with mean = centre + radius * tanh(net(s)[:A]), samples clipped.

    Densities are those of the Gaussian before clipping.
    """

    net: Net  # observation -> [..., 2A]: mean before the tanh, log standard deviation
    box: Box
    log_std_max: float = LOG_STD_MAX

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation is read for its shape only."""
        return self.net.init(key, observation)

    def moments(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean and standard deviation: [..., O] -> [..., A] each."""
        mean, log_std = jnp.split(self.net.apply(params, observation), 2, -1)
        return squashed(mean, self.box), gaussian.bounded_std(log_std, largest=self.log_std_max)

    def act(self, params: Params, observation: Array) -> Array:
        """The mean: [..., O] -> [..., A]."""
        return self.moments(params, observation)[0]

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """Samples clipped to the box: [B, K, A]."""
        return clipped_sample(*self.moments(params, observation), key, count, self.box)

    def log_density(self, params: Params, observation: Array, action: Array) -> Array:
        """log N(a; mean(s), std(s)^2): [..., A] -> [...]."""
        return gaussian.log_density(action, *self.moments(params, observation))

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The mean negative log-likelihood of actions [B, A]: a scalar."""
        del key
        chex.assert_shape(action, (len(observation), len(self.box.low)))
        return -jnp.mean(self.log_density(params, observation, action))

    def distribution(self, params: Params, observation: Array) -> Any:
        """distrax.MultivariateNormalDiag over actions [..., A], before clipping."""
        import distrax

        return distrax.MultivariateNormalDiag(*self.moments(params, observation))


def clipped_sample(mean: Array, std: Array, key: Key, count: int, box: Box) -> Array:
    """`count` samples of each N(mean, std^2) [B, A], clipped to the box: [B, K, A]."""
    z = jax.random.normal(key, (mean.shape[0], count, mean.shape[-1]), mean.dtype)
    return clip_to_box(mean[:, None] + std[:, None] * z, box)


def shared_std(net: Net, action_dim: int) -> Net:
    """Adds one learned log standard deviation for all observations to a network of means.

    [..., A] becomes [..., 2A]. The standard deviation starts at 1. Source: IQL's published code.
    """

    def init(key: Key, observation: Array) -> Params:
        return {"mean": net.init(key, observation), "log_std": jnp.zeros(action_dim)}

    def apply(params: Params, observation: Array) -> Array:
        mean = net.apply(params["mean"], observation)
        log_std = jnp.broadcast_to(expand_rank(params["log_std"], mean.ndim), mean.shape)
        return jnp.concatenate([mean, log_std], -1)

    return Net(init, apply)
