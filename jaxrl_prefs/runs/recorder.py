"""What happens between two log points: evaluation where one is due, rows, events, the display."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jaxrl_prefs.errors import ConfigError, WorkdirError
from jaxrl_prefs.evaluation.evaluator import Diagnosis, Evaluator, Score, played
from jaxrl_prefs.method import State
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.runs import curves, estimate, ledger, memory
from jaxrl_prefs.runs.display import Display, line
from jaxrl_prefs.runs.estimate import Estimate
from jaxrl_prefs.runs.job import Job
from jaxrl_prefs.runs.sinks import LOGGERS, Logger, Loggers
from jaxrl_prefs.runs.workdir import (
    CONFIG,
    DURATIONS,
    EVALUATIONS,
    METRICS,
    TIMINGS,
    Rows,
    read_json,
    write_json,
)
from jaxrl_prefs.training import loop
from jaxrl_prefs.training.chunk import SeedPlacement

REDRAW_SECONDS = 60  # between two drawings of the curves, at least
REDRAW_SHARE = 0.03  # of a run's time, which drawing may take


class Step(NamedTuple):
    """A log point, with what the clock and the schedule say about it."""

    log_point: loop.LogPoint
    before: int  # global step of the last log point
    seconds: float  # since then, spent on updates
    first: bool  # of its phase in this process, so that something was compiled

    @property
    def updates(self) -> int:
        """Updates since the last log point."""
        return self.log_point.step - self.before


def crossed(before: int, now: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, now]."""
    return now // interval > before // interval


class Recorder:
    """Writes, shows and evaluates; a context manager that owns the display and the environments.

    Rows beyond global step `recorded` are cut: those of log points that come again.

    Raises:
        DataError: if the dataset's environment cannot be made.
        ConfigError: if a logger cannot start; if the method's columns do not fit into memory.
    """

    def __init__(
        self,
        job: Job,
        start: int,
        console: Console,
        loggers: Sequence[Logger] = (),
        *,
        recorded: int,
    ) -> None:
        self._job, self._console = job, console
        self._told: set[tuple[str, str]] = set()  # policies that were not played, and why
        self._warned: set[str] = set()
        self._redraw_at = time.perf_counter() + REDRAW_SECONDS
        config, method, dataset = job.config, job.method, job.dataset
        common: dict[str, Any] = {"eval_seed": config.eval_seed, "mapping": config.mapping}
        place = (job.seeds, job.mesh)
        self._loggers, self._recorded = _wanted(job, console, loggers), recorded
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
        self._held_out = (
            None
            if dataset.held_out is None
            else Diagnosis(method, dataset.held_out, *place, **common)
        )
        self._files = {name: Rows(job.path / name) for name in (METRICS, EVALUATIONS, TIMINGS)}
        for rows in self._files.values():
            rows.cut(recorded)
        columns_need = memory.check(method, dataset.spec.size, len(job.seeds), job.mesh)
        if columns_need:
            line(console, columns_need)
        self._names_env = processes.run_on_leader(
            lambda: bool(read_json(job.path / CONFIG)["data"]["env"])
        )
        self._durations = self._measure(start)
        left = estimate.duration(self._durations.left(start))
        line(console, f"estimated time: {left}, evaluation included")
        self._display = Display(console, method, start, job.points)

    def __enter__(self) -> Recorder:
        try:
            self._loggers.start(self._job.path, self._recorded)
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
        """Evaluates if it is time, and writes the rows of a log point."""
        log_point, clock = step.log_point, time.perf_counter()
        scores: dict[str, Score] = {}
        metrics = dict(log_point.metrics)
        if self.due(step):
            found = self._diagnosis(log_point.state, log_point.step)
            self._warn(found, log_point)
            metrics |= found
            if self._held_out:
                found = self._held_out(log_point.state, log_point.step)
                metrics |= {f"held_out_{name}": values for name, values in found.items()}
            for name in played(self._job.method.policies, log_point.step == self._job.steps):
                if self._evaluator or self._names_env:
                    scores[name] = self._score(name, log_point.state, log_point.step)
        timing = {
            "step": log_point.step,
            "phase": log_point.phase,
            "updates": step.updates,
            "seconds": step.seconds,
            "first": step.first,
            "evaluation_seconds": time.perf_counter() - clock,
        }
        self._write(log_point, timing, metrics, scores)
        self._show(step, scores)
        if scores and processes.is_leader():
            self._redraw()

    def _redraw(self) -> None:
        """Draws the curves so far, if the last time is long enough ago and they can be drawn."""
        clock = time.perf_counter()
        if clock > self._redraw_at:
            drawn = curves.redraw(self._job.path, self._console)
            now = time.perf_counter()
            pause = max(REDRAW_SECONDS, (now - clock) / REDRAW_SHARE) if drawn else math.inf
            self._redraw_at = now + pause

    def _warn(self, found: Mapping[str, np.ndarray], log_point: loop.LogPoint) -> None:
        """Prints what the method reads off a diagnosis, each sentence once, with its members."""
        members: dict[str, list[str]] = {}
        for place, label in enumerate(self._job.labels):
            one = {name: float(values[place]) for name, values in found.items()}
            for text in self._job.method.warn(one):
                told = " ".join(f"{name} {value:g}" for name, value in label.items())
                members.setdefault(text, []).append(told)
        for text, who in members.items():
            if text not in self._warned:
                self._warned.add(text)
                where = f"{log_point.phase} {log_point.phase_step}"
                line(self._console, f"warning, {where}, {', '.join(who)}: {text}")

    def passed(self, step: int) -> None:
        """Shows that training has come to global step `step`."""
        offset = 0
        for phase in self._job.method.phases:
            if phase.steps and step <= offset + phase.steps:
                left = self._durations.left(step)
                rate = self._durations.rate(phase.name)
                self._display.advance(phase.name, step - offset, rate, left)
                return
            offset += phase.steps

    def sync(self) -> None:
        """Waits until every row is on the disk."""
        for rows in self._files.values():
            rows.sync()

    def due(self, step: Step) -> bool:
        """Whether a log point comes with an evaluation.

        At the end of every phase, and within the last every `eval_every` updates.
        """
        log_point = step.log_point
        phases = [phase for phase in self._job.method.phases if phase.steps]
        if log_point.phase_step == next(p.steps for p in phases if p.name == log_point.phase):
            return True
        before = log_point.phase_step - step.updates
        every = self._job.config.eval_every
        return log_point.phase == phases[-1].name and crossed(before, log_point.phase_step, every)

    def _score(self, name: str, state: State, step: int) -> Score:
        """Plays a policy. Where that fails nothing is lost but the score, which is NaN.

        Of several processes one that fails ends the run, since the others wait for its part.
        """
        policy, reason = self._job.method.policies[name], "the run goes on without an environment"
        if self._evaluator:
            try:
                return self._evaluator.score(name, state, step)
            except Exception as error:  # whatever an environment of the user's may raise
                if jax.process_count() > 1:
                    raise
                told = " ".join(str(error).split())
                reason = f"{type(error).__name__}: {told}" if told else type(error).__name__
        if (name, reason) not in self._told:
            self._told.add((name, reason))
            line(self._console, f"{name} could not be played at update {step}: {reason}. No score")
        nothing = np.full((len(self._job.seeds), 1), np.nan)
        return Score(name, policy.candidates, policy.rule, nothing, nothing, nothing)

    def _write(
        self,
        log_point: loop.LogPoint,
        timing: Mapping[str, Any],
        metrics: Mapping[str, np.ndarray],
        scores: Mapping[str, Score],
    ) -> None:
        measured: list[dict[str, Any]] = []
        evaluated: list[dict[str, Any]] = []
        for place, label in enumerate(self._job.labels):
            where = {
                "step": log_point.step,
                "phase": log_point.phase,
                "phase_step": log_point.phase_step,
            }
            values = {name: _number(metrics[name][place]) for name in sorted(metrics)}
            measured.append({**where, **label, "metrics": values})
            for name, score in scores.items():
                returns = score.returns[place]
                known = bool(np.isfinite(returns).all())
                row = {
                    **where,
                    "policy": name,
                    "candidates": score.candidates,
                    "rule": score.rule,
                    **label,
                    "score": float(score.scores[place].mean()) if known else None,
                    "returns": returns.tolist() if known else [],
                    "lengths": score.lengths[place].tolist() if known else [],
                }
                if score.successes is not None:
                    row["successes"] = score.successes[place].tolist()
                evaluated.append(row)
        rows = {METRICS: measured, EVALUATIONS: evaluated}
        for name, each in rows.items():
            self._files[name].append(each)
        self._files[TIMINGS].append([ledger.sealed(timing, rows)])
        self._loggers.write(measured + evaluated)

    def _show(self, step: Step, scores: Mapping[str, Score]) -> None:
        phase, phase_step = step.log_point.phase, step.log_point.phase_step
        if not step.first or not self._durations.rate(phase):
            self._durations.correct(phase, step.seconds / step.updates)
        left = self._durations.left(step.log_point.step)
        self._display.advance(phase, phase_step, self._durations.rate(phase), left)
        if scores:
            self._display.evaluated(phase, phase_step, scores)

    def _measure(self, start: int) -> Estimate:
        """Times some updates of each phase from step `start` on, and some time steps of an
        evaluation.

        A run that goes on takes what its first process has measured.
        """
        config, method, mesh = self._job.config, self._job.method, self._job.mesh
        data, known = self._job.dataset.transitions, self._job.path / DURATIONS
        before = processes.run_on_leader(lambda: _measured(known))
        if before:
            return Estimate(method, config.eval_every, **before)
        seeds = self._job.seeds
        stream = bool(self._job.streamed)
        updates = estimate.seconds_per_update(
            method, data, seeds, mesh, config.mapping, stream=stream, start=start
        )
        evaluations = {"evaluation": 0.0, "last": 0.0}
        if self._evaluator:
            # the mapping as training has it: initialising is traced once
            mapping = seed_axis.chosen_mapping(config.mapping, mesh)
            state = loop.init_members(method, data, SeedPlacement(seeds, mesh, mapping))
            try:
                evaluations["evaluation"] = self._evaluator.estimate(state)
                evaluations["last"] = self._evaluator.estimate(state, 1, last_only=True)
            except Exception as error:  # it is tried again, and named, when it is due
                if jax.process_count() > 1:
                    raise
                logging.getLogger(__name__).debug("evaluations are not timed: %s", error)
        measured: dict[str, Any] = processes.run_on_leader(
            lambda: {"updates": updates, **evaluations}
        )
        write_json(known, measured)
        return Estimate(method, config.eval_every, **measured)


def _wanted(job: Job, console: Console, loggers: Sequence[Logger]) -> Loggers:
    """The loggers that the run's config names, then `loggers`; none but in the leader."""
    if not processes.is_leader():
        return Loggers((), print)
    named = [LOGGERS[name]() for name in dict.fromkeys(job.config.log)]
    return Loggers([*named, *loggers], lambda text: line(console, text))


def _measured(path: Path) -> dict[str, Any] | None:
    """What an earlier process has measured; None if it must be measured anew."""
    try:
        found = read_json(path)
        updates = {str(name): float(seconds) for name, seconds in found["updates"].items()}
        rest = {name: float(found[name]) for name in ("evaluation", "last")}
    except (OSError, WorkdirError, LookupError, AttributeError, TypeError, ValueError):
        return None
    return {"updates": updates, **rest}


def _number(value: Any) -> float | None:
    """A number for JSON; one that is not finite becomes null."""
    return float(value) if math.isfinite(value) else None
