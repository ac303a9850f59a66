"""Seed ensembles: a function of one seed, mapped over seeds and sharded over devices.

The S members of an ensemble never talk to each other. `shard_map` over a mesh axis "seed" states
that, so the compiled program holds no collective. (`jax.pmap` is a wrapper over the same thing.)

S is padded to P, the next multiple of the number of devices D. Padding repeats the last seed and is
dropped by `trim`; whatever leaves the ensemble for a file or a reader holds exactly S members.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrl_prefs.types import Key

AXIS = "seed"
MAPPINGS = ("auto", "loop", "vmap")
Tree = TypeVar("Tree")


def use_cores() -> None:
    """Makes JAX show each CPU core as one device, so that seeds are spread over the cores.

    Call it before anything touches a device: JAX fixes the number when its backend starts. A number
    that was already chosen (`jax_num_cpu_devices`, or `--xla_force_host_platform_device_count` in
    XLA_FLAGS) stays.
    """
    chosen = jax.config.values["jax_num_cpu_devices"] > 0  # -1 where nobody chose
    if chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    jax.config.update("jax_num_cpu_devices", len(allowed(0)) if allowed else os.cpu_count() or 1)


def seed_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays `devices` (all of them if None) along the axis "seed".

    The axis type is Auto: with JAX's default, Explicit, a gather from the dataset is refused.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def seed_keys(seeds: Sequence[int]) -> Key:
    """Makes one typed key per seed, [S]; the key of a seed does not depend on the others.

    A seed may be named again, for members that differ in settings (settings.py).

    Raises ValueError on no seeds, and outside 0 <= seed < 2**32.
    """
    if not seeds:
        raise ValueError("there must be at least one seed")
    if min(seeds) < 0 or max(seeds) >= 2**32:
        raise ValueError(f"seeds must be in 0 ... 2**32 - 1, got {list(seeds)}")
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


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


def over_seeds(
    fn: Callable[..., Any],
    mesh: Mesh,
    in_axes: Sequence[int | None],
    *,
    mapping: str = "auto",
    donate: Sequence[int] = (),
) -> Any:
    """Compiles `fn`, a function of one seed, for P seeds at once: jit(shard_map(loop or vmap)).

    `in_axes` says per argument whether its leaves have a leading seed axis [P, ...] (0) or are the
    same for all seeds (None). Every output has a leading [P]. Arguments whose numbers are in
    `donate` are used up by the call.
    """
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(AXIS) for axis in in_axes)
    looped = chosen_mapping(mapping, mesh) == "loop"
    local = _loop(fn, in_axes) if looped else jax.vmap(fn, tuple(in_axes))
    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
    )
    return jax.jit(sharded, donate_argnums=tuple(donate))


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
            return jax.device_put(
                jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf)), sharding
            )
        return jax.device_put(np.asarray(leaf)[rows], sharding)

    return jax.tree.map(place, tree)


def trim(tree: Tree, seeds: int) -> Tree:
    """Takes the first `seeds` members out of a padded tree, as numpy copies [S, ...]."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[:seeds]), tree)


def one(tree: Tree, i: int) -> Tree:
    """Takes member `i` (its place in the list of seeds, not the seed) out of an ensemble."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def place(tree: Tree, mesh: Mesh) -> Tree:
    """Places leaves that have all members [P, ...] on the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Places a copy of every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
