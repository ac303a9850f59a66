"""Data that stay on the host: their batches are gathered there and sent to the devices in blocks.

Which rows a step takes is computed from its key, as on the device, so a block holds the batches
that the compiled chunk would have gathered itself. Members that run one after the other (a CPU's
default) then get the same bits from vectors; side by side, and from images, the compiler fuses the
two programs differently, and results agree to rounding. One block is gathered while the devices
work on the one before.

Of several processes each gathers, from its own copy of the data, the batches of the members on its
own devices. They exchange nothing.
"""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.mapped_rows import is_mapped
from jaxrl_prefs.method import Phase
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.rows import gathered, in_order, on_host
from jaxrl_prefs.types import Array, Key, Transition

BLOCK_BYTES = 2**26  # room on a device for one block; two are there at a time


class Block(NamedTuple):
    """The batches of some steps that follow one another, for one member or [P, ...] for all."""

    rows: Array  # [slots, B] int32
    batches: Transition  # leaves [slots, B, ...]


class HostPrefetcher:
    """Gathers blocks of `slots` steps from data on the host, and keeps one ahead."""

    def __init__(
        self, data: Transition, phase: Phase, keys: Key, mesh: Mesh, *, stride: int, wanted: int
    ) -> None:
        """Prepares to gather; nothing is copied yet.

        Args:
            data: leaves [N, ...].
            phase: whose rows are drawn.
            keys: for rows, [P] on `mesh`.
            mesh: where blocks are placed; each process places its part.
            stride: steps between two slots of a member.
            wanted: the most slots that a call will use; fewer are made where they take too much.
        """
        self._data: Transition = jax.tree.map(_in_place, data)
        leaves = jax.tree.leaves(self._data)
        self._mapped = any(is_mapped(leaf) for leaf in leaves)
        for leaf in leaves:
            for part in leaf.parts if is_mapped(leaf) else (leaf,):
                _expect_random_reads(part)
        size, batch = len(self._data.reward), phase.batch_size
        one = gathered(self._data, np.arange(1), on_host)
        row_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(one))
        members = keys.shape[0] // mesh.devices.size
        room = BLOCK_BYTES // max(1, members * batch * row_bytes)
        self.slots = max(1, min(wanted, room))
        self._keys, self._mesh = seed_axis.mine(keys, mesh), mesh
        self._stride, self._steps = stride, phase.steps
        # A first step, and its rows [P, slots, B] on the device, of this process's members alone.
        self._asked: tuple[int, Any] = (-1, None)
        # A first step, and its block: the one in use, and the one after it.
        self._used: tuple[int, Any] = (-1, None)
        self._ready: tuple[int, Any] = (-1, None)

        def draw_rows(key: Key, first: Array) -> Array:
            steps = first + stride * jnp.arange(self.slots, dtype=jnp.int32)
            return jax.vmap(lambda step: phase.sampler(key, step, size, batch))(steps)

        self._draw_rows = jax.jit(jax.vmap(draw_rows))

    def block(self, first: int, firsts: Any) -> tuple[Block, int]:
        """The block with step `first`, and in which of its slots that is.

        Calls that are shorter than a block share it. Where one begins, the rows of the block after
        it are asked for, which a device must draw before it is kept busy.

        Args:
            first: the step.
            firsts: the members' own first steps, [P] or [].
        """
        if self._slot(first) is None:
            self._used = self._ready if self._ready[0] == first else self._gathered(first, firsts)
            self._ready = (-1, None)
            length = self.slots * self._stride
            self._ask(first + length, firsts + length)
        return self._used[1], (first - self._used[0]) // self._stride

    def prepare(self, first: int, firsts: Any) -> None:
        """Gathers a block that a call from step `first` on will need, unless it is there.

        While calls share a block, that is the one after it.
        """
        if self._slot(first) is not None:
            length = self.slots * self._stride
            rest = self._used[0] + length - first
            first, firsts = first + rest, firsts + rest
        if first < self._steps and self._ready[0] != first:
            self._ready = self._gathered(first, firsts)

    def end(self, first: int) -> int:
        """The step at which a call from step `first` on must end: the end of its block."""
        begun = first if self._slot(first) is None else self._used[0]
        return begun + self.slots * self._stride

    def _slot(self, step: int) -> int | None:
        """The place of a step in the block in use; None if it is not there."""
        begun, block = self._used
        slot, between = divmod(step - begun, self._stride)
        return slot if block is not None and not between and 0 <= slot < self.slots else None

    def _gathered(self, first: int, firsts: Any) -> tuple[int, Block]:
        self._ask(first, firsts)
        rows = np.asarray(self._asked[1])
        take = in_order(rows) if self._mapped else on_host
        found: Any = (rows, gathered(self._data, rows, take))
        return first, seed_axis.place(Block(*found), self._mesh)

    def _ask(self, first: int, firsts: Any) -> None:
        if self._asked[0] != first:
            self._asked = first, self._draw_rows(self._keys, self._own(firsts))

    def _own(self, firsts: Any) -> Array:
        """The first steps of this process's members; `firsts` [P] or [] are those of all."""
        if not np.ndim(firsts):
            return jnp.broadcast_to(jnp.asarray(firsts, jnp.int32), self._keys.shape)
        return seed_axis.mine(seed_axis.pad(firsts, self._mesh), self._mesh)


def _in_place(leaf: Any) -> Any:
    return leaf if is_mapped(leaf) else np.asarray(leaf)


def _expect_random_reads(leaf: np.ndarray) -> None:
    """Tells the system that rows of a mapped file are drawn at random.

    It then reads what is asked for and nothing ahead of it, which is eight times as fast where the
    file does not fit in memory (benchmarks/README.md).
    """
    owner: Any = leaf
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_RANDOM)
