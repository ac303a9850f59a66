"""A trained policy as one program that needs only JAX (jax.export)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data.transforms import Affine
from jaxrl_prefs.method import State
from jaxrl_prefs.types import Array, Key

PLATFORMS = ("cpu", "cuda", "tpu")  # an exported policy runs on all of them


def exported(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    platforms: Sequence[str] = PLATFORMS,
) -> jax.export.Exported:
    """A policy with its parameters and its maps, as one program.

    It takes raw observations [B, O] float32 of any batch size and a draw number (uint32), and
    returns raw actions [B, A]. A policy that draws at random gives the same actions for the same
    number and other ones for another; every row draws by itself, whatever the batch.
    """
    width = observation.shift.shape[0]

    def row(raw: Array, key: Key) -> Array:
        seen = (raw - observation.shift) / observation.scale
        return act(state, seen[None], key)[0] * action.scale + action.shift

    def whole(raw: Array, draw: Array) -> Array:
        # Row by row, so that no shape inside the policy depends on the batch.
        places = jnp.arange(raw.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), places)
        return jax.vmap(row)(raw, keys)

    (batch,) = jax.export.symbolic_shape("batch")
    seen = jax.ShapeDtypeStruct((batch, width), np.float32)
    draw = jax.ShapeDtypeStruct((), np.uint32)
    return jax.export.export(jax.jit(whole), platforms=tuple(platforms))(seen, draw)
