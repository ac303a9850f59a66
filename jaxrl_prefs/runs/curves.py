"""Learning curves of a run as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.runs import statistics

PHASE_COLOUR = "0.6"


def draw(
    path: Path, evaluations: Iterable[Mapping[str, Any]], metrics: Iterable[Mapping[str, Any]]
) -> None:
    """Draws learning curves: scores of every policy, then every metric.

    Lines are means over seeds. Bands are 95 % bootstrap intervals of scores, and the range over
    seeds of metrics. Grey lines part the phases.
    """
    # Without pyplot: which backend a notebook or the shell has chosen is no matter of a file's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored, measured = list(evaluations), list(metrics)
    panels = _panels(scored, measured)
    wide = min(4, len(panels)) or 1
    tall = math.ceil(len(panels) / wide) or 1
    figure = Figure(figsize=(4 * wide, 3 * tall))
    FigureCanvasAgg(figure)
    axes = figure.subplots(tall, wide, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    ends = _phase_ends(measured)
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for label, (steps, low, middle, high) in lines.items():
            marker = "o" if len(steps) == 1 else ""
            axis.plot(steps, middle, marker=marker, label=label)
            axis.fill_between(steps, low, high, alpha=0.25)
        for end in ends[:-1]:
            axis.axvline(end, color=PHASE_COLOUR, linewidth=0.8, linestyle="--")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("updates", fontsize=8)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    figure.tight_layout()
    draft = path.with_name(f".{path.name}")
    figure.savefig(draft, dpi=120, format="png")
    draft.replace(path)


Line = tuple[list[int], list[float], list[float], list[float]]  # steps, low, middle, high


def _panels(
    evaluations: list[Mapping[str, Any]], metrics: list[Mapping[str, Any]]
) -> dict[str, dict[str, Line]]:
    """Returns {title: {label: line}}."""
    panels: dict[str, dict[str, Line]] = {}
    for policy in dict.fromkeys(row["policy"] for row in evaluations):
        own = [row for row in evaluations if row["policy"] == policy]
        points = _by_step((row["step"], row["score"]) for row in own if row["score"] is not None)
        bands = {
            step: statistics.interval(values) or (values[0], values[0])
            for step, values in points.items()
        }
        panels.setdefault("score", {})[policy] = (
            list(points),
            [bands[step][0] for step in points],
            [float(np.mean(values)) for values in points.values()],
            [bands[step][1] for step in points],
        )
    names = dict.fromkeys(name for row in metrics for name in row["metrics"])
    for name in names:
        points = _by_step(
            (row["step"], row["metrics"][name])
            for row in metrics
            if row["metrics"].get(name) is not None
        )
        panels[name] = {
            name: (
                list(points),
                [min(values) for values in points.values()],
                [float(np.mean(values)) for values in points.values()],
                [max(values) for values in points.values()],
            )
        }
    return panels


def _by_step(pairs: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    grouped: dict[int, list[float]] = {}
    for step, value in pairs:
        grouped.setdefault(step, []).append(value)
    return grouped


def _phase_ends(metrics: list[Mapping[str, Any]]) -> list[int]:
    ends = {row["phase"]: row["step"] for row in metrics}
    return list(ends.values())
