"""The contract of a simulator: one episode of an environment as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxrl_prefs.types import Array, Key


class Simulator(NamedTuple):
    """An environment in JAX, in raw units; a world is any tree of arrays.

    `place` starts from given numbers instead of drawn ones, to compare with another simulator.
    """

    reset: Callable[[Key], Any]  # -> world, drawn as the environment draws it
    place: Callable[..., Any]  # -> world
    # world -> [O], in the order of `spaces.flatten`, or {"image": [H, W, C] uint8}
    observe: Callable[[Any], Any]
    step: Callable[[Any, Array], tuple[Any, Array, Array]]  # -> world, reward, whether it is over
    actions: int  # A
