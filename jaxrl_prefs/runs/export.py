"""A trained policy as one program that needs only JAX (jax.export), and what such programs take.

`onnx_export.py` writes the same policy for programs without JAX; `exported.py` opens both files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data.transforms import SINGLE, ActionChunk, Affine
from jaxrl_prefs.method import State
from jaxrl_prefs.types import STATE, Array, ImageSpec, Key

PLATFORMS = ("cpu", "cuda", "tpu")  # an exported policy runs on all of them
FRAMES = "policy_of_frames_"  # the name of a program that sees so many frames at once


def exported(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    platforms: Sequence[str] = PLATFORMS,
    *,
    chunk: ActionChunk = SINGLE,
    images: Sequence[ImageSpec] = (),
    stack: int = 1,
) -> jax.export.Exported:
    """A policy with its parameters and its maps, as one program.

    It takes raw observations [B, O] float32 of any batch size and a draw number (uint32), and
    returns raw actions [B, A]. A policy that draws at random gives the same actions for the same
    number and other ones for another; every row draws by itself, whatever the batch.

    A policy of chunks returns [B, k, A] for k > 1: the actions to play, in this order, before it is
    asked again.

    With images, an observation is a dict: uint8 [B, H, W, k * C] by camera, the newest frame last,
    and the vector as "state" if there is one. The program's name says k, which is `stack`.
    """
    row = one_row(act, state, observation, action, chunk)

    def whole(raw: Any, draw: Array) -> Array:
        # Row by row, so that no shape inside the policy depends on the batch.
        places = jnp.arange(jax.tree.leaves(raw)[0].shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), places)
        return jax.vmap(row)(raw, keys)

    if images:
        whole.__name__ = f"{FRAMES}{stack}"
    (batch,) = jax.export.symbolic_shape("batch")
    seen = inputs(observation, images, (batch,))
    draw = jax.ShapeDtypeStruct((), np.uint32)
    return jax.export.export(jax.jit(whole), platforms=tuple(platforms))(seen, draw)


def inputs(observation: Affine, images: Sequence[ImageSpec], lead: tuple[Any, ...] = ()) -> Any:
    """The shapes of observations as a program takes them: a vector, or a dict with images."""
    width = observation.shift.shape[0]
    vector = jax.ShapeDtypeStruct((*lead, width), np.float32)
    if not images:
        return vector
    shown = {each.name: jax.ShapeDtypeStruct((*lead, *each.shape), np.uint8) for each in images}
    return shown | ({STATE: vector} if width else {})


def one_row(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    chunk: ActionChunk = SINGLE,
) -> Callable[[Array, Key], Array]:
    """A policy of one raw observation and a key, to raw actions as `ActionChunk.answer`."""

    def seen(raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return (raw - observation.shift) / observation.scale
        return {name: seen(x) if name == STATE else x for name, x in raw.items()}

    def row(raw: Any, key: Key) -> Array:
        batch = jax.tree.map(lambda leaf: leaf[None], seen(raw))
        found: Array = chunk.answer(act(state, batch, key)[0] * action.scale + action.shift)
        return found

    return row
