"""The maps between raw environment units and what a method sees, each used by data and evaluation.

All arrays here are numpy arrays: transforms run on the host, before and after a method.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.mapped_rows import is_mapped, moments

ACTION_LIMIT = 1.0 - 1e-5  # actions are clipped to it, so that atanh of an action stays finite


class Affine(NamedTuple):
    """The map y = (x - shift) / scale over the last axis; the shapes are [D], or [] for rewards.

    An entry of scale 0 is a constant: `apply` gives 0, `invert` gives the shift.
    """

    shift: np.ndarray
    scale: np.ndarray

    def apply(self, x: Any) -> Any:
        """Raw units to method units; `x` is [..., D], or of any shape for a scalar map.

        The map that changes nothing gives a numpy array of 32-bit floats itself and no copy. Rows
        of mapped files [N, D] are mapped when they are drawn.
        """
        if is_mapped(x):
            return x if self._changes_nothing else x.then(self.apply)
        if isinstance(x, np.ndarray) and x.dtype == np.float32 and self._changes_nothing:
            return x
        scale = np.where(self.scale == 0, np.float32(np.inf), self.scale)
        return (x - _beside(self.shift, x)) / _beside(scale, x)

    @property
    def _changes_nothing(self) -> bool:
        return bool((self.shift == 0).all() and (self.scale == 1).all())

    def invert(self, y: np.ndarray) -> np.ndarray:
        """Method units to raw units, the inverse of `apply` up to rounding."""
        return y * _beside(self.scale, y) + _beside(self.shift, y)


def _beside(value: np.ndarray, x: np.ndarray) -> np.ndarray:
    # Ranks are made equal by hand: JAX may be told to refuse the promotion of ranks.
    return value.reshape((1,) * (np.ndim(x) - value.ndim) + value.shape) if value.ndim else value


def _affine(shift: np.ndarray | float, scale: np.ndarray | float) -> Affine:
    return Affine(np.asarray(shift, np.float32), np.asarray(scale, np.float32))


class ActionChunk(NamedTuple):
    """How many actions a policy chooses at a time, and how many of them are played.

    An action of the method is then `length` actions of the environment, one after the other.
    """

    length: int = 1  # h, actions chosen at a time
    executed: int = 1  # k, of these, played before the policy is asked again

    def to_play(self, action: Any) -> Any:
        """The actions to play of whole chunks: [..., h * A] to [..., k, A]."""
        lead = action.shape[:-1]
        width = action.shape[-1] // self.length
        return action[..., : self.executed * width].reshape(*lead, self.executed, width)

    def answer(self, action: Any) -> Any:
        """What a policy answers: [..., k, A], and [..., A] where it is asked at every step."""
        if self.length == 1:
            return action
        played = self.to_play(action)
        return played[..., 0, :] if self.executed == 1 else played


SINGLE = ActionChunk()


def tiled(affine: Affine, count: int) -> Affine:
    """The map of `count` rows [D] laid end to end, [count * D]."""
    return Affine(np.tile(affine.shift, count), np.tile(affine.scale, count))


def identity(size: int) -> Affine:
    """The map that changes nothing."""
    return _affine(np.zeros(size), np.ones(size))


def box_to_unit(low: np.ndarray, high: np.ndarray) -> Affine:
    """Maps the box [low, high], two arrays [A], to [-1, 1]^A."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return _affine((low + high) / 2, (high - low) / 2)


def standardise(x: Any, floor: float = 1e-3) -> Affine:
    """Maps rows [N, D] to mean 0 and standard deviation 1.

    `floor` is added to every standard deviation.
    """
    mean, std = moments(x, np.float64)
    return _affine(mean, std + floor)


def line(slope: float, offset: float) -> Affine:
    """The scalar map y = slope * x + offset; the slope must not be 0."""
    return _affine(-offset / slope, 1.0 / slope)
