"""State that several members have in common: trained once, then given to all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.method import State
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.types import Array


def field(state: State, path: str) -> Any:
    """The field `path` of a state: `a`, or `a.b` for a state within it."""
    return functools.reduce(getattr, path.split("."), state)


def first_member(state: State, mesh: Mesh) -> State:
    """Copies the first member of `state` [P, ...] to every device of `mesh`: [D, ...]."""
    return seed_axis.pad(jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[:1], state), mesh)


def share_fields(state: State, member: State, fields: Sequence[str], mesh: Mesh) -> State:
    """Gives all members of `state` [P, ...] the `fields` of the one `member` [D, ...]."""
    members = jax.tree.leaves(state)[0].shape[0]

    def spread(leaf: Array) -> np.ndarray:
        first = np.asarray(leaf.addressable_data(0))[0]
        return np.broadcast_to(first, (members, *first.shape))

    for path in fields:
        part = field(member, path)
        state = replace_field(state, path, seed_axis.pad(jax.tree.map(spread, part), mesh))
    return state


def replace_field(state: State, path: str, value: Any) -> State:
    """A state whose field `path` (`a`, or `a.b` for a state within it) is `value`."""
    name, _, rest = path.partition(".")
    new = {name: replace_field(getattr(state, name), rest, value) if rest else value}
    is_tuple = isinstance(state, tuple)
    return state._replace(**new) if is_tuple else dataclasses.replace(state, **new)


def representatives(seeds: Sequence[int], devices: int) -> tuple[int, ...]:
    """For every member, the place of its seed's representative.

    Where members of one seed are identical, one of them is trained for all: that one is on the
    device that has the fewest representatives so far. Devices have equal numbers of members.

    >>> representatives((0, 1, 0, 1), devices=2)
    (0, 3, 0, 3)
    """
    each_has = -(-len(seeds) // devices)
    busy, chosen = [0] * devices, dict[int, int]()
    for seed in dict.fromkeys(seeds):
        places = [place for place, other in enumerate(seeds) if other == seed]
        chosen[seed] = min(places, key=lambda place: busy[place // each_has])
        busy[chosen[seed] // each_has] += 1
    return tuple(chosen[seed] for seed in seeds)
