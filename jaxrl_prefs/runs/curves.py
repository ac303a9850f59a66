"""Learning curves of a run as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxrl_prefs.runs import figures, renamed, statistics, workdir
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.figures import FEWEST, GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "curves.png"
ACROSS = 4  # panels of metrics in a row
TALL, LOW = 4.2, 2.2  # inches of the panel of scores, and of a row of metrics


class Curve(NamedTuple):
    """A number over the updates."""

    steps: list[int]  # in order
    values: dict[int, list[float]]  # by step, of every seed

    @property
    def seeds(self) -> int:
        """How many seeds there are, at most."""
        return max(map(len, self.values.values()), default=0)

    def means(self) -> list[float]:
        """The mean over seeds, by step."""
        return [float(np.mean(self.values[step])) for step in self.steps]

    def by_seed(self) -> list[list[float]]:
        """The values of each seed that has one at every step."""
        rows = [self.values[step] for step in self.steps]
        return [list(row) for row in zip(*rows, strict=False)]


def redraw(folder: Path, console: Console) -> bool:
    """Draws what the run in `folder` has so far to curves.png; not of a sweep.

    Whatever keeps it from being drawn, such as a full disk, a font or a backend, is told, and the
    run goes on. Returns whether it could be drawn.
    """
    try:
        about = renamed.present(workdir.read_json(folder / workdir.CONFIG))
        if not about["sweep"]:
            evaluations, metrics = (
                workdir.Rows(folder / name) for name in (workdir.EVALUATIONS, workdir.METRICS)
            )
            draw(folder / NAME, evaluations, metrics, about)
    except Exception as error:
        line(console, f"the curves could not be drawn: {' '.join(str(error).split())}")
        return False
    return True


def draw(
    path: Path,
    evaluations: Iterable[Mapping[str, Any]],
    metrics: Iterable[Mapping[str, Any]],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes the figure of learning curves to `path`, a PNG; the rest as `figure`."""
    figures.save(figure(evaluations, metrics, about), path)


def figure(
    evaluations: Iterable[Mapping[str, Any]],
    metrics: Iterable[Mapping[str, Any]],
    about: Mapping[str, Any] | None = None,
) -> Figure:
    """Draws learning curves: scores of every policy in a large panel, then every metric.

    Lines are means over seeds; bands are 95 % bootstrap intervals of scores, and the range over
    seeds of metrics. Of two seeds or fewer, every seed is drawn instead. Dashed vertical lines are
    the ends of phases.

    Args:
        evaluations: rows of evaluations.jsonl.
        metrics: rows of metrics.jsonl.
        about: the run's config.json, for the title and the data's own score.
    """
    scored, measured = list(evaluations), list(metrics)
    scores, others = _scores(scored), _metrics(measured)
    down = math.ceil(len(others) / ACROSS)
    drawn: Figure = figures.new(3.2 * ACROSS, 0.6 + TALL * bool(scores) + LOW * down or 1)
    heights = [TALL] * bool(scores) + [LOW] * down
    grid = drawn.add_gridspec(len(heights) or 1, ACROSS, height_ratios=heights or [1])
    ends = _phase_ends(measured)
    last = max((curve.steps[-1] for curve in (*scores.values(), *others.values())), default=1)
    if scores:
        _draw_scores(drawn.add_subplot(grid[0, :]), scores, scored, ends, about or {})
    for place, (name, curve) in enumerate(others.items()):
        row = place // ACROSS + bool(scores)
        panel = drawn.add_subplot(grid[row, place % ACROSS])
        _draw_curve(panel, curve, 0, "", [(min(x), max(x)) for x in curve.values.values()])
        _mark_phases(panel, ends)
        panel.set_ylabel(name, fontsize=8)
        panel.set_xlabel("updates", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.locator_params(axis="x", nbins=4)
    for panel in drawn.axes:
        panel.set_xlim(0, 1.02 * last)
    drawn.suptitle(_title(scored, measured, about or {}), fontsize=11)
    return drawn


def _draw_scores(
    panel: Any,
    scores: Mapping[str, Curve],
    rows: list[Mapping[str, Any]],
    ends: Mapping[str, int],
    about: Mapping[str, Any],
) -> None:
    data = about.get("data", {})
    figures.reference_lines(panel, data.get("score"))
    for number, (policy, curve) in enumerate(scores.items()):
        bounds = [
            statistics.interval(values) or (values[0], values[0])
            for values in curve.values.values()
        ]
        _draw_curve(panel, curve, number, policy, bounds)
    _mark_phases(panel, ends, named=True)
    panel.set_ylabel(figures.score_label(data.get("score_kind", "score"), len(rows[0]["returns"])))
    panel.set_xlabel("updates")
    panel.grid(alpha=0.3)
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)


def _draw_curve(
    panel: Any, curve: Curve, number: int, label: str, bounds: list[tuple[float, float]]
) -> None:
    """The mean with its band; of few seeds, a line for each."""
    colour, marker = figures.colour(number), figures.marker(number)
    more: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
    if not label and len(curve.steps) > 1:  # a metric has many points
        more["marker"] = ""
    if curve.seeds < FEWEST:
        for place, values in enumerate(curve.by_seed()):
            panel.plot(curve.steps, values, label="" if place else label, **more, linewidth=1)
        return
    panel.plot(curve.steps, curve.means(), label=label, **more)
    low, high = zip(*bounds, strict=True)
    panel.fill_between(curve.steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _title(
    scored: list[Mapping[str, Any]], measured: list[Mapping[str, Any]], about: Mapping[str, Any]
) -> str:
    run = about.get("run", {})
    seeds = sorted({row["seed"] for row in scored or measured})
    what = f"{run['algo']} on {run['dataset']}, " if run else ""
    if not seeds:
        return f"{what}no rows"
    scores = "scores: mean and 95 % interval; " if scored else "not evaluated; "
    metrics = "metrics: mean and range over the seeds, on axes that need not begin at 0"
    if len(seeds) < FEWEST:
        scores = "" if scored else "not evaluated; "
        metrics = "a line for each seed; the axes of metrics need not begin at 0"
    return f"{what}{figures.seeds_label(seeds)}\n{scores}{metrics}"


def _scores(rows: list[Mapping[str, Any]]) -> dict[str, Curve]:
    """Returns {policy: its score}."""
    policies = dict.fromkeys(row["policy"] for row in rows)
    found = {
        policy: _curve(
            (row["step"], row["score"])
            for row in rows
            if row["policy"] == policy and row["score"] is not None
        )
        for policy in policies
    }
    return {policy: curve for policy, curve in found.items() if curve.steps}


def _metrics(rows: list[Mapping[str, Any]]) -> dict[str, Curve]:
    """Returns {metric: its values}; a metric that was never finite has none."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    found = {
        name: _curve(
            (row["step"], row["metrics"][name])
            for row in rows
            if row["metrics"].get(name) is not None
        )
        for name in names
    }
    return {name: curve for name, curve in found.items() if curve.steps}


def _curve(pairs: Iterable[tuple[int, float]]) -> Curve:
    grouped: dict[int, list[float]] = {}
    for step, value in pairs:
        grouped.setdefault(step, []).append(value)
    return Curve(list(grouped), grouped)


def _phase_ends(metrics: list[Mapping[str, Any]]) -> dict[str, int]:
    return {row["phase"]: row["step"] for row in metrics}


def _mark_phases(panel: Any, ends: Mapping[str, int], *, named: bool = False) -> None:
    """A line at the end of every phase but the last, and the names of the phases above."""
    for end in list(ends.values())[:-1]:
        panel.axvline(end, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    if not named or len(ends) < 2:
        return
    begin, spot = 0, panel.get_xaxis_transform()
    for name, end in ends.items():
        middle = (begin + end) / 2
        panel.text(middle, 1.01, name, transform=spot, ha="center", fontsize=8, color=GREY)
        begin = end
