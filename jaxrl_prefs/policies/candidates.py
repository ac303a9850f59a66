"""Choosing one of several sampled actions."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array, Key


def best(actions: Array, q: Array) -> Array:
    """The action of the highest value: [B, K, A], [B, K] -> [B, A]."""
    return at(actions, jnp.argmax(q, -1))


def resampled(actions: Array, logits: Array, key: Key) -> Array:
    """An action drawn with probability softmax(logits): [B, K, A], [B, K] -> [B, A]."""
    return at(actions, jax.random.categorical(key, logits))


def chosen(actions: Array, q: Array, key: Key, temperature: float) -> Array:
    """Drawn with probability softmax(q / temperature); at temperature 0 the best: [B, A]."""
    if temperature > 0:
        return resampled(actions, q / temperature, key)
    return best(actions, q)


def at(actions: Array, place: Array) -> Array:
    """The action of each row at its place: [B, K, A], [B] -> [B, A]."""
    chex.assert_rank([actions, place], [3, 1])
    return jnp.take_along_axis(actions, place[:, None, None], 1)[:, 0]


def rule(name: str, count: int, temperature: float = 0.0) -> str:
    """How `chosen` picks one of `count`, for reports; `name` is what q is called."""
    if count == 1:
        return "single sample"
    return f"softmax({name} / {temperature:g})" if temperature else f"argmax {name}"
