"""Proposals: distributions of actions that can be sampled and whose density is known.

A contrastive loss takes its negatives from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import gaussian
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, uniform_in
from jaxrl_prefs.types import Array, Box, Key


class Proposal(NamedTuple):
    """A distribution of actions in every state."""

    sample: Callable[[Array, Key, int], Array]  # (observation [B, O], key, n) -> [B, n, A]
    log_density: Callable[[Array, Array], Array]  # (observation [..., O], action [..., A]) -> [...]


def uniform(box: Box) -> Proposal:
    """The uniform distribution on the box."""
    low, high = box
    level = -float(np.sum(np.log(np.asarray(high, np.float64) - low)))

    def sample(observation: Array, key: Key, count: int) -> Array:
        shape = (len(observation), count, len(low))
        return uniform_in(box, key, shape, jnp.dtype(jnp.float32))

    def log_density(observation: Array, action: Array) -> Array:
        del observation
        return jnp.full(action.shape[:-1], level, action.dtype)

    return Proposal(sample, log_density)


def truncated_normal(moments: Callable[[Array], tuple[Array, Array]], box: Box) -> Proposal:
    """Diagonal Gaussians truncated to the box.

    Args:
        moments: observation [..., O] -> mean, inside the box, and standard deviation, [..., A]
            each.
        box: the bounds.
    """

    def bounds(mean: Array, std: Array) -> tuple[Array, Array]:
        low, high = (expand_rank(bound, mean.ndim) for bound in box)
        return (low - mean) / std, (high - mean) / std

    def sample(observation: Array, key: Key, count: int) -> Array:
        mean, std = (x[:, None] for x in moments(observation))
        shape = (len(observation), count, len(box.low))
        z = jax.random.truncated_normal(key, *bounds(mean, std), shape, mean.dtype)
        return clip_to_box(mean + std * z, box)

    def log_density(observation: Array, action: Array) -> Array:
        mean, std = moments(observation)
        below, above = (jax.scipy.stats.norm.cdf(x) for x in bounds(mean, std))
        return gaussian.log_density(action, mean, std) - jnp.sum(jnp.log(above - below), -1)

    return Proposal(sample, log_density)


def even_mixture(one: Proposal, other: Proposal) -> Proposal:
    """The mixture of two proposals with weights 1/2."""

    def sample(observation: Array, key: Key, count: int) -> Array:
        one_key, other_key, choice_key = jax.random.split(key, 3)
        first = one.sample(observation, one_key, count)
        second = other.sample(observation, other_key, count)
        is_first = jax.random.bernoulli(choice_key, 0.5, first.shape[:2])
        return jnp.where(is_first[..., None], first, second)

    def log_density(observation: Array, action: Array) -> Array:
        densities = one.log_density(observation, action), other.log_density(observation, action)
        return jnp.logaddexp(*densities) - math.log(2)

    return Proposal(sample, log_density)
