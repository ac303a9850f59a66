"""The seed axis: a function of one seed, mapped over seeds and sharded over devices.

The S seeds of a run never talk to each other. `shard_map` over a mesh axis "seed" states
that, so the compiled program holds no collective. (`jax.pmap` is a wrapper over the same thing.)

A mesh may span several processes. Then every process calls the same functions in the same order;
host arrays that go in are the same everywhere, and what `fetch` and `trim` give comes from all.

S is padded to P, the next multiple of the number of devices D. Padding repeats the last seed and is
dropped by `trim`; whatever leaves the devices for a file or a reader holds exactly S members.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrl_prefs.parallel import processes

AXIS = "seed"
MAPPINGS = ("auto", "loop", "vmap")
PROGRAMS = 64  # of those last used, compiled, that a process keeps
Tree = TypeVar("Tree")


def seed_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays `devices` (all of them if None) along the axis "seed".

    The axis type is Auto: with JAX's default, Explicit, a gather from the dataset is refused.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def chosen_mapping(mapping: str, mesh: Mesh) -> str:
    """Resolves "auto": "loop" on a CPU, "vmap" elsewhere.

    On a CPU core a loop over its seeds keeps one seed's working set in the cache, and its branches
    stay branches; an accelerator needs the seeds batched to fill it.
    """
    if mapping not in MAPPINGS:
        raise ValueError(f"mapping must be one of {', '.join(MAPPINGS)}, got {mapping!r}")
    if mapping != "auto":
        return mapping
    return "loop" if mesh.devices.flat[0].platform == "cpu" else "vmap"


@functools.lru_cache(PROGRAMS)
def over_seeds(
    fn: Callable[..., Any],
    mesh: Mesh,
    in_axes: tuple[int | None, ...],
    *,
    mapping: str = "auto",
    donate: tuple[int, ...] = (),
) -> Any:
    """Compiles `fn`, a function of one seed, for P seeds at once: jit(shard_map(loop or vmap)).

    `in_axes` says per argument whether its leaves have a leading seed axis [P, ...] (0) or are the
    same for all seeds (None). Every output has a leading [P]. Arguments whose numbers are in
    `donate` are donated to the call. The same arguments give the same jitted function, which is
    traced and compiled once in a process: a run's time is estimated with the programs it will run.

    The sharding of the outputs is stated, as that of one device would otherwise be another than
    `pad` gives, and a resumed run would find none of its programs in the compilation cache.
    """
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(AXIS) for axis in in_axes)
    looped = chosen_mapping(mapping, mesh) == "loop"
    local = _loop(fn, in_axes) if looped else jax.vmap(fn, in_axes)
    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
    )
    seeds = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.jit(sharded, donate_argnums=donate, out_shardings=seeds)


def _loop(fn: Callable[..., Any], in_axes: Sequence[int | None]) -> Callable[..., Any]:
    """The seeds one after the other, each from start to end; same signature as vmap's result."""

    def looped(*args: Any) -> Any:
        def one_seed(own: tuple) -> Any:
            rest = iter(own)
            pairs = zip(args, in_axes, strict=True)
            return fn(*(arg if axis is None else next(rest) for arg, axis in pairs))

        mapped = tuple(arg for arg, axis in zip(args, in_axes, strict=True) if axis is not None)
        return jax.lax.map(one_seed, mapped)

    return looped


def pad(tree: Tree, mesh: Mesh) -> Tree:
    """Places [S, ...] leaves on the mesh as [P, ...], the last seed repeated.

    Always copies, so a caller's array survives when the result is donated.
    """
    devices = mesh.devices.size
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def place(leaf: Any) -> jax.Array:
        count = leaf.shape[0]
        rows = np.minimum(np.arange(-(-count // devices) * devices), count - 1)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = np.asarray(jax.random.key_data(leaf))[rows]
            return jax.random.wrap_key_data(_put(bits, sharding), impl=jax.random.key_impl(leaf))
        return _put(np.asarray(leaf)[rows], sharding)

    return jax.tree.map(place, tree)


def _put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places a whole array; each process its own part."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def fetch(tree: Tree) -> Tree:
    """Takes whole leaves to the host as numpy arrays, from all processes."""
    if not all(_is_here(leaf) for leaf in jax.tree.leaves(tree)):
        processes.barrier()
    return jax.tree.map(_fetched, tree)


def _is_here(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _fetched(leaf: Any) -> np.ndarray:
    if not _is_here(leaf):
        if not leaf.is_fully_replicated:
            # Leaf by leaf, since for a moment every device holds all of it.
            assert isinstance(leaf.sharding, NamedSharding)
            leaf = _gathering(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
        leaf = leaf.addressable_data(0)
    return np.asarray(leaf)


@functools.cache
def _gathering(everywhere: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda leaf: leaf, out_shardings=everywhere)


def trim(tree: Tree, seeds: int) -> Tree:
    """Takes the first `seeds` members out of a padded tree, as numpy copies [S, ...]."""
    return jax.tree.map(lambda leaf: np.array(leaf[:seeds]), fetch(tree))


def here(mesh: Mesh) -> Mesh:
    """The part of a mesh that is this process's own; the mesh itself where there is one process."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return mesh if len(own) == mesh.devices.size else seed_mesh(own)


def mine(tree: Tree, mesh: Mesh) -> Tree:
    """The members of [P, ...] leaves that are on this process's devices, on the mesh `here(mesh)`.

    Their order is that of the mesh; no array is copied.
    """
    part = here(mesh)
    if part is mesh:
        return tree
    sharding = NamedSharding(part, PartitionSpec(AXIS))

    def own(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = own(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        parts = [shard.data for shard in shards]
        shape = (sum(x.shape[0] for x in parts), *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return jax.tree.map(own, tree)


def one(tree: Tree, i: int) -> Tree:
    """Takes member `i` (its place in the list of seeds, not the seed) out of a tree."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def place(tree: Tree, mesh: Mesh) -> Tree:
    """Places host arrays with the members of this process as its part of [P, ...] on the mesh.

    The opposite of `mine`: every process gives what its own devices hold, and nothing is exchanged.
    """
    part = here(mesh)
    placed = jax.device_put(tree, NamedSharding(part, PartitionSpec(AXIS)))
    if part is mesh:
        return placed
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def whole(leaf: jax.Array) -> jax.Array:
        members = leaf.shape[0] // part.devices.size * mesh.devices.size
        shards = [shard.data for shard in leaf.addressable_shards]
        shape = (members, *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    return jax.tree.map(whole, placed)


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Places a copy of every leaf on every device."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        return _put(fetch(leaf), sharding)

    return jax.tree.map(place, tree)
