"""A figure of means with intervals: a row for each dataset, a mark for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Mean = tuple[float, Sequence[float] | None]


def draw(
    path: Path,
    datasets: Sequence[str],
    columns: Sequence[str],
    means: Mapping[tuple[str, str], Mean],
) -> None:
    """Writes a PNG; cells that are missing from `means` [(dataset, column)] stay blank."""
    from matplotlib.figure import Figure

    step = 0.8 / max(len(columns), 1)
    height = 1.2 + len(datasets) * max(0.5, 0.16 * len(columns))
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    for number, column in enumerate(columns):
        places = [
            (mean, row + step * (number - (len(columns) - 1) / 2), bounds)
            for row, dataset in enumerate(datasets)
            if (dataset, column) in means
            for mean, bounds in [means[dataset, column]]
        ]
        color = f"C{number % 10}"
        for _, at, bounds in places:
            if bounds is not None:
                axes.plot(bounds, [at, at], color=color, linewidth=2, alpha=0.6)
        middles, heights = [mean for mean, _, _ in places], [at for _, at, _ in places]
        axes.plot(middles, heights, "o", markersize=4, color=color, label=column)
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    axes.set_xlabel("score, 95 % bootstrap interval over seeds")
    axes.grid(axis="x", alpha=0.3)
    if columns:
        figure.legend(loc="outside upper center", ncols=min(len(columns), 4), frameon=False)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)  # it may be a link
    figure.savefig(draft, dpi=120, format="png")
    draft.replace(path)
