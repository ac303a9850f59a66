"""The held-out split of behaviour models: rows that are measured and never trained on.

The split is by row number, so that it is the same in every batch, run and model. Ours.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_prefs.types import Array

EVERY = 20  # every 20th row of the dataset is held out


def is_held_out(index: Array) -> Array:
    """1 for the rows that are held out, else 0, in float32: [B] -> [B].

    >>> is_held_out(jnp.array([0, 1, 20, 39])).tolist()
    [1.0, 0.0, 1.0, 0.0]
    """
    return (index % EVERY == 0).astype(jnp.float32)
