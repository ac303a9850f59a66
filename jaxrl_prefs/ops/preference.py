"""Paired regression of log-densities without a partition function (BPR, equation 7).

For actions a_1..a_K in one state let g_k = lam (log pi(a_k) - Q(a_k)) + E(a_k). Equation 7 is the
square of g_1 - g_2. It vanishes for every pair exactly where pi ~ exp(Q - E / lam).
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_prefs.types import Array


def residual(log_density: Array, q: Array, energy: Array, lam: float) -> Array:
    """g of each action, all arguments and the result [..., K]."""
    return lam * (log_density - q) + energy


def all_pairs(g: Array) -> Array:
    """Mean of (g_i - g_j)^2 over the pairs i < j: [..., K] -> [...].

    For K = 2 it is equation 7; for any K it is twice the unbiased sample variance.

    >>> float(all_pairs(jnp.array([1.0, 4.0])))
    9.0
    """
    size = g.shape[-1]
    return 2 * size / (size - 1) * jnp.mean(jnp.square(g - g.mean(-1, keepdims=True)), -1)


def against_first(g: Array) -> Array:
    """Mean of (g_1 - g_j)^2 over j = 2..K: [..., K] -> [...]; entry 0 is the reference.

    >>> float(against_first(jnp.array([1.0, 4.0, 1.0])))
    4.5
    """
    return jnp.mean(jnp.square(g[..., :1] - g[..., 1:]), -1)


def spread(x: Array) -> Array:
    """Mean distance |x_i - x_j| over the pairs i < j: [..., K, A] -> [...].

    >>> float(spread(jnp.array([[0.0], [1.0], [3.0]])))
    2.0
    """
    size = x.shape[-2]
    gaps = x[..., :, None, :] - x[..., None, :, :]
    return jnp.sqrt(jnp.sum(jnp.square(gaps), -1)).sum((-2, -1)) / (size * (size - 1))
