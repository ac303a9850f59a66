"""A trained policy as an ONNX file, for programs without JAX and without Python.

The file has the inputs `observation`, float32 [batch, O] in raw units, and `draw`, a uint32, and
the output `action`, float32 [batch, A] in raw units; of a policy of chunks [batch, k, A], the
actions to play, in this order, before it is asked again. For the same draw number it draws what the
file of `exported` draws: the arithmetic of the random generator is part of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data.transforms import SINGLE, ActionChunk, Affine
from jaxrl_prefs.errors import ExportError
from jaxrl_prefs.method import State
from jaxrl_prefs.runs import arithmetic, onnx_operations
from jaxrl_prefs.runs.export import one_row
from jaxrl_prefs.runs.onnx_graph import Graph, NotConvertible
from jaxrl_prefs.types import Array

OBSERVATION, DRAW, ACTION = "observation", "draw", "action"


def to_onnx(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    notes: Mapping[str, str] | None = None,
    *,
    chunk: ActionChunk = SINGLE,
) -> bytes:
    """Returns the content of a file; the arguments are those of `exported`.

    Args:
        act: the policy.
        state: of one seed.
        observation: the map of raw observations to the policy's.
        action: the map of raw actions to the policy's.
        notes: the file's metadata.
        chunk: how many actions the policy chooses at a time, and how many are played.

    Raises:
        ExportError: if the policy holds an operation that has no ONNX translation.
        ConfigError: if the package onnx is missing.
    """
    width = observation.shift.shape[0]
    seen = jax.ShapeDtypeStruct((width,), np.float32)
    words = jax.ShapeDtypeStruct((2,), np.uint32)
    (batch,) = jax.export.symbolic_shape("batch")
    graph = Graph(OBSERVATION, batch)
    try:
        one = arithmetic.plain(one_row(act, state, observation, action, chunk), seen, words)

        def whole(raw: Array, draw: Array) -> Array:
            key = jnp.stack([jnp.zeros_like(draw), draw])
            places = jax.lax.broadcasted_iota(np.uint32, (raw.shape[0],), 0)
            return jax.vmap(one)(raw, arithmetic.fold_in(key, places))

        rows = jax.ShapeDtypeStruct((batch, width), np.float32)
        traced = jax.make_jaxpr(whole)(rows, jax.ShapeDtypeStruct((), np.uint32))
        inputs = [OBSERVATION, DRAW]
        (found,) = onnx_operations.convert(graph, traced.jaxpr, traced.consts, inputs)
    except (NotConvertible, arithmetic.NotArithmetic) as error:
        raise ExportError(f"{error} has no ONNX translation") from error
    places = [(OBSERVATION, np.float32, ["batch", width]), (DRAW, np.uint32, [])]
    answer = traced.out_avals[0].shape[1:]
    last = (ACTION, found, np.float32, ["batch", *answer])
    return graph.model(places, last, dict(notes or {}))
