"""A trained policy as an ONNX file, for programs without JAX and without Python.

The file has the inputs `observation`, float32 [batch, O] in raw units, and `draw`, a uint32, and
the output `action`, float32 [batch, A] in raw units; of a policy of chunks [batch, k, A], the
actions to play, in this order, before it is asked again. For the same draw number it draws what the
file of `exported` draws: the arithmetic of the random generator is part of the graph.

Of a policy that sees images, the inputs are `observation.<camera>`, uint8 [batch, H, W, k * C], the
newest of k frames last, for every camera; `observation.state`, if there is a vector; and `draw`.
The metadata `frame_stack` is k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data.transforms import SINGLE, ActionChunk, Affine
from jaxrl_prefs.errors import ExportError
from jaxrl_prefs.method import State
from jaxrl_prefs.runs import arithmetic, onnx_operations
from jaxrl_prefs.runs.export import inputs, one_row
from jaxrl_prefs.runs.onnx_graph import Graph, NotConvertible
from jaxrl_prefs.types import Array, ImageSpec

OBSERVATION, DRAW, ACTION = "observation", "draw", "action"
FRAME_STACK = "frame_stack"  # metadata


def named(part: str) -> str:
    """The name of the input for a part of an observation: a camera, or "state"."""
    return f"{OBSERVATION}.{part}"


def unnamed(name: str) -> str | None:
    """The part of an observation that an input stands for; None for another input."""
    return name.removeprefix(named("")) if name.startswith(named("")) else None


def to_onnx(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    notes: Mapping[str, str] | None = None,
    *,
    chunk: ActionChunk = SINGLE,
    images: Sequence[ImageSpec] = (),
    stack: int = 1,
) -> bytes:
    """Returns the content of a file; the arguments are those of `exported`.

    Args:
        act: the policy.
        state: of one seed.
        observation: the map of raw observations to the policy's.
        action: the map of raw actions to the policy's.
        notes: the file's metadata.
        chunk: how many actions the policy chooses at a time, and how many are played.
        images: of the observations, their frames stacked.
        stack: k, how many frames.

    Raises:
        ExportError: if the policy holds an operation that has no ONNX translation.
        ConfigError: if the package onnx is missing.
    """
    seen = inputs(observation, images)
    words = jax.ShapeDtypeStruct((2,), np.uint32)
    (batch,) = jax.export.symbolic_shape("batch")
    places = _places(seen)
    graph = Graph(places[0][0], batch)
    try:
        row = one_row(act, state, observation, action, chunk)
        # Files of policies without images stay as they were, so nothing is folded there.
        one = arithmetic.plain(
            lambda *x: row(_like(seen, x[:-1]), x[-1]), *_flat(seen), words, fold=bool(images)
        )

        def whole(*given: Array) -> Array:
            *raw, draw = given
            key = jnp.stack([jnp.zeros_like(draw), draw])
            places = jax.lax.broadcasted_iota(np.uint32, (raw[0].shape[0],), 0)
            return jax.vmap(one)(*raw, arithmetic.fold_in(key, places))

        rows = [jax.ShapeDtypeStruct((batch, *each.shape), each.dtype) for each in _flat(seen)]
        traced = jax.make_jaxpr(whole)(*rows, jax.ShapeDtypeStruct((), np.uint32))
        names = [*(name for name, *_ in places), DRAW]
        (found,) = onnx_operations.convert(graph, traced.jaxpr, traced.consts, names)
    except (NotConvertible, arithmetic.NotArithmetic) as error:
        raise ExportError(f"{error} has no ONNX translation") from error
    answer = traced.out_avals[0].shape[1:]
    last = (ACTION, found, np.float32, ["batch", *answer])
    frames = {FRAME_STACK: str(stack)} if images else {}
    return graph.model([*places, (DRAW, np.uint32, [])], last, {**(notes or {}), **frames})


def _flat(observation: Any) -> list[Any]:
    return jax.tree.leaves(observation)


def _like(observation: Any, leaves: Sequence[Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(observation), leaves)


def _places(observation: Any) -> list[tuple[str, Any, list[Any]]]:
    """The inputs (name, dtype, sizes) for an observation, in the order of its leaves."""
    parts = {OBSERVATION: observation}
    if isinstance(observation, Mapping):
        parts = {named(part): observation[part] for part in sorted(observation)}
    return [(name, each.dtype, ["batch", *each.shape]) for name, each in parts.items()]
