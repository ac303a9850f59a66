"""Opens the file of an exported policy, `policy.jaxexport` or `policy.onnx`, as a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.errors import ConfigError, LoadError
from jaxrl_prefs.runs.export import checked_draw, checked_observation

ONNX_SUFFIX = ".onnx"


class ExportedPolicy:
    """The policy of a file: raw observations and a draw number to raw actions."""

    def __init__(self, path: Path, call: Callable[..., Any], width: int, actions: int = 1) -> None:
        self._path, self._call, self.observation_dim = path, call, width
        self.actions_per_call = actions  # k, to be played before the next call

    def __call__(self, observation: Any, draw: int = 0) -> np.ndarray:
        """Acts on one observation [O] or a batch [B, O]; returns [A] or [B, A].

        If `actions_per_call` is above 1, returns [k, A] or [B, k, A]: the actions to play, in this
        order, before the next call.

        Args:
            observation: in the units of the data.
            draw: seeds the policy's random draws. A policy that draws gives the same action for the
                same number; count up to draw anew at every step.

        Raises:
            ValueError: for an observation of another shape, for one that is not finite, and for a
                draw that is not a whole number from 0 to 4294967295.
        """
        raw = checked_observation(observation, self.observation_dim)
        action = np.asarray(self._call(np.atleast_2d(raw), checked_draw(draw)))
        return action[0] if raw.ndim == 1 else action

    def __repr__(self) -> str:
        played = f", {self.actions_per_call} actions a call" if self.actions_per_call > 1 else ""
        return f"exported policy of {self._path}: [{self.observation_dim}] observations{played}"


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
    shapes = [tuple(map(str, place.shape)) for place in whole.in_avals]
    if len(shapes) != 2 or len(shapes[0]) != 2 or shapes[1]:
        raise LoadError(f"{path} is a program of JAX, but no exported policy")
    answer = whole.out_avals[0].shape
    return ExportedPolicy(path, jax.jit(whole.call), int(shapes[0][1]), _per_call(answer))


def _onnx(path: Path) -> ExportedPolicy:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{path} needs onnxruntime: pip install onnxruntime, or 'jaxrl_prefs[onnx]'"
        ) from error
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = {each.name: each.shape for each in session.get_inputs()}
    if set(inputs) != {"observation", "draw"}:
        raise LoadError(f"{path} is an ONNX file, but no exported policy: it takes {list(inputs)}")
    width, answer = int(inputs["observation"][1]), session.get_outputs()[0].shape
    return ExportedPolicy(path, functools.partial(_run, session), width, _per_call(answer))


def _per_call(shape: Sequence[Any]) -> int:
    """The k of an output [batch, k, A]; 1 of [batch, A]."""
    return int(shape[1]) if len(shape) == 3 else 1


def _run(session: Any, observation: np.ndarray, draw: np.ndarray) -> Any:
    return session.run(None, {"observation": observation, "draw": draw})[0]
