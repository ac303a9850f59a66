"""From a claimed workdir to a trained ensemble: train, evaluate, record, save; or go on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from experiments import columns, forecast
from experiments.config import RunConfig
from experiments.display import Display
from experiments.tensorboard import Events
from experiments.workdir import CHECKPOINTS, EVALUATIONS, METRICS, TIMINGS, Rows
from jaxrl_prefs import ensemble, train
from jaxrl_prefs.checkpoint import Checkpoints
from jaxrl_prefs.chunk import Ensemble
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.evaluate import Diagnosis, Evaluator, Score
from jaxrl_prefs.method import Method
from jaxrl_prefs.release import abstract_state

COLUMNS, EVENTS = "columns", "tensorboard"


class Trial(NamedTuple):
    """What is trained, and where it is kept."""

    path: Path
    config: RunConfig
    method: Method
    dataset: Dataset
    mesh: Mesh


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


def mesh_for(seeds: int, devices: Sequence[Any]) -> Mesh:
    """The fewest devices on which `seeds` take as few rounds as on all of `devices`."""
    rounds = math.ceil(seeds / len(devices))
    return ensemble.seed_mesh(devices[: math.ceil(seeds / rounds)])


def total_steps(method: Method) -> int:
    """Updates of all phases."""
    return sum(phase.steps for phase in method.phases)


def run(trial: Trial, console: Console) -> None:
    """Trains to the end from wherever the workdir's newest checkpoint stands.

    Raises:
        NonFinite: if a seed breaks; the checkpoints so far stay.
        CheckpointError, OSError: if the disk refuses a checkpoint or a row.
    """
    config, method = trial.config, trial.method
    with Checkpoints(trial.path / CHECKPOINTS, keep=config.keep) as checkpoints:
        state, start = _restore(trial, checkpoints)
        files = {name: Rows(trial.path / name) for name in (METRICS, EVALUATIONS, TIMINGS)}
        for rows in files.values():
            rows.cut(start)
        if start:
            console.print(f"continuing at update {start} of {total_steps(method)}")
        if start == total_steps(method):
            return
        ticks = train.run(
            method,
            trial.dataset.transitions,
            config.seeds,
            trial.mesh,
            every=config.log_every,
            state=state,
            columns=columns.read(trial.path / COLUMNS, method, start),
            start=start,
            mapping=config.mapping,
        )
        recorder = Recorder(trial, files, start, console)
        with recorder:
            for step in _timed(ticks, start):
                recorder.record(step)
                if _crossed(step.before, step.tick.step, config.checkpoint_every) or (
                    step.tick.step == total_steps(method)
                ):
                    for rows in files.values():
                        rows.sync()
                    saved = ensemble.trim(step.tick.state, len(config.seeds))
                    checkpoints.save(step.tick.step, saved)


def _restore(trial: Trial, checkpoints: Checkpoints) -> tuple[Any, int]:
    """Returns the newest state [S, ...] with its step, or (None, 0) at the start of a run."""
    seeds = len(trial.config.seeds)
    found = checkpoints.restore(abstract_state(trial.method, trial.dataset.spec, seeds))
    return found or (None, 0)


def _timed(ticks: Iterator[train.Tick], start: int) -> Iterator[Step]:
    before, phases = start, set[str]()
    clock = time.perf_counter()
    for tick in ticks:
        yield Step(tick, before, time.perf_counter() - clock, tick.phase not in phases)
        phases.add(tick.phase)
        before, clock = tick.step, time.perf_counter()


def _crossed(before: int, now: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, now]."""
    return now // interval > before // interval


class Recorder:
    """Evaluates when it is time, and writes and shows what happened between two ticks."""

    def __init__(
        self, trial: Trial, files: Mapping[str, Rows], start: int, console: Console
    ) -> None:
        self._trial, self._files, self._console = trial, files, console
        config, method, dataset = trial.config, trial.method, trial.dataset
        common: dict[str, Any] = {"eval_seed": config.eval_seed, "mapping": config.mapping}
        place = (config.seeds, trial.mesh)
        self._evaluator = (
            Evaluator(method, dataset, *place, episodes=config.eval_episodes, **common)
            if dataset.recording.task
            else None
        )
        self._diagnosis = Diagnosis(method, dataset.transitions, *place, **common)
        self._seconds = self._forecast(start)
        self._events = Events(trial.path / EVENTS, wanted=config.tensorboard, start=start)
        self._display = Display(console, method, start)

    def __enter__(self) -> Recorder:
        self._display.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._display.__exit__(*error)
        self._events.close()
        if self._evaluator:
            self._evaluator.close()

    def record(self, step: Step) -> None:
        """Writes the rows of a tick, its evaluation first where one is due."""
        tick, clock = step.tick, time.perf_counter()
        scores: dict[str, Score] = {}
        metrics = dict(tick.metrics)
        if self._due(step):
            metrics |= self._diagnosis(tick.state, tick.step)
            scores = self._evaluator(tick.state, tick.step) if self._evaluator else {}
        evaluation_seconds = time.perf_counter() - clock
        if tick.filled[1] > tick.filled[0]:
            columns.write(self._trial.path / COLUMNS, self._trial.method, tick)
        self._write(tick, metrics, scores)
        timing = {
            "step": tick.step,
            "phase": tick.phase,
            "updates": step.updates,
            "seconds": step.seconds,
            "first": step.first,
            "evaluation_seconds": evaluation_seconds,
        }
        self._files[TIMINGS].append([timing])
        self._show(step, scores)

    def _due(self, step: Step) -> bool:
        """At the end of every phase, and within the last every `eval_every` updates."""
        tick = step.tick
        last = [phase for phase in self._trial.method.phases if phase.steps][-1]
        steps = next(p.steps for p in self._trial.method.phases if p.name == tick.phase)
        if tick.phase_step == steps:
            return True
        before = tick.phase_step - step.updates
        every = self._trial.config.eval_every
        return tick.phase == last.name and _crossed(before, tick.phase_step, every)

    def _write(
        self, tick: train.Tick, metrics: Mapping[str, np.ndarray], scores: Mapping[str, Score]
    ) -> None:
        measured, played = [], []
        for place, seed in enumerate(self._trial.config.seeds):
            where = {"step": tick.step, "phase": tick.phase, "phase_step": tick.phase_step}
            values = {name: _number(metrics[name][place]) for name in sorted(metrics)}
            measured.append(where | {"seed": seed, "metrics": values})
            for name, score in scores.items():
                played.append(
                    where
                    | {"policy": name, "candidates": score.candidates, "rule": score.rule}
                    | {"seed": seed, "score": float(score.scores[place].mean())}
                    | {"returns": score.returns[place].tolist()}
                    | {"lengths": score.lengths[place].tolist()}
                )
        self._files[METRICS].append(measured)
        self._files[EVALUATIONS].append(played)
        self._events.write(measured + played)

    def _show(self, step: Step, scores: Mapping[str, Score]) -> None:
        tick = step.tick
        if not step.first or tick.phase not in self._seconds:
            self._seconds[tick.phase] = step.seconds / step.updates
        rate = step.updates / step.seconds
        self._display.advance(tick.phase, tick.phase_step, rate, self._left(tick.step))
        if scores:
            self._display.evaluated(tick.phase, tick.phase_step, scores)

    def _forecast(self, start: int) -> dict[str, float]:
        """Measures seconds per update by phase, and per evaluation; prints the sum."""
        config, method, mesh = self._trial.config, self._trial.method, self._trial.mesh
        data = self._trial.dataset.transitions
        args = (method, data, config.seeds, mesh, config.mapping)
        seconds = forecast.seconds_per_update(*args)
        self._seconds_per_evaluation = 0.0
        if self._evaluator:
            state = train.begin(method, data, Ensemble(config.seeds, mesh, config.mapping))
            self._seconds_per_evaluation = self._evaluator.estimate(state)
        self._seconds = seconds
        total = forecast.duration(self._left(start))
        self._console.print(f"estimated time: {total}, evaluation included", highlight=False)
        return seconds

    def _left(self, step: int) -> float:
        """Seconds from global step `step` to the end, by what is known of each phase."""
        left, phases = 0.0, [phase for phase in self._trial.method.phases if phase.steps]
        for phase in phases:
            done = min(step, phase.steps)
            step -= done
            rest = phase.steps - done
            evaluations = (rest > 0) + (
                (rest - 1) // self._trial.config.eval_every if rest and phase is phases[-1] else 0
            )
            left += rest * self._seconds.get(phase.name, 0.0)
            left += evaluations * self._seconds_per_evaluation
        return left


def _number(value: Any) -> float | None:
    """A number for JSON; one that is not finite becomes null."""
    return float(value) if math.isfinite(value) else None
