"""How long a run will take, measured on this machine before it starts and corrected on the way."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.errors import NonFiniteError
from jaxrl_prefs.method import Method, Phase
from jaxrl_prefs.parallel import processes
from jaxrl_prefs.training import loop
from jaxrl_prefs.training.chunk import rounds_of
from jaxrl_prefs.types import Transition

CHUNK = 5  # updates per timed call, at least: whole periods and rounds
# Seconds of chunks to time for each phase, and how many at least, unless they take LONGEST seconds.
# No more updates than the phase has.
PATIENCE, CHUNKS, LONGEST = 0.2, 2, 2.0
ENDLESS = 10**6


class Estimate:
    """Seconds per update of each phase and per evaluation, and what they add up to."""

    def __init__(
        self,
        method: Method,
        eval_every: int,
        updates: Mapping[str, float],
        evaluation: float,
        last: float = 0.0,
    ) -> None:
        """Starts from measurements.

        Args:
            method: its phases and their lengths.
            eval_every: updates between evaluations in the last phase.
            updates: seconds per update by phase; a phase that is missing counts as nothing.
            evaluation: seconds per evaluation.
            last: seconds that the last evaluation takes more.
        """
        self._phases = [phase for phase in method.phases if phase.steps]
        self._eval_every, self._evaluation, self._last = eval_every, evaluation, last
        self._updates = dict(updates)

    def correct(self, phase: str, seconds: float) -> None:
        """Takes a newer measurement of one update."""
        self._updates[phase] = seconds

    def rate(self, phase: str) -> float:
        """Updates per second of every seed; 0 while unknown."""
        seconds = self._updates.get(phase, 0.0)
        return 1 / seconds if seconds else 0.0

    def left(self, step: int) -> float:
        """Seconds from global step `step` to the end."""
        seconds = self._last if step < sum(phase.steps for phase in self._phases) else 0.0
        for phase in self._phases:
            done = min(step, phase.steps)
            step -= done
            seconds += (phase.steps - done) * self._updates.get(phase.name, 0.0)
            if done < phase.steps:
                every = self._eval_every if phase is self._phases[-1] else phase.steps
                seconds += (-(-phase.steps // every) - done // every) * self._evaluation
        return seconds


def seconds_per_update(
    method: Method,
    data: Transition,
    seeds: Sequence[int],
    mesh: Mesh,
    mapping: str,
    *,
    stream: bool = False,
    start: int = 0,
) -> dict[str, float]:
    """Measures one update of all seeds, by phase, from initial states; compilation is left out.

    Phases that end at global step `start` or before are left out.

    What is traced and compiled here is the very program that training runs next. A phase that
    breaks from an initial state is left out.
    """
    measured, end = {}, 0
    for index, phase in enumerate(method.phases):
        end += phase.steps
        # A filling update is a long one: a hundred samplers' runs. Every device takes one.
        unit = math.lcm(phase.period, rounds_of(phase, mesh, bool(stream))[1])
        whole = -(-CHUNK // unit) * unit
        every = min(mesh.devices.size, max(phase.steps // 2, 1)) if phase.columns else whole
        if phase.steps and end > start:
            columns = empty_columns(method, index, len(seeds), len(data.reward))
            single = _single_phase(method, index)
            more = {"columns": columns, "mapping": mapping, "stream": stream}
            log_points = loop.run(single, data, seeds, mesh, every=every, **more)  # type: ignore[arg-type]
            with contextlib.suppress(NonFiniteError):
                measured[phase.name] = _time(log_points, phase.steps)
    return measured


def _time(log_points: Iterator[loop.LogPoint], updates: int) -> float:
    """Seconds per update of the fastest log point, in about `updates` of them at most.

    The first log point, which compiles, only starts the clock.

    The fastest, because the first few also load and place what later ones find ready: the second
    log point by itself was twelve times too slow for a phase of small networks.
    """
    before = next(log_points).step
    began = last = time.perf_counter()
    paces: list[float] = []
    for log_point in log_points:
        now = time.perf_counter()
        paces.append((now - last) / (log_point.step - before))
        before, last = log_point.step, now
        enough = functools.partial(_enough, now - began, len(paces))
        if before >= updates or processes.run_on_leader(enough):  # all stop together
            break
    return min(paces, default=0.0)


def _enough(elapsed: float, count: int) -> bool:
    return elapsed > LONGEST or (elapsed > PATIENCE and count >= CHUNKS)


def _single_phase(method: Method, index: int) -> Method:
    """The method with one phase that runs on and on, and the others entered only.

    A phase that fills columns ends with the rows.
    """

    def steps(place: int, phase: Phase) -> int:
        if place != index:
            return 0
        return phase.steps if phase.columns else ENDLESS

    phases = [p._replace(steps=steps(place, p)) for place, p in enumerate(method.phases)]
    return method._replace(phases=tuple(phases))


def empty_columns(method: Method, index: int, seeds: int, size: int) -> dict[str, np.ndarray]:
    """Zeros for the columns that phase `index` may read."""
    columns = {}
    for phase in method.phases[:index]:
        lead = (size,) if phase.shared else (seeds, size)
        for name, row in phase.columns.items():
            columns[name] = np.zeros((*lead, *row.shape), row.dtype)
    return columns


def duration(seconds: float) -> str:
    """Prints a time in two units.

    >>> duration(3725)
    '1 h 2 min'
    """
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for unit, size in units:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
