"""Trains all seeds through all phases of a method, and yields log points.

It knows no method, file or environment. It owns keys, steps, batches and columns:

- The phase is computed from the global step, so a run resumes from (state, columns, step).
- Keys are derived, never stored. With `phase_key = fold_in(seed_key, phase number + 1)` and
  `enter, rows, update = split(phase_key, 3)`, step t of a phase draws its batch with
  (rows, t) and updates with `fold_in(update, t)`; `fold_in(seed_key, 0)` initialises. Results
  depend neither on how the steps are cut into chunks nor on where a run was resumed.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.errors import NonFiniteError
from jaxrl_prefs.keys import init_keys, phase_keys, seed_keys, shared_key
from jaxrl_prefs.method import Method, Phase, State, identity
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.rows import gathered, in_memory, on_host
from jaxrl_prefs.training.chunk import Chunk, SeedPlacement, Totals, compile_chunk
from jaxrl_prefs.training.program import Report
from jaxrl_prefs.training.sharing import first_member, share_fields
from jaxrl_prefs.types import Key, Transition

Columns = dict[str, np.ndarray]  # on the host: [N, ...] shared, or [S, N, ...]

# Seconds that one compiled call may take. A run can be stopped, and reports its progress, only
# between two calls. The overhead of a call is a fraction of a millisecond.
CALL_SECONDS = 2.0
FIRST_CALL_STEPS = 16  # updates of the first call
LARGEST_GROWTH = 8  # a call makes at most this many times the updates of the call before it


class LogPoint(NamedTuple):
    """What `run` yields: at every multiple of `every`, at the end of each phase, and where it is
    stopped.

    `state` is on the devices and holds P members: the S seeds, padded to a multiple of the devices
    (`seed_axis.trim` copies the S to the host). It is valid until the next log point is asked for,
    which reuses its buffers. `columns` are the runner's own arrays and will be filled
    further.
    """

    phase: str
    phase_step: int  # updates finished in this phase
    step: int  # updates finished in all phases
    state: State  # [P, ...]
    columns: Columns
    filled: tuple[
        int, int
    ]  # rows [first, end) of this phase's columns filled by this process since the last log point
    metrics: dict[
        str, np.ndarray
    ]  # [S] means since the last log point; absent if nothing was counted
    totals: dict[str, np.ndarray]  # their sums and counts, [P, 2]; pass them on to resume here
    complete: bool = True  # False if the run was stopped before this log point was due


def never_stop(step: int) -> bool:
    """Never stops a run."""
    del step
    return False


def run(
    method: Method,
    data: Transition,
    seeds: Sequence[int],
    mesh: Mesh,
    *,
    every: int,
    state: State | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    start: int = 0,
    mapping: str = "auto",
    stream: bool = False,
    totals: Totals | None = None,
    should_stop: Callable[[int], bool] = never_stop,
) -> Iterator[LogPoint]:
    """Trains `seeds` on `data` ([N, ...] arrays) from global step `start` to the end.

    To resume, pass the `state` (trimmed to [S, ...]), `columns` and `step` of any log point, and
    the `totals` of an incomplete one; the arguments are copied. The `enter` function of a phase of
    0 steps runs at the end of the phase before it. With `stream` the data stay on the host, for
    devices that cannot hold them; see host_stream.py.

    A compiled call takes about `CALL_SECONDS`. After each, `should_stop` is called with the global
    step reached: if it returns True in one of the processes, the run yields where it stands and
    ends. Results depend neither on when the run is stopped nor on the length of the calls.

    Raises NonFiniteError, instead of yielding the log point, if a metric or the state of a seed is
    not finite; ValueError on a bad `start`, `every` or `seeds`, and if no phase has a step.
    """
    placement = SeedPlacement(tuple(seeds), mesh, seed_axis.chosen_mapping(mapping, mesh))
    ends = list(itertools.accumulate(phase.steps for phase in method.phases))
    if every < 1 or not ends or ends[-1] < 1:
        raise ValueError(f"nothing to train: every is {every}, all steps are {ends[-1:]}")
    if not 0 <= start <= ends[-1] or (state is None and start):
        raise ValueError(f"start is {start}; it must be in 0 ... {ends[-1]}, and 0 without a state")
    state = init_members(method, data, placement) if state is None else seed_axis.pad(state, mesh)
    filled_columns = {name: np.array(column) for name, column in (columns or {}).items()}
    data = data if stream else seed_axis.replicate(in_memory(data), mesh)
    if start == 0:
        state = enter_empty_phases(method, 0, state, placement)

    step = start
    for index, (phase, end) in enumerate(zip(method.phases, ends, strict=True)):
        if step >= end:  # finished, or of 0 steps and entered at the end of the phase before it
            continue
        offset = end - phase.steps
        if step == offset:
            state = enter(method, index, state, placement)
        longest = every if stream else 0
        chunk = compile_chunk(
            method, index, data, placement, state=state, columns=filled_columns, stream=longest
        )
        _allocate(filled_columns, phase, len(seeds), len(data.reward))
        sums: Totals = totals or dict.fromkeys(chunk.names(state))
        totals, call_length = None, CallLength(chunk)
        while step < end:
            first, goal = step - offset, min(end, (step // every + 1) * every) - offset
            # the interval's first step, which an earlier process may have run
            begun = max(0, step // every * every - offset)
            state, sums, done = _train_interval(
                chunk,
                state,
                (begun, first, goal),
                sums,
                filled_columns,
                call_length,
                functools.partial(_stop_at_global_step, should_stop, offset),
            )
            step = offset + done
            if step == end:
                state = enter_empty_phases(method, index + 1, state, placement)
            yield LogPoint(
                phase=phase.name,
                phase_step=done,
                step=step,
                state=state,
                columns=filled_columns,
                filled=_rows(filled_columns, phase, first, done),
                metrics=means(sums, phase, len(seeds)) if done == goal else {},
                totals=sums,
                complete=done == goal,
            )
            if done < goal:
                return
            sums = dict.fromkeys(sums)


def _stop_at_global_step(should_stop: Callable[[int], bool], offset: int, step: int) -> bool:
    return should_stop(offset + step)


class CallLength:
    """How many steps the next call of a chunk takes, from how long recent calls took."""

    def __init__(self, chunk: Chunk) -> None:
        self._longest, self._stride = chunk.longest, max(chunk.stride, chunk.round_length)
        # A step that fills columns is slow: it samples a batch of candidates.
        rounds = max(1, FIRST_CALL_STEPS // self._stride)
        self._most = self._stride if chunk.phase.columns else rounds * self._stride

    def steps(self) -> int:
        """A multiple of the chunk's stride, so that step t always runs on the same device, and of
        its rounds, since a call costs whole ones.

        The stride is the number of devices that take turns.
        """
        return min(self._most, self._longest)

    def record(self, steps: int, seconds: float) -> None:
        """Takes a call's time; of several processes, the longest."""
        fitting = CALL_SECONDS * steps / max(seconds, 1e-9)
        if steps < self.steps():  # the last one before a log point: too short to grow from
            fitting = min(fitting, self._most)
        strides = int(min(fitting, LARGEST_GROWTH * self._most, self._longest)) // self._stride
        self._most = max(1, strides) * self._stride


def _train_interval(
    chunk: Chunk,
    state: State,
    span: tuple[int, int, int],
    sums: Totals,
    columns: Columns,
    call_length: CallLength,
    should_stop: Callable[[int], bool],
) -> tuple[State, dict[str, np.ndarray], int]:
    """Runs the steps of one interval between log points, in calls of a few seconds.

    Args:
        chunk: of the phase.
        state: [P, ...]; donated, so not to be used afterwards.
        span: the phase's steps at which the interval begins, where it is resumed, and where it
            ends.
        sums: of the metrics so far.
        columns: where the rows go that these steps fill.
        call_length: how many steps a call takes.
        should_stop: called with the step reached after every call.

    Returns the state, the metrics' sums and counts, and the step reached.
    """
    begun, at, goal = span
    if chunk.round_length > 1:
        begun = 0  # where the first round began: calls end where rounds do
    unit = max(chunk.stride, chunk.round_length)
    totals: dict[str, np.ndarray] = {}
    while at < goal:
        clock = time.perf_counter()
        length = (at - begun) // unit * unit + call_length.steps()
        stop = min(goal, begun + length, chunk.end(at))
        state, report = chunk(state, at, stop, totals or sums)
        chunk.prepare(stop)  # on the host, while the devices are at work
        report = seed_axis.fetch(report)
        _stop_if_broken(report, state, chunk.phase, chunk.placement.seeds, stop - 1)
        _fill(columns, report, chunk.phase, at, stop)
        parts = np.asarray(report.totals)
        totals = {name: parts[:, place] for place, name in enumerate(report.names)}
        spent = time.perf_counter() - clock
        seconds, stop_requested = processes.largest(spent, float(should_stop(stop)))
        call_length.record(stop - at, seconds)
        at = stop
        if stop_requested:
            break
    return state, totals, at


def refill_columns(
    method: Method,
    index: int,
    data: Transition,
    placement: SeedPlacement,
    *,
    state: State,
    columns: Columns,
    spans: Sequence[tuple[int, int]],
    stream: int = 0,
) -> None:
    """Fills rows of `columns` again, in place.

    Args:
        method: the method.
        index: the phase that fills the columns.
        data: leaves [N, ...].
        placement: of the seeds.
        state: [S, ...]; the fields that the phase reads must be as they were when it ran.
        columns: on the host, with those of earlier phases.
        spans: steps [first, stop) of the phase, whose rows are filled.
        stream: 0 if the data are on the devices, otherwise the largest number of steps per call.
    """
    mesh = placement.mesh
    state = seed_axis.pad(state, mesh)
    data = data if stream else seed_axis.replicate(in_memory(data), mesh)
    chunk = compile_chunk(
        method, index, data, placement, state=state, columns=columns, stream=stream
    )
    for first, stop in spans:
        at = first
        while at < stop:
            end = min(stop, chunk.end(at))
            state, report = chunk(state, at, end)
            report = seed_axis.fetch(report)
            _stop_if_broken(report, state, chunk.phase, placement.seeds, end - 1)
            _fill(columns, report, chunk.phase, at, end)
            at = end


def init_members(method: Method, data: Transition, placement: SeedPlacement) -> State:
    """Initialises every seed, [P, ...]. Fields that a phase shares are initialised once for all, so
    they do not depend on which seeds run."""
    example = gathered(data, np.arange(1), on_host)
    initialise = seed_axis.over_seeds(
        method.init, placement.mesh, (0, None), mapping=placement.mapping
    )

    def members(keys: Key) -> State:
        return initialise(seed_axis.pad(init_keys(keys), placement.mesh), example)

    state = members(seed_keys(placement.seeds))
    fields = sorted({field for phase in method.phases for field in phase.shared})
    return (
        share_fields(state, members(shared_key()[None]), fields, placement.mesh)
        if fields
        else state
    )


def enter(method: Method, index: int, state: State, placement: SeedPlacement) -> State:
    """Enters phase `index` with every member of `state` [P, ...], which is donated."""
    phase = method.phases[index]
    if phase.enter is identity:
        return state

    entered = seed_axis.over_seeds(
        phase.enter, placement.mesh, (0, 0), mapping=placement.mapping, donate=(0,)
    )
    keys = shared_key()[None] if phase.shared else seed_keys(placement.seeds)
    keys = seed_axis.pad(phase_keys(keys, index)[0], placement.mesh)
    if not phase.shared:
        return entered(state, keys)
    return share_fields(
        state, entered(first_member(state, placement.mesh), keys), phase.shared, placement.mesh
    )


def enter_empty_phases(method: Method, index: int, state: State, placement: SeedPlacement) -> State:
    """Enters phase `index` and those directly after it, as long as they have 0 steps."""
    rest = range(index, len(method.phases))
    for empty in itertools.takewhile(lambda i: method.phases[i].steps == 0, rest):
        state = enter(method, empty, state, placement)
    return state


# --- What a chunk reports -------------------------------------------------------------------------


def _stop_if_broken(
    report: Report, state: State, phase: Phase, seeds: Sequence[int], last: int
) -> None:
    """Raises NonFiniteError for the member that became non-finite first; padding does not count."""
    members = slice(None if phase.shared else len(seeds))
    steps, states = np.asarray(report.bad_step)[members], np.asarray(report.bad_state)[members]
    if (steps >= 0).any():
        member = int(np.argmin(np.where(steps >= 0, steps, np.iinfo(np.int32).max)))
        step = int(steps[member])
        name = list(report.names)[np.asarray(report.bad_metric)[member]]
    elif states.any():
        member, step = int(np.argmax(states)), last
        name = "state" + _first_bad_leaf(seed_axis.one(seed_axis.fetch(state), member))
    else:
        return
    raise NonFiniteError(None if phase.shared else int(seeds[member]), phase.name, step, name)


def _first_bad_leaf(state: State) -> str:
    for path, leaf in jax.tree.leaves_with_path(state):
        if not np.isfinite(np.asarray(leaf)).all():
            return "." + jax.tree_util.keystr(path, simple=True, separator=".")
    return ""


def means(totals: Totals, phase: Phase, seeds: int) -> dict[str, np.ndarray]:
    """Divides sums by counts, [S]; NaN for a seed that counted nothing where another did."""
    found = {}
    for name, parts in totals.items():
        if parts is None:
            continue
        total, count = np.asarray(parts).T
        if phase.shared:  # one member for all, perhaps in parts on several devices
            total, count = (np.full(seeds, x.sum()) for x in (total, count))
        total, count = total[:seeds], count[:seeds]
        if count.any():
            found[name] = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    return found


def _allocate(columns: Columns, phase: Phase, seeds: int, size: int) -> None:
    """Makes room for the phase's columns, unless a resumed run brought them along."""
    lead = (size,) if phase.shared else (seeds, size)
    for name, row in phase.columns.items():
        columns.setdefault(name, np.zeros((*lead, *row.shape), row.dtype))


def _rows(columns: Columns, phase: Phase, first: int, stop: int) -> tuple[int, int]:
    """The rows [begin, end) of the columns that steps first ... stop - 1 fill."""
    if not phase.columns:
        return 0, 0
    size = columns[next(iter(phase.columns))].shape[0 if phase.shared else 1]
    return first * phase.batch_size, min(stop * phase.batch_size, size)


def _fill(columns: Columns, report: Report, phase: Phase, first: int, stop: int) -> None:
    """Writes what steps first ... stop - 1 computed into the columns."""
    begin, end = _rows(columns, phase, first, stop)
    for name, row in phase.columns.items():
        found = np.asarray(report.columns[name])  # [P, slots, B, ...]
        column = columns[name]
        if phase.shared:  # member d of D did the steps first + d, first + d + D, ...
            found, column = found.swapaxes(0, 1)[None], column[None]
        found = found.reshape(len(found), -1, *row.shape)
        column[:, begin:end] = found[: len(column), : end - begin]
