"""What the user watches while a run trains."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from jaxrl_prefs.evaluation.evaluator import Score
from jaxrl_prefs.method import Method
from jaxrl_prefs.runs import estimate, statistics

FIRST_LINE, LINES = 10.0, 30.0  # seconds to the first line of progress in a file, and between two


def line(console: Console, text: str) -> None:
    """Prints one line, however long, without colours."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


class Display:
    """A bar for the phase that runs, with updates per second and the time left for all of them.

    Where the output goes to a file, a line from time to time instead. `points` are those of a
    sweep, whose scores are shown apart.
    """

    def __init__(
        self,
        console: Console,
        method: Method,
        step: int,
        points: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self._console, self._points = console, points or ({},)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._tasks = {
            phase.name: self._progress.add_task(
                phase.name, total=phase.steps, start=False, rate="", left=""
            )
            for phase in method.phases
            if phase.steps
        }
        self._totals = {phase.name: phase.steps for phase in method.phases}
        self._next_line = time.monotonic() + FIRST_LINE
        for phase in method.phases:
            if phase.steps:
                self._progress.update(self._tasks[phase.name], completed=min(step, phase.steps))
            step = max(step - phase.steps, 0)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def advance(self, phase: str, phase_step: int, rate: float, left: float) -> None:
        """Shows where training is.

        Args:
            phase: the phase that runs.
            phase_step: updates finished in it.
            rate: updates per second of every seed.
            left: seconds until the run is finished.
        """
        pace = f"{rate:,.0f} updates/s" if rate >= 100 else f"{rate:.3g} updates/s"
        remaining = f"{estimate.duration(left)} left"
        shown = remaining if phase_step < self._totals[phase] else ""  # a finished bar stays
        self._progress.update(self._tasks[phase], completed=phase_step, rate=pace, left=shown)
        if not self._console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINES
            of = f"{phase_step:,} of {self._totals[phase]:,} updates"
            line(self._console, f"{phase}: {of}, {pace}, {remaining}")

    def evaluated(self, phase: str, phase_step: int, scores: Mapping[str, Score]) -> None:
        """Prints one line about an evaluation, or one for each point of a sweep."""
        for place, point in enumerate(self._points):
            parts = []
            for name, score in scores.items():
                seeds = np.split(score.scores.mean(1), len(self._points))[place].tolist()
                known = [score for score in seeds if np.isfinite(score)]
                bounds = statistics.interval(known)
                spread = f" ({statistics.spread(bounds)})" if bounds else ""
                parts.append(f"{name} {statistics.number(statistics.mean(known))}{spread}")
            where = "".join(f", {field}={value:g}" for field, value in point.items())
            line(self._console, f"{phase} {phase_step}{where}: {', '.join(parts)}")
