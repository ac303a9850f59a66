"""Trains all members of a run in its claimed workdir, from where the last process stopped.

A checkpoint, with the metric sums, is written before the evaluation and before the log rows, so an
interruption during them loses no training. On resuming, a missing evaluation and missing rows are
made up first.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxrl_prefs.errors import WorkdirError
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.runs import columns, interrupt, ledger, warm_start
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.job import Job
from jaxrl_prefs.runs.load import abstract_state
from jaxrl_prefs.runs.recorder import Recorder, Step, crossed
from jaxrl_prefs.runs.sinks import Logger
from jaxrl_prefs.runs.workdir import CHECKPOINTS, COLUMNS, CONFIG, INIT, read_json
from jaxrl_prefs.training import loop, sweep
from jaxrl_prefs.training.chunk import SeedPlacement


class Begin(NamedTuple):
    """Where this process begins."""

    state: Any  # [S, ...]; None at the start of a run
    step: int
    progress: Mapping[str, Any]  # as `_progress` made it; empty in checkpoints of earlier versions
    between_log_points: bool = False

    @property
    def totals(self) -> dict[str, np.ndarray]:
        """Sums and counts of the metrics since the last log point, [P, 2]."""
        return {k: np.array(v, np.float32) for k, v in self.progress.get("totals", {}).items()}


def run(job: Job, console: Console, loggers: Sequence[Logger] = ()) -> None:
    """Trains to the end from wherever the workdir's newest checkpoint stands.

    `loggers` get every row, besides the loggers that the run's config names.

    Raises:
        ConfigError: if a logger cannot start.
        NonFiniteError: if a seed breaks; the checkpoints so far stay.
        CheckpointError, OSError: if the disk refuses a checkpoint or a row.
        WorkdirError: if columns are damaged and cannot be filled again.
        KeyboardInterrupt: if a signal came; what was trained is saved.
    """
    # Of several processes all take part in a checkpoint, in the leader's folder.
    folder = processes.run_on_leader(lambda: job.path.absolute()) / CHECKPOINTS
    with (
        Checkpoints(folder, keep=job.config.keep) as checkpoints,
        interrupt.catching() as stopped,
    ):
        begin = _restore(job, checkpoints, folder.parent, console)
        recorded = processes.run_on_leader(lambda: _recorded(job, begin))
        lost = processes.run_on_leader(lambda: ledger.lost(job.path, recorded))
        if lost:
            line(console, f"{ledger.describe(lost)}; training does not depend on them")
        if begin.step == recorded == job.steps:
            return
        if begin.step:
            line(console, f"continuing at update {begin.step} of {job.steps}")
        if job.streamed:
            line(console, job.streamed)
        filled = _columns(job, begin, console)
        with Recorder(job, begin.step, console, loggers, recorded=recorded) as recorder:
            if recorded < begin.step and not begin.between_log_points:
                recorder.record(_unrecorded(job, begin, filled))
            _train(job, begin, filled, recorder, checkpoints, stopped, folder.parent)


def _train(
    job: Job,
    begin: Begin,
    filled: dict[str, np.ndarray],
    recorder: Recorder,
    checkpoints: Checkpoints,
    flag: interrupt.Flag,
    folder: Path,
) -> None:
    config = job.config

    def should_stop(step: int) -> bool:
        recorder.passed(step)
        return flag()

    log_points = loop.run(
        job.method,
        job.dataset.transitions,
        job.seeds,
        job.mesh,
        every=config.log_every,
        state=begin.state,
        columns=filled,
        start=begin.step,
        mapping=config.mapping,
        stream=bool(job.streamed),
        totals=begin.totals if begin.between_log_points else None,
        should_stop=should_stop,
    )
    steps, checksums = _timed(log_points, begin), columns.Checksums(job.method)
    saved = time.monotonic()
    while True:
        with flag.deferred():
            step = next(steps, None)
            if step is None:
                return
            log_point = step.log_point
            columns.write(job.path / COLUMNS, job.method, log_point)
            stopped, unsaved = processes.largest(float(flag()), time.monotonic() - saved)
            stopping = bool(stopped) or not log_point.complete
            due = log_point.complete and recorder.due(step)
            if due or stopping or _saves(job, step, unsaved):
                recorder.sync()
                state = seed_axis.trim(log_point.state, len(job.seeds))
                if log_point.step in _phase_ends(job):
                    warm_start.keep(folder, job, log_point.phase, log_point.step, state)
                checkpoints.save(log_point.step, state, _progress(job, step, checksums))
                if due or stopping:
                    checkpoints.wait()
                saved = time.monotonic()
        if stopping:
            raise KeyboardInterrupt
        recorder.record(step)


def _saves(job: Job, step: Step, unsaved: float) -> bool:
    """Whether a checkpoint is due at a log point, `unsaved` seconds after the last one."""
    now, config = step.log_point.step, job.config
    if now == job.steps:
        return True
    if config.checkpoint_minutes:
        return unsaved >= 60 * config.checkpoint_minutes
    return crossed(step.before, now, config.checkpoint_every)


def _progress(job: Job, step: Step, checksums: columns.Checksums) -> dict[str, Any]:
    """What a checkpoint holds besides the state: how far its log point is, and checksums."""
    log_point = step.log_point
    phase = next(phase for phase in job.method.phases if phase.name == log_point.phase)
    members = None if phase.shared else len(job.seeds)
    totals = {name: np.asarray(x)[:members] for name, x in log_point.totals.items()}
    return {
        "whole": log_point.complete,
        "before": step.before,
        "seconds": step.seconds,
        "first": step.first,
        "totals": {name: x.tolist() for name, x in totals.items()},
        "columns": checksums(log_point.columns, log_point.step),
    }


def _restore(job: Job, checkpoints: Checkpoints, folder: Path, console: Console) -> Begin:
    """The newest checkpoint. At the start of a run what another run has trained of it; else no
    state, or the members of a sweep with their settings."""
    members = len(job.seeds)
    found = checkpoints.restore(abstract_state(job.method, job.dataset.spec, members))
    if found:
        progress = checkpoints.progress(found[1])
        return Begin(*found, progress, _between_log_points(job, found[1], progress))
    init = processes.run_on_leader(lambda: read_json(folder / CONFIG).get("init") or {})
    if not (job.points or init or job.donors):
        return Begin(None, 0, {})
    placement = SeedPlacement(job.seeds, job.mesh, job.config.mapping)
    state = seed_axis.trim(
        loop.init_members(job.method, job.dataset.transitions, placement), members
    )
    state = sweep.assign(state, job.settings) if job.points else state
    taken = warm_start.begin(job, init, state) if init or job.donors else None
    if not taken:
        return Begin(state if job.points else None, 0, {})
    progress = {"whole": True, "before": 0, "seconds": 0.0, "first": True, "totals": {}}
    checkpoints.save(taken[1], taken[0], progress | {"columns": {}})
    checkpoints.wait()  # from here on the other run is not needed
    told = processes.run_on_leader(lambda: read_json(job.path / INIT))
    line(console, f"phase {told['phase']!r} and those before it: taken from {told['run']}")
    return Begin(*taken, progress)


def _between_log_points(job: Job, step: int, progress: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of no log point: training was stopped there, or a shorter run ended
    there, whose last rows were removed when it was made longer."""
    if not progress.get("whole", True):
        return True
    if not progress or step % job.config.log_every == 0 or step in _phase_ends(job):
        return False
    return not processes.run_on_leader(lambda: ledger.complete(job.path, step))


def _phase_ends(job: Job) -> list[int]:
    return list(itertools.accumulate(phase.steps for phase in job.method.phases))


def _recorded(job: Job, begin: Begin) -> int:
    """The step up to which rows are to be kept: those of a log point are written after it is saved,
    so that the last one's may be missing."""
    if not begin.progress:
        return begin.step
    whole = not begin.between_log_points and ledger.complete(job.path, begin.step)
    return begin.step if whole else int(begin.progress["before"])


def _columns(job: Job, begin: Begin, console: Console) -> dict[str, np.ndarray]:
    """Reads the columns, and fills damaged rows again."""
    checksums = begin.progress.get("columns")
    found = processes.run_on_leader(
        lambda: columns.read(
            job.path / COLUMNS,
            job.method,
            begin.step,
            seeds=len(job.seeds),
            size=job.dataset.spec.size,
            checksums=checksums,
        )
    )
    if not found.damaged:
        return found.columns
    line(console, f"{'; '.join(found.faults)}: these rows are filled again")
    for index, spans in found.damaged.items():
        loop.refill_columns(
            job.method,
            index,
            job.dataset.transitions,
            SeedPlacement(job.seeds, job.mesh, job.config.mapping),
            state=begin.state,
            columns=found.columns,
            spans=spans,
            stream=job.config.log_every if job.streamed else 0,
        )
    again = columns.Checksums(job.method)(found.columns, begin.step)
    if checksums is not None and again != checksums:
        raise WorkdirError(
            f"{job.path / COLUMNS} is damaged ({'; '.join(found.faults)}), and rows that are "
            "filled again differ from before; put back a copy of its files, or give "
            "another --workdir"
        )
    for index in found.damaged:
        for name in job.method.phases[index].columns:
            columns.rewrite(job.path / COLUMNS, name, found.columns[name])
    return found.columns


def _unrecorded(job: Job, begin: Begin, filled: dict[str, np.ndarray]) -> Step:
    """The log point of the checkpoint, whose rows were not written."""
    ends = _phase_ends(job)
    index = next(place for place, end in enumerate(ends) if end >= begin.step)
    phase = job.method.phases[index]
    log_point = loop.LogPoint(
        phase=phase.name,
        phase_step=begin.step - ends[index] + phase.steps,
        step=begin.step,
        state=seed_axis.pad(begin.state, job.mesh),
        columns=filled,
        filled=(0, 0),
        metrics=loop.means(begin.totals, phase, len(job.seeds)),
        totals=begin.totals,
    )
    kept = (begin.progress[name] for name in ("before", "seconds", "first"))
    return Step(log_point, *kept)


def _timed(log_points: Iterator[loop.LogPoint], begin: Begin) -> Iterator[Step]:
    before, spent, phases = begin.step, 0.0, set[str]()
    if begin.between_log_points:
        before, spent = begin.progress["before"], begin.progress["seconds"]
    clock = time.perf_counter()
    for log_point in log_points:
        seconds = spent + time.perf_counter() - clock
        yield Step(log_point, before, seconds, log_point.phase not in phases)
        phases.add(log_point.phase)
        before, spent, clock = log_point.step, 0.0, time.perf_counter()
