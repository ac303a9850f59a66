"""What happens between two ticks: evaluation where one is due, rows, events, the display."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxrl_prefs.evaluation.evaluator import Diagnosis, Evaluator, Score
from jaxrl_prefs.parallel import processes as hosts
from jaxrl_prefs.runs import columns, memory
from jaxrl_prefs.runs import estimate as forecast
from jaxrl_prefs.runs.display import Display, line
from jaxrl_prefs.runs.estimate import Forecast
from jaxrl_prefs.runs.job import Trial
from jaxrl_prefs.runs.sinks import Events
from jaxrl_prefs.runs.workdir import (
    COLUMNS,
    EVALUATIONS,
    EVENTS,
    FORECAST,
    METRICS,
    TIMINGS,
    Rows,
    read_json,
    write_json,
)
from jaxrl_prefs.training import loop as train
from jaxrl_prefs.training.program import Ensemble


class Step(NamedTuple):
    """A tick, with what the clock and the schedule say about it."""

    tick: train.Tick
    before: int  # global step of the last tick
    seconds: float  # since then, spent on updates
    first: bool  # of its phase in this process, so that something was compiled

    @property
    def updates(self) -> int:
        """Updates since the last tick."""
        return self.tick.step - self.before


def crossed(before: int, now: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, now]."""
    return now // interval > before // interval


class Recorder:
    """Writes, shows and evaluates; a context manager that owns the display and the environments.

    Raises:
        DataError: if the dataset's environment cannot be made.
        ConfigError: if event files are wanted and tensorboardX is missing; if the method's
            columns do not fit into memory.
    """

    def __init__(self, trial: Trial, start: int, console: Console) -> None:
        self._trial, self._console = trial, console
        config, method, dataset = trial.config, trial.method, trial.dataset
        common: dict[str, Any] = {"eval_seed": config.eval_seed, "mapping": config.mapping}
        place = (trial.seeds, trial.mesh)
        self._events = Events(trial.path / EVENTS, wanted=config.tensorboard, start=start)
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
        self._files = {name: Rows(trial.path / name) for name in (METRICS, EVALUATIONS, TIMINGS)}
        for rows in self._files.values():
            rows.cut(start)
        columns_need = memory.check(method, dataset.spec.size, len(trial.seeds), trial.mesh)
        if columns_need:
            line(console, columns_need)
        self._forecast = self._measure()
        left = forecast.duration(self._forecast.left(start))
        line(console, f"estimated time: {left}, evaluation included")
        self._display = Display(console, method, start, trial.points)

    def __enter__(self) -> Recorder:
        self._display.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.__exit__(kind, error, trace)
        self._events.close()
        if self._evaluator:
            self._evaluator.close()

    def record(self, step: Step) -> None:
        """Evaluates if it is time, and writes the rows of a tick."""
        tick, clock = step.tick, time.perf_counter()
        scores: dict[str, Score] = {}
        metrics = dict(tick.metrics)
        if self._due(step):
            metrics |= self._diagnosis(tick.state, tick.step)
            last = tick.step == self._trial.steps
            if self._evaluator:
                scores = self._evaluator(tick.state, tick.step, last=last)
        timing = {
            "step": tick.step,
            "phase": tick.phase,
            "updates": step.updates,
            "seconds": step.seconds,
            "first": step.first,
            "evaluation_seconds": time.perf_counter() - clock,
        }
        columns.write(self._trial.path / COLUMNS, self._trial.method, tick)
        self._write(tick, metrics, scores)
        self._files[TIMINGS].append([timing])
        self._show(step, scores)

    def sync(self) -> None:
        """Waits until every row is on the disk."""
        for rows in self._files.values():
            rows.sync()

    def _due(self, step: Step) -> bool:
        """At the end of every phase, and within the last every `eval_every` updates."""
        tick, phases = step.tick, [phase for phase in self._trial.method.phases if phase.steps]
        if tick.phase_step == next(p.steps for p in phases if p.name == tick.phase):
            return True
        before = tick.phase_step - step.updates
        every = self._trial.config.eval_every
        return tick.phase == phases[-1].name and crossed(before, tick.phase_step, every)

    def _write(
        self, tick: train.Tick, metrics: Mapping[str, np.ndarray], scores: Mapping[str, Score]
    ) -> None:
        measured, played = [], []
        for place, label in enumerate(self._trial.labels):
            where = {"step": tick.step, "phase": tick.phase, "phase_step": tick.phase_step}
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
        self._events.write(measured + played)

    def _show(self, step: Step, scores: Mapping[str, Score]) -> None:
        phase, phase_step = step.tick.phase, step.tick.phase_step
        if not step.first or not self._forecast.rate(phase):
            self._forecast.correct(phase, step.seconds / step.updates)
        left = self._forecast.left(step.tick.step)
        self._display.advance(phase, phase_step, self._forecast.rate(phase), left)
        if scores:
            self._display.evaluated(phase, phase_step, scores)

    def _measure(self) -> Forecast:
        """Times some updates of each phase and some time steps of an evaluation.

        A run that goes on takes what its first process has measured.
        """
        config, method, mesh = self._trial.config, self._trial.method, self._trial.mesh
        data, known = self._trial.dataset.transitions, self._trial.path / FORECAST
        before = hosts.led(lambda: read_json(known) if known.exists() else None)
        if before:
            return Forecast(method, config.eval_every, **before)
        seeds = self._trial.seeds
        stream = bool(self._trial.streamed)
        updates = forecast.seconds_per_update(
            method, data, seeds, mesh, config.mapping, stream=stream
        )
        played = {"evaluation": 0.0, "last": 0.0}
        if self._evaluator:
            state = train.begin(method, data, Ensemble(seeds, mesh, config.mapping))
            played["evaluation"] = self._evaluator.estimate(state)
            played["last"] = self._evaluator.estimate(state, 1, last_only=True)
        measured: dict[str, Any] = hosts.led(lambda: {"updates": updates, **played})
        write_json(known, measured)
        return Forecast(method, config.eval_every, **measured)


def _number(value: Any) -> float | None:
    """A number for JSON; one that is not finite becomes null."""
    return float(value) if math.isfinite(value) else None
