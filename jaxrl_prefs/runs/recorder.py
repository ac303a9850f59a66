"""What happens between two log points: evaluation where one is due, rows, events, the display."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.evaluation.evaluator import Diagnosis, Evaluator, Score
from jaxrl_prefs.parallel import processes
from jaxrl_prefs.runs import columns, estimate, memory
from jaxrl_prefs.runs.display import Display, line
from jaxrl_prefs.runs.estimate import Estimate
from jaxrl_prefs.runs.job import Job
from jaxrl_prefs.runs.sinks import LOGGERS, Logger, Loggers
from jaxrl_prefs.runs.workdir import (
    COLUMNS,
    EVALUATIONS,
    FORECAST,
    METRICS,
    TIMINGS,
    Rows,
    read_json,
    write_json,
)
from jaxrl_prefs.training import loop
from jaxrl_prefs.training.program import SeedPlacement


class Step(NamedTuple):
    """A log point, with what the clock and the schedule say about it."""

    log_point: loop.LogPoint
    before: int  # global step of the last log point
    seconds: float  # since then, spent on updates
    first: bool  # of its phase in this process, so that something was compiled

    @property
    def updates(self) -> int:
        """Updates since the last log_point."""
        return self.log_point.step - self.before


def crossed(before: int, now: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, now]."""
    return now // interval > before // interval


class Recorder:
    """Writes, shows and evaluates; a context manager that owns the display and the environments.

    Raises:
        DataError: if the dataset's environment cannot be made.
        ConfigError: if a logger cannot start; if the method's columns do not fit into memory.
    """

    def __init__(
        self, job: Job, start: int, console: Console, loggers: Sequence[Logger] = ()
    ) -> None:
        self._trial, self._console = job, console
        config, method, dataset = job.config, job.method, job.dataset
        common: dict[str, Any] = {"eval_seed": config.eval_seed, "mapping": config.mapping}
        place = (job.seeds, job.mesh)
        self._loggers, self._start = _wanted(job, console, loggers), start
        self._evaluator = (
            Evaluator(
                method,
                dataset,
                *place,
                episodes=config.eval_episodes,
                backend=config.eval_backend,
                **common,
            )
            if dataset.recording.task
            else None
        )
        self._diagnosis = Diagnosis(method, dataset.transitions, *place, **common)
        self._files = {name: Rows(job.path / name) for name in (METRICS, EVALUATIONS, TIMINGS)}
        for rows in self._files.values():
            rows.cut(start)
        columns_need = memory.check(method, dataset.spec.size, len(job.seeds), job.mesh)
        if columns_need:
            line(console, columns_need)
        self._forecast = self._measure()
        left = estimate.duration(self._forecast.left(start))
        line(console, f"estimated time: {left}, evaluation included")
        self._display = Display(console, method, start, job.points)

    def __enter__(self) -> Recorder:
        try:
            self._loggers.start(self._trial.path, self._start)
        except ConfigError:
            self._close()
            raise
        self._display.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.__exit__(kind, error, trace)
        self._close()

    def _close(self) -> None:
        self._loggers.close()
        if self._evaluator:
            self._evaluator.close()

    def record(self, step: Step) -> None:
        """Evaluates if it is time, and writes the rows of a log_point."""
        log_point, clock = step.log_point, time.perf_counter()
        scores: dict[str, Score] = {}
        metrics = dict(log_point.metrics)
        if self._due(step):
            metrics |= self._diagnosis(log_point.state, log_point.step)
            last = log_point.step == self._trial.steps
            if self._evaluator:
                scores = self._evaluator(log_point.state, log_point.step, last=last)
        timing = {
            "step": log_point.step,
            "phase": log_point.phase,
            "updates": step.updates,
            "seconds": step.seconds,
            "first": step.first,
            "evaluation_seconds": time.perf_counter() - clock,
        }
        columns.write(self._trial.path / COLUMNS, self._trial.method, log_point)
        self._write(log_point, metrics, scores)
        self._files[TIMINGS].append([timing])
        self._show(step, scores)

    def sync(self) -> None:
        """Waits until every row is on the disk."""
        for rows in self._files.values():
            rows.sync()

    def _due(self, step: Step) -> bool:
        """At the end of every phase, and within the last every `eval_every` updates."""
        log_point, phases = (
            step.log_point,
            [phase for phase in self._trial.method.phases if phase.steps],
        )
        if log_point.phase_step == next(p.steps for p in phases if p.name == log_point.phase):
            return True
        before = log_point.phase_step - step.updates
        every = self._trial.config.eval_every
        return log_point.phase == phases[-1].name and crossed(before, log_point.phase_step, every)

    def _write(
        self,
        log_point: loop.LogPoint,
        metrics: Mapping[str, np.ndarray],
        scores: Mapping[str, Score],
    ) -> None:
        measured, played = [], []
        for place, label in enumerate(self._trial.labels):
            where = {
                "step": log_point.step,
                "phase": log_point.phase,
                "phase_step": log_point.phase_step,
            }
            values = {name: _number(metrics[name][place]) for name in sorted(metrics)}
            measured.append({**where, **label, "metrics": values})
            for name, score in scores.items():
                row = {
                    **where,
                    "policy": name,
                    "candidates": score.candidates,
                    "rule": score.rule,
                    **label,
                    "score": float(score.scores[place].mean()),
                    "returns": score.returns[place].tolist(),
                    "lengths": score.lengths[place].tolist(),
                }
                played.append(row)
        self._files[METRICS].append(measured)
        self._files[EVALUATIONS].append(played)
        self._loggers.write(measured + played)

    def _show(self, step: Step, scores: Mapping[str, Score]) -> None:
        phase, phase_step = step.log_point.phase, step.log_point.phase_step
        if not step.first or not self._forecast.rate(phase):
            self._forecast.correct(phase, step.seconds / step.updates)
        left = self._forecast.left(step.log_point.step)
        self._display.advance(phase, phase_step, self._forecast.rate(phase), left)
        if scores:
            self._display.evaluated(phase, phase_step, scores)

    def _measure(self) -> Estimate:
        """Times some updates of each phase and some time steps of an evaluation.

        A run that goes on takes what its first process has measured.
        """
        config, method, mesh = self._trial.config, self._trial.method, self._trial.mesh
        data, known = self._trial.dataset.transitions, self._trial.path / FORECAST
        before = processes.run_on_leader(lambda: read_json(known) if known.exists() else None)
        if before:
            return Estimate(method, config.eval_every, **before)
        seeds = self._trial.seeds
        stream = bool(self._trial.streamed)
        updates = estimate.seconds_per_update(
            method, data, seeds, mesh, config.mapping, stream=stream
        )
        played = {"evaluation": 0.0, "last": 0.0}
        if self._evaluator:
            state = loop.begin(method, data, SeedPlacement(seeds, mesh, config.mapping))
            played["evaluation"] = self._evaluator.estimate(state)
            played["last"] = self._evaluator.estimate(state, 1, last_only=True)
        measured: dict[str, Any] = processes.run_on_leader(lambda: {"updates": updates, **played})
        write_json(known, measured)
        return Estimate(method, config.eval_every, **measured)


def _wanted(job: Job, console: Console, loggers: Sequence[Logger]) -> Loggers:
    """The loggers that the run's config names, then `loggers`; none but in the leader."""
    if not processes.is_leader():
        return Loggers((), print)
    named = [LOGGERS[name]() for name in dict.fromkeys(job.config.log)]
    return Loggers([*named, *loggers], lambda text: line(console, text))


def _number(value: Any) -> float | None:
    """A number for JSON; one that is not finite becomes null."""
    return float(value) if math.isfinite(value) else None
