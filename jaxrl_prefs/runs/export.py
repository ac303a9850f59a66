"""A trained policy as one program that needs only JAX (jax.export), and what such programs take.

`onnx_export.py` writes the same policy for programs without JAX; `exported.py` opens both files.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data.transforms import SINGLE, ActionChunk, Affine
from jaxrl_prefs.method import State
from jaxrl_prefs.types import STATE, Array, Key, Spec

PLATFORMS = ("cpu", "cuda", "tpu")  # an exported policy runs on all of them
DRAWS = 2**32  # draw numbers are below it


def exported(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    platforms: Sequence[str] = PLATFORMS,
    *,
    chunk: ActionChunk = SINGLE,
) -> jax.export.Exported:
    """A policy with its parameters and its maps, as one program.

    It takes raw observations [B, O] float32 of any batch size and a draw number (uint32), and
    returns raw actions [B, A]. A policy that draws at random gives the same actions for the same
    number and other ones for another; every row draws by itself, whatever the batch.

    A policy of chunks returns [B, k, A] for k > 1: the actions to play, in this order, before it is
    asked again.
    """
    width = observation.shift.shape[0]
    row = one_row(act, state, observation, action, chunk)

    def whole(raw: Array, draw: Array) -> Array:
        # Row by row, so that no shape inside the policy depends on the batch.
        places = jnp.arange(raw.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), places)
        return jax.vmap(row)(raw, keys)

    (batch,) = jax.export.symbolic_shape("batch")
    seen = jax.ShapeDtypeStruct((batch, width), np.float32)
    draw = jax.ShapeDtypeStruct((), np.uint32)
    return jax.export.export(jax.jit(whole), platforms=tuple(platforms))(seen, draw)


def one_row(
    act: Callable[..., Array],
    state: State,
    observation: Affine,
    action: Affine,
    chunk: ActionChunk = SINGLE,
) -> Callable[[Array, Key], Array]:
    """A policy of raw observations [O] and a key, to raw actions as `ActionChunk.answer`."""

    def row(raw: Array, key: Key) -> Array:
        seen = (raw - observation.shift) / observation.scale
        found: Array = chunk.answer(act(state, seen[None], key)[0] * action.scale + action.shift)
        return found

    return row


def checked_observation(observation: Any, width: int) -> np.ndarray:
    """Observations as a policy takes them, float32 [O] or [B, O].

    Raises:
        ValueError: for another shape, and for numbers that are not finite: a policy would answer
            them with actions that mean nothing.
    """
    with np.errstate(over="ignore"):
        raw = np.asarray(observation, np.float32)
    if raw.ndim not in (1, 2) or raw.shape[-1] != width:
        raise ValueError(
            f"an observation has shape [{width}] or [batch, {width}], got {list(raw.shape)}"
        )
    if not np.isfinite(raw).all():
        row, column = np.argwhere(~np.isfinite(np.atleast_2d(raw)))[0]
        place = f"dimension {column}" + (f" of row {row}" if raw.ndim == 2 else "")
        raise ValueError(f"the observation has a NaN or an infinity in {place}; no action is given")
    return raw


def checked_images(observation: Any, spec: Spec, stack: int) -> dict[str, np.ndarray]:
    """Observations with images as a policy takes them: uint8 [H, W, C] or [B, H, W, C] by camera.

    The vector beside them, "state", is as `checked_observation` takes it.

    Args:
        observation: a dict of single frames, the newest.
        spec: of the data.
        stack: frames that the policy sees at once; it remembers the earlier ones.

    Raises:
        ValueError: for a missing camera, another shape, or images that are not uint8.
    """
    names = [each.name for each in spec.images] + [STATE] * (spec.observation_dim > 0)
    if not isinstance(observation, Mapping) or set(observation) != set(names):
        got = (
            sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
        )
        raise ValueError(f"an observation is a dict with {', '.join(names)}, got {got}")
    found: dict[str, np.ndarray] = {}
    for each in spec.images:
        image = np.asarray(observation[each.name])
        shape = (each.height, each.width, each.channels // stack)
        if image.shape[-3:] != shape or image.ndim not in (3, 4) or image.dtype != np.uint8:
            raise ValueError(
                f"an image {each.name!r} is uint8 of shape {list(shape)} or [batch, "
                f"{', '.join(map(str, shape))}], got {image.dtype} of {list(image.shape)}"
            )
        found[each.name] = image
    if spec.observation_dim:
        found[STATE] = checked_observation(observation[STATE], spec.observation_dim)
    return found


def checked_draw(draw: Any) -> np.ndarray:
    """The number of a draw as a policy takes it, uint32 [].

    Raises:
        ValueError: for anything but a whole number from 0 to 4294967295.
    """
    try:
        number = operator.index(draw)
    except TypeError:
        number = -1
    if not 0 <= number < DRAWS:
        raise ValueError(f"a draw is a whole number from 0 to {DRAWS - 1}, got {draw!r}")
    return np.asarray(number, np.uint32)
