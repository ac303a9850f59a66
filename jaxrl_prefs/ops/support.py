"""Values and choices restricted to a sampled support set: K candidates, of which some are kept.

ARQ (Goo, Niekum 2022, arXiv 2206.00695), equations 4 to 6. Candidates are the last axis; `keep` is
0 or 1, or a boolean. Rejected candidates count as minus infinity, never as 0 times it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array


def kth_largest(q: Array, keep: Array, k: int) -> Array:
    """The k-th largest of the kept values: [..., K] -> [...]; minus infinity where fewer are kept.

    >>> float(kth_largest(jnp.array([5.0, 4.0, 3.0]), jnp.array([0, 1, 1]), 2))
    3.0
    """
    return jax.lax.top_k(jnp.where(keep, q, -jnp.inf), k)[0][..., -1]


def smallest(q: Array, keep: Array) -> Array:
    """The smallest of the kept values: [..., K] -> [...]; infinity where none is kept."""
    return jnp.min(jnp.where(keep, q, jnp.inf), -1)


def restricted_value(q: Array, keep: Array, k: int, data: Array, *, floor: bool) -> Array:
    """What is backed up from a successor (equation 5): [..., K] -> [...].

    The k-th largest kept value. With `floor` (the published code) not less than `data` [...], the
    value of the recorded next action. Without it, where fewer than k are kept, the smallest of
    them, and `data` where none is (ours; the paper does not say).
    """
    best = kth_largest(q, keep, k)
    if floor:
        return jnp.maximum(best, data)
    few = jnp.where(jnp.any(keep, -1), smallest(q, keep), data)
    return jnp.where(jnp.isfinite(best), best, few)


def mean_kept(q: Array, keep: Array) -> Array:
    """The mean of the kept values, 0 where none is: [..., K] -> [...]."""
    count = jnp.sum(jnp.asarray(keep, q.dtype), -1)
    return jnp.sum(jnp.where(keep, q, 0), -1) / jnp.maximum(count, 1)


def choice_logits(q: Array, log_density: Array, threshold: float | Array, alpha: float) -> Array:
    """Logits of the implicit policy over candidates (equation 6): [..., K].

    alpha (Q - mean of the kept) for candidates of log-density above `threshold`, minus infinity for
    others. Where all are rejected, the densest is certain (ours; the published code does not say).

    >>> q, dense = jnp.array([1.0, 3.0, 9.0]), jnp.array([0.0, 0.0, -6.0])
    >>> choice_logits(q, dense, -5.0, 2.0).tolist()
    [-2.0, 2.0, -inf]
    """
    keep = log_density > threshold
    densest = jax.nn.one_hot(jnp.argmax(log_density, -1), q.shape[-1], dtype=bool)
    keep = jnp.where(jnp.any(keep, -1, keepdims=True), keep, densest)
    return jnp.where(keep, alpha * (q - mean_kept(q, keep)[..., None]), -jnp.inf)
