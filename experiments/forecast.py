"""How long a run will take, measured on this machine before it starts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs import train
from jaxrl_prefs.method import Method
from jaxrl_prefs.types import Transition

CHUNK = 10  # updates per timed call: two of BDPO's actor intervals
PATIENCE = 0.5  # seconds of chunks to time for each phase; at least one chunk
ENDLESS = 10**6


def seconds_per_update(
    method: Method, data: Transition, seeds: Sequence[int], mesh: Mesh, mapping: str
) -> dict[str, float]:
    """Measures one update of all seeds, by phase, from fresh states; compilation is left out.

    What is compiled here is the program that training runs, so that with a compilation cache
    nothing is compiled twice. A phase that cannot be run from a fresh state is left out.
    """
    measured = {}
    for index, phase in enumerate(method.phases):
        if phase.steps:
            alone = _alone(method, index)
            columns = _empty_columns(method, index, len(seeds), len(data.reward))
            ticks = train.run(
                alone, data, seeds, mesh, every=CHUNK, columns=columns, mapping=mapping
            )
            try:
                next(ticks)
                measured[phase.name] = _time(ticks)
            except train.NonFinite:
                continue
    return measured


def _time(ticks: Iterator[train.Tick]) -> float:
    start, chunks = time.perf_counter(), 0
    for _ in ticks:
        chunks += 1
        elapsed = time.perf_counter() - start
        if elapsed > PATIENCE:
            break
    return elapsed / (chunks * CHUNK)


def _alone(method: Method, index: int) -> Method:
    """The method with one phase that runs on and on, and the others entered only."""
    phases = [
        phase._replace(steps=ENDLESS if place == index else 0)
        for place, phase in enumerate(method.phases)
    ]
    return method._replace(phases=tuple(phases))


def _empty_columns(method: Method, index: int, seeds: int, size: int) -> dict[str, np.ndarray]:
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
