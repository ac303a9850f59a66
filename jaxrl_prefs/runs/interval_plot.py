"""A figure of means with intervals: a row for each dataset, a mark for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_prefs.runs import figures
from jaxrl_prefs.runs.figures import FEWEST, GREY

Mean = tuple[float, Sequence[float] | None]
Cell = tuple[str, str]  # (dataset, column)


def draw(
    path: Path,
    datasets: Sequence[str],
    columns: Sequence[str],
    means: Mapping[Cell, Mean],
    *,
    scores: Mapping[Cell, Sequence[float]] | None = None,
    data_scores: Mapping[str, float] | None = None,
    label: str = "score",
    title: str = "",
) -> None:
    """Writes a PNG; cells that are missing from `means` stay blank.

    Args:
        path: the PNG to write.
        datasets: the rows, from above.
        columns: the marks, in this order within a row.
        means: a mean and its interval (None: one seed) by (dataset, column).
        scores: every seed's score; cells of two seeds or fewer show them in place of the interval.
        data_scores: the data's own score by dataset.
        label: what a score is, for the axis.
        title: set above.
    """
    step = 0.8 / max(len(columns), 1)
    height = 1.6 + len(datasets) * max(0.5, 0.18 * len(columns))
    figure = figures.new(8, height)
    axes = figure.add_subplot()
    for row, dataset in enumerate(datasets):
        if data_scores and dataset in data_scores:
            ends, name = [row - 0.45, row + 0.45], None if row else "the data's own score"
            axes.plot([data_scores[dataset]] * 2, ends, color=GREY, linestyle="--", label=name)
        if row:
            axes.axhline(row - 0.5, color="0.9", linewidth=0.8)
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":", label="0")
    for number, column in enumerate(columns):
        places = {
            (dataset, column): row + step * (number - (len(columns) - 1) / 2)
            for row, dataset in enumerate(datasets)
            if (dataset, column) in means
        }
        _draw_column(axes, number, column, places, means, scores or {})
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figures.save(figure, path)


def _draw_column(
    axes: Any,
    number: int,
    column: str,
    places: Mapping[Cell, float],
    means: Mapping[Cell, Mean],
    scores: Mapping[Cell, Sequence[float]],
) -> None:
    colour, marker = figures.colour(number), figures.marker(number)
    for cell, at in places.items():
        bounds, each = means[cell][1], scores.get(cell, ())
        if each and len(each) < FEWEST:
            axes.plot(each, [at] * len(each), "|", color=colour, markersize=8)
        elif bounds is not None:
            axes.plot(bounds, [at, at], color=colour, linewidth=2, alpha=0.6)
    middles = [means[cell][0] for cell in places]
    heights = list(places.values())
    axes.plot(
        middles, heights, linestyle="", marker=marker, markersize=5, color=colour, label=column
    )
