"""From a claimed workdir to a trained ensemble, or from where the last process was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from jaxrl_prefs.parallel import processes as hosts
from jaxrl_prefs.parallel import seed_axis as ensemble
from jaxrl_prefs.runs import columns
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.job import Trial
from jaxrl_prefs.runs.load import abstract_state
from jaxrl_prefs.runs.recorder import Recorder, Step, crossed
from jaxrl_prefs.runs.workdir import CHECKPOINTS, COLUMNS
from jaxrl_prefs.training import loop as train
from jaxrl_prefs.training import sweep as settings
from jaxrl_prefs.training.program import Ensemble


def run(trial: Trial, console: Console) -> None:
    """Trains to the end from wherever the workdir's newest checkpoint stands.

    Raises:
        NonFiniteError: if a seed breaks; the checkpoints so far stay.
        CheckpointError, OSError: if the disk refuses a checkpoint or a row.
    """
    config = trial.config
    # Of several processes all take part in a checkpoint, in the leader's folder.
    folder = hosts.led(lambda: trial.path.absolute()) / CHECKPOINTS
    with Checkpoints(folder, keep=config.keep) as checkpoints:
        state, start = _restore(trial, checkpoints)
        if start == trial.steps:
            return
        if start:
            line(console, f"continuing at update {start} of {trial.steps}")
        if trial.streamed:
            line(console, trial.streamed)
        ticks = train.run(
            trial.method,
            trial.dataset.transitions,
            trial.seeds,
            trial.mesh,
            every=config.log_every,
            state=state,
            columns=hosts.led(lambda: columns.read(trial.path / COLUMNS, trial.method, start)),
            start=start,
            mapping=config.mapping,
            stream=bool(trial.streamed),
        )
        with Recorder(trial, start, console) as recorder:
            for step in _timed(ticks, start):
                recorder.record(step)
                now = step.tick.step
                if crossed(step.before, now, config.checkpoint_every) or now == trial.steps:
                    recorder.sync()
                    checkpoints.save(now, ensemble.trim(step.tick.state, len(trial.seeds)))


def _restore(trial: Trial, checkpoints: Checkpoints) -> tuple[Any, int]:
    """Returns the newest state [S, ...] with its step; at the start of a run None and 0, or the
    members of a sweep with their settings."""
    members = len(trial.seeds)
    found = checkpoints.restore(abstract_state(trial.method, trial.dataset.spec, members))
    if found or not trial.points:
        return found or (None, 0)
    crew = Ensemble(trial.seeds, trial.mesh, trial.config.mapping)
    state = train.begin(trial.method, trial.dataset.transitions, crew)
    return settings.assign(ensemble.trim(state, members), trial.settings), 0


def _timed(ticks: Iterator[train.Tick], start: int) -> Iterator[Step]:
    before, phases = start, set[str]()
    clock = time.perf_counter()
    for tick in ticks:
        yield Step(tick, before, time.perf_counter() - clock, tick.phase not in phases)
        phases.add(tick.phase)
        before, clock = tick.step, time.perf_counter()
