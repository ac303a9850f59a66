"""From a claimed workdir to a trained ensemble, or from where the last process was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.runs import columns
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.job import Job
from jaxrl_prefs.runs.load import abstract_state
from jaxrl_prefs.runs.recorder import Recorder, Step, crossed
from jaxrl_prefs.runs.sinks import Logger
from jaxrl_prefs.runs.workdir import CHECKPOINTS, COLUMNS
from jaxrl_prefs.training import loop, sweep
from jaxrl_prefs.training.program import SeedPlacement


def run(job: Job, console: Console, loggers: Sequence[Logger] = ()) -> None:
    """Trains to the end from wherever the workdir's newest checkpoint stands.

    `loggers` get every row, besides the loggers that the run's config names.

    Raises:
        ConfigError: if a logger cannot start.
        NonFiniteError: if a seed breaks; the checkpoints so far stay.
        CheckpointError, OSError: if the disk refuses a checkpoint or a row.
    """
    config = job.config
    # Of several processes all take part in a checkpoint, in the leader's folder.
    folder = processes.run_on_leader(lambda: job.path.absolute()) / CHECKPOINTS
    with Checkpoints(folder, keep=config.keep) as checkpoints:
        state, start = _restore(job, checkpoints)
        if start == job.steps:
            return
        if start:
            line(console, f"continuing at update {start} of {job.steps}")
        if job.streamed:
            line(console, job.streamed)
        log_points = loop.run(
            job.method,
            job.dataset.transitions,
            job.seeds,
            job.mesh,
            every=config.log_every,
            state=state,
            columns=processes.run_on_leader(
                lambda: columns.read(job.path / COLUMNS, job.method, start)
            ),
            start=start,
            mapping=config.mapping,
            stream=bool(job.streamed),
        )
        with Recorder(job, start, console, loggers) as recorder:
            for step in _timed(log_points, start):
                recorder.record(step)
                now = step.log_point.step
                if crossed(step.before, now, config.checkpoint_every) or now == job.steps:
                    recorder.sync()
                    checkpoints.save(now, seed_axis.trim(step.log_point.state, len(job.seeds)))


def _restore(job: Job, checkpoints: Checkpoints) -> tuple[Any, int]:
    """Returns the newest state [S, ...] with its step; at the start of a run None and 0, or the
    members of a sweep with their settings."""
    members = len(job.seeds)
    found = checkpoints.restore(abstract_state(job.method, job.dataset.spec, members))
    if found or not job.points:
        return found or (None, 0)
    placement = SeedPlacement(job.seeds, job.mesh, job.config.mapping)
    state = loop.begin(job.method, job.dataset.transitions, placement)
    return sweep.assign(seed_axis.trim(state, members), job.settings), 0


def _timed(log_points: Iterator[loop.LogPoint], start: int) -> Iterator[Step]:
    before, phases = start, set[str]()
    clock = time.perf_counter()
    for log_point in log_points:
        yield Step(log_point, before, time.perf_counter() - clock, log_point.phase not in phases)
        phases.add(log_point.phase)
        before, clock = log_point.step, time.perf_counter()
