"""Four modes in the plane, and a Morse network that knows them exactly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.behavior import morse
from jaxrl_prefs.types import Array, Box, Net, Transition
from tests.exact import batch_of

CENTRES = np.array([[0.8, 0.0], [-0.8, 0.0], [0.0, 0.8], [0.0, -0.8]])
PLATEAU = 0.1  # radius of certainty 1 around a mode


def clusters(rows: int, std: float = 0.05, seed: int = 0) -> Transition:
    """As many actions around every centre, in one state."""
    rng = np.random.default_rng(seed)
    return batch_of(np.tile(CENTRES, (rows // 4, 1)) + rng.normal(0, std, (rows // 4 * 4, 2)))


def nearest(action: Array) -> Array:
    """Vectors to the nearest centre: [..., 2]."""
    away = jnp.asarray(CENTRES).reshape((1,) * (action.ndim - 1) + (4, 2)) - action[..., None, :]
    best = jnp.argmin(jnp.sum(jnp.square(away), -1), -1)
    return jnp.take_along_axis(away, best[..., None, None], -2)[..., 0, :]


def exact(scale: Any) -> morse.Morse:
    """-log M = scale^2 max(0, d - PLATEAU)^2 / 2, d the distance to the nearest mode."""

    def apply(params: Any, observation: Array, action: Array) -> Array:
        away = nearest(action)
        distance = jnp.sqrt(jnp.sum(jnp.square(away), -1, keepdims=True) + 1e-12)
        return action + away * jnp.maximum(0, 1 - PLATEAU / distance)

    net = Net(lambda key, *inputs: (), apply)
    bound = np.ones(2)
    return morse.Morse(net, lambda square: morse.rbf(square, scale), Box(-bound, bound))


def shifted(offset: Any, scale: float) -> morse.Morse:
    """f(s, a) = a + offset: M = exp(-scale^2 |offset|^2 / 2) everywhere, without a slope."""

    def apply(params: Any, observation: Array, action: Array) -> Array:
        move = jnp.asarray(offset)
        return action + move.reshape((1,) * (action.ndim - 1) + move.shape)

    net = Net(lambda key, *inputs: (), apply)
    bound = np.ones(len(offset))
    return morse.Morse(net, lambda square: morse.rbf(square, scale), Box(-bound, bound))


def point(params: Array, observation: Array) -> Array:
    """A policy whose parameters are its action, the same in every state."""
    return jnp.broadcast_to(params[None], (len(observation), len(params)))


def critic_of(value: Any) -> Net:
    """Q_k(s, a) = params_k * value(a), for an ensemble's parameters [E]."""

    def apply(params: Array, observation: Array, action: Array) -> Array:
        return jax.vmap(lambda scale: scale * value(action))(params)

    return Net(lambda key, *inputs: jnp.ones(2), apply)
