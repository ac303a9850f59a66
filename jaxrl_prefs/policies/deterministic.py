"""Deterministic policies: one action for each observation, inside the action box."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxrl_prefs import nets
from jaxrl_prefs.ops.shapes import clip_to_box, squashed
from jaxrl_prefs.types import Array, Box, Key, Net, Params, Spec


class Deterministic(NamedTuple):
    """pi(s) = centre + radius * tanh(net(s))."""

    net: Net  # observation -> [..., A], before the tanh
    box: Box

    def init(self, key: Key, observation: Array) -> Params:
        """Initial parameters; the observation is read for its shape only."""
        return self.net.init(key, observation)

    def act(self, params: Params, observation: Array) -> Array:
        """pi(s): [..., O] -> [..., A]."""
        return squashed(self.net.apply(params, observation), self.box)

    def moments(self, params: Params, observation: Array) -> tuple[Array, Array]:
        """pi(s), and 0 as its standard deviation: [..., A] each."""
        action = self.act(params, observation)
        return action, jnp.zeros_like(action)

    def sample(self, params: Params, observation: Array, key: Key, count: int) -> Array:
        """pi(s) `count` times: [B, K, A]."""
        del key
        action = clip_to_box(self.act(params, observation), self.box)
        return jnp.broadcast_to(action[:, None], (len(action), count, action.shape[-1]))

    def bc_loss(self, params: Params, observation: Array, action: Array, key: Key) -> Array:
        """The mean squared error over batch and dimensions, for actions [B, A]: a scalar."""
        del key
        mean = self.act(params, observation)
        chex.assert_rank(action, 2)
        chex.assert_equal_shape([mean, action])
        return jnp.mean(jnp.square(mean - action))


def relu_policy(hidden: tuple[int, ...], spec: Spec) -> Deterministic:
    """A deterministic policy with ReLU layers of widths `hidden` and LeCun-normal kernels."""
    net = nets.mlp(hidden, spec.action_dim, activation="relu", initialiser="lecun")
    return Deterministic(nets.viewed(net, spec.view("actor")), spec.action_box)
