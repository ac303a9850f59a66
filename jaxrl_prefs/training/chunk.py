"""The hot loop: many updates of one phase, for all seeds, in one compiled program.

    chunk = compile_chunk(method, index, data, SeedPlacement(seeds, mesh), state=state)
    state, report = chunk(state, first, stop)  # updates first ... stop - 1 of the phase

The dataset is an argument of the program, one copy on every device. One that is too large for a
device stays on the host, and its batches are sent in blocks (host_stream.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.keys import phase_keys, seed_keys, shared_key
from jaxrl_prefs.method import Method, Phase, State, sequential
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.rows import in_memory
from jaxrl_prefs.training import program, sharing
from jaxrl_prefs.training.host_stream import HostPrefetcher
from jaxrl_prefs.training.program import Report
from jaxrl_prefs.training.sweep import SweptUpdate
from jaxrl_prefs.types import Array, Key, Transition

ROUND = 8  # steps after which an accelerator asks the host whether to go on, at least
COLUMN_BYTES = 2**26  # room on the device for what one call fills, per seed


class SeedPlacement(NamedTuple):
    """Which seeds, on which devices, mapped how (see `seed_axis.chosen_mapping`)."""

    seeds: Sequence[int]
    mesh: Mesh
    mapping: str = "auto"


Totals = Mapping[str, np.ndarray | None]  # by metric, sums and counts [P, 2]; None: 0


class Chunk(NamedTuple):
    """One phase's program. `compiled` is what runs (its HLO text, cost and memory analysis too);
    `function` is the jitted function behind it, to lower elsewhere with `arguments`."""

    phase: Phase
    placement: SeedPlacement
    members: SeedPlacement  # who runs: the placement, or in a shared phase one member for all
    function: Any
    compiled: Any
    longest: int  # the most steps that any call can take; `end` tells where a given one must end
    constants: tuple  # keys (for rows, for updates) [P], data, own columns, common columns
    prefetcher: HostPrefetcher | None = None  # sends blocks of data that stay on the host
    representatives: tuple[int, ...] = ()  # per member, its representative; () if all run
    metrics: tuple[str, ...] | None = None  # their names, sorted, once `compile_chunk` knows them
    round_length: int = 1  # a call costs whole rounds, which begin at multiples of it

    @property
    def stride(self) -> int:
        """Steps between two of one device: devices that fill shared columns take turns."""
        return self.members.mesh.devices.size if self.phase.shared and self.phase.columns else 1

    @property
    def broken(self) -> Any:
        """The jitted function that looks for a NaN or an infinity in each member's state [P, ...].

        It is a program of its own, which all phases of a method share.
        """
        return seed_axis.over_seeds(program.is_broken, self.members.mesh, (0,), mapping="vmap")

    def __call__(
        self, state: State, first: int, stop: int, totals: Totals | None = None
    ) -> tuple[State, Report]:
        """Runs updates first ... stop - 1 of the phase on `state` [P, ...], which is donated.

        `stop` is at most `end(first)`. `totals` are those of an earlier report.
        """
        after, report = self.compiled(*self.arguments(state, first, stop, totals))
        report = report._replace(bad_state=self.broken(after))
        if self.phase.shared:
            after = sharing.share_fields(state, after, self.phase.shared, self.placement.mesh)
        if self.representatives:
            inner = seed_axis.pad(self._from_representative(after.inner), self.placement.mesh)
            after = dataclasses.replace(after, inner=inner)
            report = self._from_representative(report)
        return after, report

    def _from_representative(self, tree: Any) -> Any:
        """Gives every member [S, ...] what its representative has, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[list(self.representatives)], tree)

    def names(self, state: State) -> tuple[str, ...]:
        """The metrics of the phase, sorted, for a state [P, ...] such as `__call__` takes."""
        if self.metrics is not None:
            return self.metrics
        *arguments, _ = self.arguments(state, 0, 1, {})
        return tuple(jax.eval_shape(self.function, *arguments, None)[1].names)

    def arguments(self, state: State, first: int, stop: int, totals: Totals | None = None) -> tuple:
        """Puts the program's arguments in order.

        Raises:
            ValueError: if the call would end beyond `end(first)`. It would train on the last batch
                of its block again, or have no room for what it fills.
        """
        if stop > (end := self.end(first)):
            raise ValueError(f"a call from step {first} on must end at {end}, not at {stop}")
        totals = dict.fromkeys(self.names(state)) if totals is None else totals
        keys, data, own, common = self.constants
        state = sharing.first_member(state, self.members.mesh) if self.phase.shared else state
        bounds = self._bounds(first, stop)
        if self.prefetcher:
            data, slot = self.prefetcher.block(first, bounds[0])
            bounds = (*bounds, np.zeros_like(bounds[0]) + np.int32(slot))
        return state, keys, self._placed(bounds), data, own, common, self._stacked(totals)

    def _stacked(self, totals: Totals) -> Any:
        """The totals of all metrics [P, M, 2]; those of members that continue elsewhere start at 0.

        A phase that seeds share has a sum for each device that had a part. On another number of
        devices the first one takes them all.
        """
        members = self.constants[0][0].shape[0]
        found = np.zeros((members, len(totals), 2), np.float32)
        for place, total in enumerate(totals.values()):
            if total is None:
                continue
            if self.phase.shared and len(total) != members:
                found[0, place] = total.sum(0)
            else:
                found[: len(total), place] = total
        return seed_axis.pad(found, self.members.mesh)

    def prepare(self, first: int) -> None:
        """Gathers what a call from step `first` on will need, where data stay on the host.

        While a call is under way on the devices, this is the time to.
        """
        if self.prefetcher and first < self.phase.steps:
            self.prefetcher.prepare(first, self._bounds(first, first)[0])

    def end(self, first: int) -> int:
        """The step at which a call from step `first` on must end at the latest."""
        end = first + self.longest
        return min(end, self.prefetcher.end(first)) if self.prefetcher else end

    def _bounds(self, first: int, stop: int) -> tuple[Any, ...]:
        """First and stop, per member where members run one after the other.

        Then padding trains no step at all, nor does a member for which another one stands, and the
        devices share a filling phase by each taking every D-th step. Members that run side by side
        have the same bounds: a step must not be batched.
        """
        if self.members.mapping == "vmap":
            return np.int32(first), np.int32(stop)
        place = np.arange(self.constants[0][0].shape[0], dtype=np.int32)
        if self.phase.shared:
            return first + place, np.full_like(place, stop)
        live = place < len(self.members.seeds)
        if self.representatives:
            live &= np.isin(place, self.representatives)
        return np.full_like(place, first), np.where(live, stop, first).astype(np.int32)

    def _placed(self, bounds: tuple[Any, ...]) -> tuple[Any, ...]:
        """Several processes must each place their own part of what is per member."""
        if self.members.mapping == "vmap" or jax.process_count() == 1:
            return bounds
        return seed_axis.pad(bounds, self.members.mesh)


def compile_chunk(
    method: Method,
    index: int,
    data: Transition,
    placement: SeedPlacement,
    *,
    state: State,
    columns: Mapping[str, np.ndarray] | None = None,
    stream: int = 0,
) -> Chunk:
    """Compiles phase `index` for chunks of any length on `state` [P, ...].

    `columns` holds what earlier phases filled, on the host: [N, ...], or [S, N, ...] where each
    seed has its own. A shared phase runs on one member: on the first device of every process, or,
    where it only fills columns, on all devices of all processes, each doing some of the batches.
    With `stream`, the data stay on the host, and a call takes at most so many steps.

    Raises ValueError on a filling phase whose sampler is not `sequential` or that does not reach
    the last row, or if a column that an earlier phase should have filled is missing.
    """
    chunk = build_chunk(method, index, data, placement, columns, stream)
    chunk = chunk._replace(metrics=chunk.names(state))
    arguments = chunk.arguments(state, 0, 1)
    chunk.broken.lower(arguments[0]).compile()  # kept by JAX for the calls
    return chunk._replace(compiled=chunk.function.lower(*arguments).compile())


def build_chunk(
    method: Method,
    index: int,
    data: Transition,
    placement: SeedPlacement,
    columns: Mapping[str, np.ndarray] | None = None,
    stream: int = 0,
    rounds: bool | None = None,
) -> Chunk:
    """What `compile_chunk` compiles, jitted only: to lower or export it elsewhere.

    `rounds` says whether steps come in rounds (program.py); None: not on a CPU.
    """
    phase = method.phases[index]
    _check_fill(phase, len(data.reward))
    keys, members, stride = _runners(phase, placement)
    own, common = _place_columns(method.phases[:index], columns or {}, members.mesh)
    keys = seed_axis.pad(phase_keys(keys, index)[1:], members.mesh)
    slots, prefetcher = _slots(phase, stride), None
    if stream:
        prefetcher = HostPrefetcher(
            data, phase, keys[0], members.mesh, stride=stride, wanted=-(-stream // stride)
        )
        slots = min(slots, prefetcher.slots) if phase.columns else slots
    if rounds is None:
        period, round_length = rounds_of(phase, placement.mesh, bool(stream))
    else:
        period, round_length = in_rounds(phase) if rounds else (1, 1)
    recipe = program.Recipe(
        phase.name,
        phase.update,
        phase.sampler,
        phase.batch_size,
        bool(phase.columns),
        slots if phase.columns else 0,
        stride,
        period,
        round_length,
    )
    bounds_axis = 0 if members.mapping == "loop" else None
    function = seed_axis.over_seeds(
        program.member_program(recipe),
        members.mesh,
        (0, 0, bounds_axis, 0 if prefetcher else None, 0, None, 0),
        mapping=members.mapping,
        donate=(0,),
    )
    on_device = None if prefetcher else seed_axis.replicate(in_memory(data), members.mesh)
    # One member that is trained for all seeds cannot read what each seed has of its own.
    own = {} if phase.shared else own
    return Chunk(
        phase=phase,
        placement=placement,
        members=members,
        function=function,
        compiled=function,
        longest=_longest(phase, slots, stride, prefetcher),
        constants=(keys, on_device, own, common),
        prefetcher=prefetcher,
        representatives=_representatives(phase, placement, members.mapping),
        round_length=round_length,
    )


def rounds_of(phase: Phase, mesh: Mesh, stream: bool) -> tuple[int, int]:
    """The phase's period and the steps of a round: 1 and 1 where steps do not come in rounds.

    Not on a CPU, where they save nothing, and not where data are streamed, since a block may have
    fewer batches than a round has steps.
    """
    apart = stream or mesh.devices.flat[0].platform == "cpu"
    return (1, 1) if apart else in_rounds(phase)


def in_rounds(phase: Phase) -> tuple[int, int]:
    """As `rounds_of` on an accelerator. A filling step is long, and comes by itself."""
    return (1, 1) if phase.columns else (phase.period, -(-ROUND // phase.period) * phase.period)


def _check_fill(phase: Phase, rows: int) -> None:
    short = phase.steps * phase.batch_size < rows
    if phase.columns and (phase.sampler is not sequential or short):
        raise ValueError(
            f"phase {phase.name!r} fills columns: it must take its rows by `sequential`, and "
            f"its steps must reach the last of {rows} rows"
        )


def _runners(phase: Phase, placement: SeedPlacement) -> tuple[Key, SeedPlacement, int]:
    """Who runs a phase: seeds' keys, the members on their devices, and each one's stride of steps.

    A phase that all seeds share has one member. It runs on the first device of every process; if
    it fills columns, on all devices, each of which takes every D-th step.
    """
    mesh = placement.mesh
    mapping = seed_axis.chosen_mapping(placement.mapping, mesh)
    if not phase.shared:
        return seed_keys(placement.seeds), SeedPlacement(placement.seeds, mesh, mapping), 1
    stride = mesh.devices.size if phase.columns else 1
    if not phase.columns:
        mesh = seed_axis.seed_mesh([seed_axis.here(mesh).devices.flat[0]])
    return shared_key()[None], SeedPlacement(placement.seeds, mesh, "loop"), stride


def _slots(phase: Phase, stride: int) -> int:
    """Batches of columns that one call has room for; it must not depend on how steps are cut."""
    row_bytes = sum(x.size * x.dtype.itemsize for x in phase.columns.values())
    room = max(1, COLUMN_BYTES // max(1, phase.batch_size * row_bytes))
    return min(-(-phase.steps // stride), room)


def _representatives(phase: Phase, placement: SeedPlacement, mapping: str) -> tuple[int, ...]:
    """Who is trained for whom; () where every member runs by itself.

    Under vmap every member runs by itself: one representative per seed would save no time.
    """
    found = sharing.representatives(placement.seeds, placement.mesh.devices.size)
    apart = phase.shared or mapping == "vmap" or jax.process_count() > 1
    identical = isinstance(phase.update, SweptUpdate) and phase.update.identical
    return found if identical and not apart and len(set(found)) < len(found) else ()


def _longest(phase: Phase, slots: int, stride: int, prefetcher: HostPrefetcher | None) -> int:
    steps = slots * stride if phase.columns else phase.steps
    return min(steps, prefetcher.slots * stride) if prefetcher else steps


def _place_columns(
    phases: Sequence[Phase], columns: Mapping[str, np.ndarray], mesh: Mesh
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Puts what `phases` filled on the devices: per seed [P, N, ...], and shared [N, ...]."""
    own: dict[str, Any] = {}
    common: dict[str, Any] = {}
    for phase in phases:
        for name in phase.columns:
            if name not in columns:
                raise ValueError(f"column {name!r}, filled by phase {phase.name!r}, is missing")
            if phase.shared:
                common[name] = seed_axis.replicate(columns[name], mesh)
            else:
                own[name] = seed_axis.pad(columns[name], mesh)
    return own, common
