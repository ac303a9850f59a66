"""The hot loop: many updates of one phase, for all seeds, in one compiled program.

    chunk = compile_chunk(method, index, data, SeedPlacement(seeds, mesh), state=state)
    state, report = chunk(state, first, stop)  # updates first ... stop - 1 of the phase

The number of steps is an argument of the program, so one compilation serves chunks of every length
and the same instructions run whichever way the steps are cut: results agree bit for bit. Nothing
returns to the host inside a chunk. The dataset is an argument too, one copy on every device; one
that is too large for a device stays on the host, and its batches come along in blocks (stream.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.keys import phase_keys, seed_keys, shared_key
from jaxrl_prefs.method import Method, Phase, Sampler, State, sequential
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training.host_stream import Block, HostPrefetcher
from jaxrl_prefs.types import Array, Key, Metrics, Transition

COLUMN_BYTES = 2**26  # room on the device for what one call fills, per seed


class SeedPlacement(NamedTuple):
    """Which seeds, on which devices, mapped how (see `ensemble.chosen_mapping`)."""

    seeds: Sequence[int]
    mesh: Mesh
    mapping: str = "auto"


class Report(NamedTuple):
    """What a chunk returns besides the state, per member [P]."""

    names: dict[str, None]  # of the M metrics, sorted; as a dict's keys they pass through jit
    totals: Array  # [P, M, 2], sums and counts, on top of those that the chunk was given
    bad_step: Array  # the first step with a metric that is not finite, or -1
    bad_metric: Array  # its place in `names`
    bad_state: Array  # whether the state holds a NaN or an infinity at the end
    columns: dict[str, Array]  # [P, slots, batch_size, ...]


def take(data: Transition, rows: Array, columns: Mapping[str, Array]) -> Transition:
    """Gathers one batch: `rows` [B] of the data and of the columns, and the successors' columns."""
    return _with_columns(jax.tree.map(lambda leaf: _gather(leaf, rows), data), rows, columns)


def _with_columns(gathered: Transition, rows: Array, columns: Mapping[str, Array]) -> Transition:
    here = {name: _gather(column, rows) for name, column in columns.items()}
    after = {f"next_{name}": _gather(c, gathered.next_index) for name, c in columns.items()}
    return gathered._replace(columns={**here, **after})


def _gather(leaf: Array, rows: Array) -> Array:
    return jnp.take(leaf, rows, axis=0, mode="clip")


# --- The fields that seeds share ------------------------------------------------------------------


def alone(state: State, mesh: Mesh) -> State:
    """Copies the first member to every device of `mesh`, [D, ...]: it stands for all in a phase
    that they share."""
    return seed_axis.pad(jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[:1], state), mesh)


def share(state: State, member: State, fields: Sequence[str], mesh: Mesh) -> State:
    """Hands `fields` of the one `member` [D, ...] to all members of `state` [P, ...]."""
    members = jax.tree.leaves(state)[0].shape[0]

    def spread(leaf: Array) -> np.ndarray:
        first = np.asarray(leaf.addressable_data(0))[0]
        return np.broadcast_to(first, (members, *first.shape))

    for path in fields:
        part = functools.reduce(getattr, path.split("."), member)
        state = _replaced(state, path, seed_axis.pad(jax.tree.map(spread, part), mesh))
    return state


def _replaced(state: State, path: str, value: Any) -> State:
    """A state whose field `path` (`a`, or `a.b` for a state within it) is `value`."""
    name, _, rest = path.partition(".")
    new = {name: _replaced(getattr(state, name), rest, value) if rest else value}
    is_tuple = isinstance(state, tuple)
    return state._replace(**new) if is_tuple else dataclasses.replace(state, **new)


# --- Members that are alike -----------------------------------------------------------------------


def representatives(seeds: Sequence[int], devices: int) -> tuple[int, ...]:
    """For every member the one of its seed that is trained in a phase that leaves them alike.

    Each seed's is on the device that has the fewest yet; devices have equal numbers of members.

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


# --- The program of one member --------------------------------------------------------------------


class _Recipe(NamedTuple):
    """What a member's program depends on: of a phase, what is the same however long it runs."""

    name: str
    update: Callable[..., tuple]
    sampler: Sampler
    batch_size: int
    fills: bool
    slots: int
    stride: int


@functools.lru_cache(seed_axis.PROGRAMS)
def _member_program(recipe: _Recipe) -> Callable[..., Any]:
    """Builds `(state, keys, (first, stop), data, own, common, totals) -> (state, Report)` for one
    member.

    Steps first, first + stride, ... below stop are run. Where they are the same for all members
    they are not batched, so that `lax.cond` on a step stays a branch. Columns have room for `slots`
    batches. `data` is the dataset, or a Block with the batch of every step. `totals` [M, 2] are the
    sums and counts of earlier calls, to which this one adds step by step: so they come out the same
    however steps are divided into calls. None starts at 0.
    """
    # Under jit the update is traced once, though both eval_shape and the loop call it. A filling
    # update is left bare, so that an unchanged state can be recognised.
    update = recipe.update if recipe.fills else jax.jit(recipe.update)

    def draw(
        rows_key: Key, data: Transition | Block, columns: Any, step: Array, slot: Array
    ) -> Any:
        if isinstance(data, Block):
            block: Block = jax.tree.map(lambda leaf: leaf[slot], data)
            return _with_columns(block.batches, block.rows, columns)
        rows = recipe.sampler(rows_key, step, data.reward.shape[0], recipe.batch_size)
        return take(data, rows, columns)

    def advance(
        state: State, keys: Any, data: Any, columns: Any, step: Array, slot: Array
    ) -> tuple:
        rows_key, update_key = keys
        batch = draw(rows_key, data, columns, step, slot)
        if not recipe.fills:
            return (*update(state, batch, jax.random.fold_in(update_key, step), step), {})
        after, metrics, filled = update(state, batch, update_key, step)
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
        if not all(old is new for old, new in pairs):
            raise ValueError(f"phase {recipe.name!r} fills columns: its state must stay as it is")
        return after, metrics, filled

    def program(
        state: State,
        keys: Any,
        bounds: Any,
        data: Any,
        own: dict,
        common: dict,
        totals: Array | None,
    ) -> tuple:
        first, stop = bounds
        columns = {**own, **common}

        def body(slot: Array, carry: tuple) -> tuple:
            state, report = carry
            step = first + slot * recipe.stride
            state, metrics, filled = advance(state, keys, data, columns, step, slot)
            filled = jax.tree.map(lambda to, x: to.at[slot].set(x), report.columns, filled)
            return state, _observed(report, metrics, step)._replace(columns=filled)

        _, metrics, filled = jax.eval_shape(advance, state, keys, data, columns, first, first)
        report = Report(
            names=dict.fromkeys(sorted(metrics)),
            totals=jnp.zeros((len(metrics), 2)) if totals is None else totals,
            bad_step=jnp.int32(-1),
            bad_metric=jnp.int32(-1),
            bad_state=jnp.bool_(False),
            columns=jax.tree.map(lambda x: jnp.zeros((recipe.slots, *x.shape), x.dtype), filled),
        )
        count = (stop - first + recipe.stride - 1) // recipe.stride
        state, report = jax.lax.fori_loop(0, count, body, (state, report))
        return state, report._replace(bad_state=_broken(state))

    return program


def _observed(report: Report, metrics: Metrics, step: Array) -> Report:
    """Adds one step's metrics, and notes the step if it is the first that is not finite."""
    if not metrics:
        return report
    now = jnp.array([metrics[name] for name in report.names], jnp.float32)  # [M, 2]
    bad = jnp.logical_not(jnp.isfinite(now).all(-1))
    new = (report.bad_step < 0) & bad.any()
    return report._replace(
        totals=report.totals + now,
        bad_step=jnp.where(new, step, report.bad_step),
        bad_metric=jnp.where(new, jnp.argmax(bad).astype(jnp.int32), report.bad_metric),
    )


def _broken(state: State) -> Array:
    """Whether any number in the state is NaN or infinite.

    In one piece: a reduction per leaf would be a third of the program, and of its compile time.
    """
    floats = [x.ravel() for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.logical_not(jnp.isfinite(jnp.concatenate([jnp.zeros(1), *floats])).all())


Totals = Mapping[str, np.ndarray | None]  # by metric, sums and counts [P, 2]; None: 0


# --- The program of the ensemble ------------------------------------------------------------------


class Chunk(NamedTuple):
    """One phase's program. `compiled` is what runs (its HLO text, cost and memory analysis too);
    `function` is the jitted function behind it, to lower elsewhere with `arguments`."""

    phase: Phase
    placement: SeedPlacement
    members: SeedPlacement  # who runs: the placement, or in a shared phase one member for all
    function: Any
    compiled: Any
    longest: int  # steps that one call can take
    constants: tuple  # keys (for rows, for updates) [P], data, own columns, common columns
    prefetcher: HostPrefetcher | None = (
        None  # of the blocks that stand in place of data that stay on the host
    )
    representative: tuple[
        int, ...
    ] = ()  # for every member, who runs for it; () where each runs itself
    metrics: tuple[str, ...] | None = None  # their names, sorted, once `compile_chunk` knows them

    @property
    def stride(self) -> int:
        """Steps between two of one device: devices that fill shared columns take turns."""
        return self.members.mesh.devices.size if self.phase.shared and self.phase.columns else 1

    def __call__(
        self, state: State, first: int, stop: int, totals: Totals | None = None
    ) -> tuple[State, Report]:
        """Runs updates first ... stop - 1 of the phase on `state` [P, ...], which is used up.

        There are at most `longest` of them. `totals` are those of an earlier report.
        """
        after, report = self.compiled(*self.arguments(state, first, stop, totals))
        if self.phase.shared:
            after = share(state, after, self.phase.shared, self.placement.mesh)
        if self.representative:
            for path in self.phase.alike:
                part = self._stood_for(functools.reduce(getattr, path.split("."), after))
                after = _replaced(after, path, seed_axis.pad(part, self.placement.mesh))
            report = self._stood_for(report)
        return after, report

    def _stood_for(self, tree: Any) -> Any:
        """Gives every member [S, ...] what its stand-in has, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[list(self.representative)], tree)

    def names(self, state: State) -> tuple[str, ...]:
        """The metrics of the phase, sorted, for a state [P, ...] such as `__call__` takes."""
        if self.metrics is not None:
            return self.metrics
        *arguments, _ = self.arguments(state, 0, 1, {})
        return tuple(jax.eval_shape(self.function, *arguments, None)[1].names)

    def arguments(self, state: State, first: int, stop: int, totals: Totals | None = None) -> tuple:
        """Puts the program's arguments in order."""
        totals = dict.fromkeys(self.names(state)) if totals is None else totals
        keys, data, own, common = self.constants
        state = alone(state, self.members.mesh) if self.phase.shared else state
        bounds = self._bounds(first, stop)
        data = self.prefetcher.block(first, bounds[0]) if self.prefetcher else data
        return state, keys, self._placed(bounds), data, own, common, self._stacked(totals)

    def _stacked(self, totals: Totals) -> Any:
        """The totals of all metrics [P, M, 2]; those of members that go on elsewhere start anew.

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

    def _bounds(self, first: int, stop: int) -> tuple[Any, Any]:
        """First and stop, per member where members run one after the other.

        Then padding runs no step at all, nor does a member for which another one stands, and the
        devices share a filling phase by each taking every D-th step. Members that run side by side
        have the same bounds: a step must not be batched.
        """
        if self.members.mapping == "vmap":
            return np.int32(first), np.int32(stop)
        place = np.arange(self.constants[0][0].shape[0], dtype=np.int32)
        if self.phase.shared:
            return first + place, np.full_like(place, stop)
        live = place < len(self.members.seeds)
        if self.representative:
            live &= np.isin(place, self.representative)
        return np.full_like(place, first), np.where(live, stop, first).astype(np.int32)

    def _placed(self, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
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

    Raises ValueError on a filling phase that does not walk or does not reach the last row, or if a
    column that an earlier phase should have filled is missing.
    """
    chunk = build_chunk(method, index, data, placement, columns, stream)
    chunk = chunk._replace(metrics=chunk.names(state))
    lowered = chunk.function.lower(*chunk.arguments(state, 0, 1))
    return chunk._replace(compiled=lowered.compile())


def build_chunk(
    method: Method,
    index: int,
    data: Transition,
    placement: SeedPlacement,
    columns: Mapping[str, np.ndarray] | None = None,
    stream: int = 0,
) -> Chunk:
    """What `compile_chunk` compiles, jitted only: to lower or export it elsewhere."""
    phase = method.phases[index]
    mesh, mapping = placement.mesh, seed_axis.chosen_mapping(placement.mapping, placement.mesh)
    short = phase.steps * phase.batch_size < len(data.reward)
    if phase.columns and (phase.sampler is not sequential or short):
        raise ValueError(
            f"phase {phase.name!r} fills columns: it must take its rows by `sequential`, and "
            f"its steps must reach the last of {len(data.reward)} rows"
        )
    stride, keys = 1, seed_keys(placement.seeds)
    if phase.shared:
        keys, mapping = shared_key()[None], "loop"
        if phase.columns:
            stride = mesh.devices.size
        else:  # each process for itself, all alike
            mesh = seed_axis.seed_mesh([seed_axis.here(mesh).devices.flat[0]])
    own, common = _place_columns(method.phases[:index], columns or {}, mesh)
    # The room for columns does not depend on how the steps are cut, else the program would.
    batch_bytes = phase.batch_size * sum(x.size * x.dtype.itemsize for x in phase.columns.values())
    slots = min(-(-phase.steps // stride), max(1, COLUMN_BYTES // max(1, batch_bytes)))
    keys = seed_axis.pad(phase_keys(keys, index)[1:], mesh)
    prefetcher = None
    if stream:
        prefetcher = HostPrefetcher(
            data, phase, keys[0], mesh, stride=stride, wanted=-(-stream // stride)
        )
        slots = min(slots, prefetcher.slots) if phase.columns else slots
    recipe = _Recipe(
        phase.name,
        phase.update,
        phase.sampler,
        phase.batch_size,
        bool(phase.columns),
        slots if phase.columns else 0,
        stride,
    )
    function = seed_axis.over_seeds(
        _member_program(recipe),
        mesh,
        (0, 0, 0 if mapping == "loop" else None, 0 if prefetcher else None, 0, None, 0),
        mapping=mapping,
        donate=(0,),
    )
    return Chunk(
        phase=phase,
        placement=placement,
        members=SeedPlacement(placement.seeds, mesh, mapping),
        function=function,
        compiled=function,
        longest=_longest(phase, slots, stride, prefetcher),
        constants=(
            keys,
            None if prefetcher else seed_axis.replicate(data, mesh),
            {} if phase.shared else own,  # what each seed has its own, one for all cannot read
            common,
        ),
        prefetcher=prefetcher,
        representative=_standing(phase, placement, mapping),
    )


def _standing(phase: Phase, placement: SeedPlacement, mapping: str) -> tuple[int, ...]:
    """Nobody stands for others where members run side by side: it would save no time."""
    found = representatives(placement.seeds, placement.mesh.devices.size)
    apart = phase.shared or mapping == "vmap" or jax.process_count() > 1
    needed = phase.alike and not apart and len(set(found)) < len(found)
    return found if needed else ()


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
