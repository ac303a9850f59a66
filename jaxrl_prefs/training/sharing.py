"""State that several members have in common: trained once, then given to all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_prefs.method import State
from jaxrl_prefs.parallel import seed_axis


def field(state: State, path: str) -> Any:
    """The field `path` of a state: `a`, or `a.b` for a state within it."""
    return functools.reduce(getattr, path.split("."), state)


def first_member(state: State, mesh: Mesh) -> State:
    """Copies the first member of `state` [P, ...] to every device of `mesh`: [D, ...]."""
    return _repeated(state, mesh, mesh.devices.size)


def share_fields(state: State, member: State, fields: Sequence[str], mesh: Mesh) -> State:
    """Gives all members of `state` [P, ...] the `fields` of the one `member` [D, ...]."""
    members = jax.tree.leaves(state)[0].shape[0]
    for path in fields:
        state = replace_field(state, path, _repeated(field(member, path), mesh, members))
    return state


def _repeated(tree: Any, mesh: Mesh, members: int) -> Any:
    """Members [members, ...] that all equal the first of `tree` [P, ...] in this process.

    From device to device, since it happens in every call of a shared phase. Always copies, so that
    the result may be donated.
    """
    part = seed_axis.here(mesh)
    first = _first(jax.tree.map(lambda leaf: leaf.addressable_data(0), tree))
    everywhere = jax.device_put(first, NamedSharding(part, PartitionSpec()))
    rows = members // mesh.devices.size * part.devices.size
    return seed_axis.place(
        _rows(NamedSharding(part, PartitionSpec(seed_axis.AXIS)), rows)(everywhere), mesh
    )


@jax.jit
def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.copy(leaf[:1]), tree)


@functools.lru_cache(seed_axis.PROGRAMS)
def _rows(sharding: NamedSharding, count: int) -> Any:
    """A function that repeats the one row of every leaf."""

    def repeated(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), tree)

    return jax.jit(repeated, out_shardings=sharding)


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
