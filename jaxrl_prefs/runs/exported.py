"""Opens the file of an exported policy, `policy.jaxexport` or `policy.onnx`, as a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data.images import FrameStack
from jaxrl_prefs.errors import ConfigError, LoadError
from jaxrl_prefs.runs.checked import (
    as_batch,
    batch_of,
    checked_draw,
    checked_images,
    checked_observation,
)
from jaxrl_prefs.runs.export import FRAMES
from jaxrl_prefs.runs.onnx_export import DRAW, FRAME_STACK, OBSERVATION, named, unnamed
from jaxrl_prefs.types import STATE, ImageSpec

ONNX_SUFFIX = ".onnx"


class ExportedPolicy:
    """The policy of a file: raw observations and a draw number to raw actions.

    If the policy sees images, an observation is a dict, {camera: uint8 [H, W, C], "state": [O]}, of
    the newest frames. The policy remembers those before: call `reset` where an episode begins.
    """

    def __init__(
        self,
        path: Path,
        call: Callable[..., Any],
        width: int,
        actions: int = 1,
        images: Sequence[ImageSpec] = (),
        stack: int = 1,
    ) -> None:
        self._path, self._call, self.observation_dim = path, call, width
        self.actions_per_call = actions  # k, to be played before the next call
        self.images = tuple(images)  # their frames stacked; empty for vectors
        self.frame_stack = stack  # frames of an image that the program takes at once
        self._frames = FrameStack(stack)

    def reset(self) -> None:
        """Begins an episode: forgets the frames of the last one."""
        self._frames.reset()

    def observe(self, observation: Any) -> None:
        """Takes in the frames of a step at which an earlier action is still being played.

        Only for policies of images with `actions_per_call` above 1, at the steps between two calls.

        Raises:
            ValueError: as a call.
        """
        self._frames.push(self._checked(observation))

    def __call__(self, observation: Any, draw: int = 0) -> np.ndarray:
        """Acts on one observation [O] or a batch [B, O]; returns [A] or [B, A].

        If `actions_per_call` is above 1, returns [k, A] or [B, k, A]: the actions to play, in this
        order, before the next call.

        Args:
            observation: in the units of the data.
            draw: seeds the policy's random draws. A policy that draws gives the same action for the
                same number; count up to draw anew at every step.

        Raises:
            ValueError: for an observation of another shape or type, for a vector that is not
                finite, and for a draw that is not a whole number from 0 to 4294967295.
        """
        raw, number = self._checked(observation), checked_draw(draw)
        action = np.asarray(self._call(as_batch(self._frames.push(raw)), number))
        return action if batch_of(raw) else action[0]

    def _checked(self, observation: Any) -> Any:
        if self.images:
            return checked_images(observation, self.images, self.observation_dim, self.frame_stack)
        return checked_observation(observation, self.observation_dim)

    def __repr__(self) -> str:
        played = f", {self.actions_per_call} actions a call" if self.actions_per_call > 1 else ""
        images = "".join(f"image {each.name!r}, " for each in self.images)
        observations = f"{images}[{self.observation_dim}] observations"
        return f"exported policy of {self._path}: {observations}{played}"


def load_policy(path: str | Path) -> ExportedPolicy:
    """Opens a file that `jaxrl-prefs export` wrote. It is a program: trust its author.

    Args:
        path: a file of jax.export, or one whose name ends in .onnx, which needs onnxruntime.

    Raises:
        LoadError: if there is no such file, or it holds no exported policy.
        ConfigError: if onnxruntime is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"{path} is not a file; jaxrl-prefs export writes one")
    opened = _onnx if path.suffix == ONNX_SUFFIX else _jax
    try:
        return opened(path)
    except (ConfigError, LoadError):
        raise
    except Exception as error:  # a damaged file may bring about anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise LoadError(f"{path} is no exported policy ({first})") from error


def _jax(path: Path) -> ExportedPolicy:
    import jax
    import jax.export

    whole = jax.export.deserialize(bytearray(path.read_bytes()))
    (observation, draw), _ = jax.tree.unflatten(whole.in_tree, whole.in_avals)
    if draw.shape:
        raise LoadError(f"{path} is a program of JAX, but no exported policy")
    shapes = {name: each.shape for name, each in _parts(observation).items()}
    stack = int(whole.fun_name.removeprefix(FRAMES)) if whole.fun_name.startswith(FRAMES) else 1
    return _policy(path, jax.jit(whole.call), shapes, whole.out_avals[0].shape, stack)


def _onnx(path: Path) -> ExportedPolicy:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{path} needs onnxruntime: pip install onnxruntime, or 'jaxrl_prefs[onnx]'"
        ) from error
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = {each.name: each.shape for each in session.get_inputs()}
    shapes = {part: inputs[name] for name in inputs if (part := unnamed(name)) is not None}
    if not shapes or set(inputs) != {*map(named, shapes), DRAW}:
        if set(inputs) != {OBSERVATION, DRAW}:
            raise LoadError(
                f"{path} is an ONNX file, but no exported policy: it takes {list(inputs)}"
            )
        shapes = {STATE: inputs[OBSERVATION]}
    stack = int(session.get_modelmeta().custom_metadata_map.get(FRAME_STACK, 1))
    answer = session.get_outputs()[0].shape
    return _policy(path, functools.partial(_run, session), shapes, answer, stack)


def _parts(observation: Any) -> Mapping[str, Any]:
    """What a program takes by name, a bare vector as "state"."""
    return observation if isinstance(observation, Mapping) else {STATE: observation}


def _policy(
    path: Path,
    call: Callable[..., Any],
    shapes: Mapping[str, Sequence[Any]],
    answer: Sequence[Any],
    stack: int,
) -> ExportedPolicy:
    """Of a program that takes arrays of such shapes [batch, ...] by name."""
    cameras = [name for name in sorted(shapes) if name != STATE]
    images = [ImageSpec(name, *map(int, map(str, shapes[name][1:]))) for name in cameras]
    width = int(str(shapes[STATE][1])) if STATE in shapes else 0
    return ExportedPolicy(path, call, width, _per_call(answer), images, stack)


def _per_call(shape: Sequence[Any]) -> int:
    """The k of an output [batch, k, A]; 1 of [batch, A]."""
    return int(shape[1]) if len(shape) == 3 else 1


def _run(session: Any, observation: Any, draw: np.ndarray) -> Any:
    feed = {OBSERVATION: observation}
    if isinstance(observation, Mapping):
        feed = {named(part): value for part, value in observation.items()}
    return session.run(None, {**feed, DRAW: draw})[0]
