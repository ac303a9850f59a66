"""Draws the interval plots of the documents from the records in docs/results/.

    python -m docs.plots

A file of results holds `plots`: the name of a picture in docs/figures/, and how it is drawn. `x` is
the field along the axis, evenly spaced; `values` are [label, field] pairs; `where` selects records;
`data` is the data's own score. A layout of `kind` scatter has numbers along the axis, the line of
equal values, and a colour for each value of the field `colour`. The picture keeps a digest of what
it shows, so that a test finds a picture that is older than its data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs import tables

FIGURES = tables.ROOT / "docs" / "figures"
# Okabe and Ito's, for every kind of sight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = ("o", "s", "^", "D")
KEY = "Description"  # of PNG's texts


def plots() -> Iterator[tuple[str, Mapping[str, Any], list[tables.Record]]]:
    """Every picture: its name, its layout, its records."""
    known = tables.files()
    for source in known.values():
        for name, layout in source.get("plots", {}).items():
            records = [
                record
                for record in tables.selected(source, known)
                if all(record.get(key) == value for key, value in layout.get("where", {}).items())
            ]
            yield name, layout, records


def digest(layout: Mapping[str, Any], records: list[tables.Record]) -> str:
    """What a picture shows, as a number."""
    return hashlib.sha256(json.dumps([layout, records], sort_keys=True).encode()).hexdigest()


def draw(path: Path, layout: Mapping[str, Any], records: list[tables.Record]) -> None:
    """Draws one picture, an interval plot or a scatter plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    (_scatter if layout.get("kind") == "scatter" else _intervals)(axes, layout, records)
    axes.set(xlabel=layout["x_label"], ylabel=layout["y_label"], title=layout["title"])
    axes.title.set_fontsize("medium")
    if axes.get_legend_handles_labels()[0]:
        outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        axes.legend(fontsize="small", **(outside if layout.get("kind") == "scatter" else {}))
    figure.savefig(path, dpi=110, metadata={KEY: digest(layout, records), "Software": None})


def _scatter(axes: Any, layout: Mapping[str, Any], records: list[tables.Record]) -> None:
    """A point and its interval for each record."""
    ((_, field),) = layout["values"]
    groups = list(dict.fromkeys(record[layout["colour"]] for record in records))
    for number, group in enumerate(groups):
        mine = [record for record in records if record[layout["colour"]] == group]
        style = {"color": COLOURS[number % 6], "marker": (*MARKS, "v", "P")[number % 6]}
        for record in mine:
            low, high = record[field]["interval"]
            axes.plot([record[layout["x"]]] * 2, [low, high], color=style["color"], alpha=0.25)
        places = [record[layout["x"]] for record in mine]
        means = [record[field]["mean"] for record in mine]
        axes.plot(places, means, label=group, linestyle="none", markersize=5, **style)
    places = [record[layout["x"]] for record in records]
    ends = [min(places), max(places)]
    axes.plot(ends, ends, color="0.4", linestyle="--", linewidth=1, label="equal")


def _intervals(axes: Any, layout: Mapping[str, Any], records: list[tables.Record]) -> None:
    """A point and its interval, or the seeds' own points, at every place."""
    count = len(layout["values"])
    for index, (label, field) in enumerate(layout["values"]):
        shift = 0.12 * (index - (count - 1) / 2)
        named = label if count > 1 else None
        style = {"color": COLOURS[index], "marker": MARKS[index], "linestyle": "none"}
        for place, record in enumerate(records):
            if (value := record.get(field)) is None:
                continue
            if "interval" in value:
                low, high = value["interval"]
                axes.plot([place + shift] * 2, [low, high], color=COLOURS[index], linewidth=1.5)
            middle = [value["mean"]] if "mean" in value else value["seeds"]
            axes.plot([place + shift] * len(middle), middle, label=named, **style)
            named = None  # one entry of the legend
    if "data" in layout:
        axes.axhline(layout["data"], color="0.4", linestyle="--", linewidth=1, label="the data")
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set_xticks(range(len(records)), [tables.shown(record[layout["x"]]) for record in records])
    axes.set_xlim(-0.5, len(records) - 0.5)


def main() -> None:
    """Draws all pictures."""
    for name, layout, records in plots():
        draw(FIGURES / f"{name}.png", layout, records)


if __name__ == "__main__":
    main()
