"""What all figures share: colours, marks, reference lines, and how a picture is written.

Drawn with matplotlib's object interface. No backend is chosen for the process, so that a notebook's
own figures, and its MPLBACKEND, are left as they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow, faint on white, last.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#E69F00", "#000000", "#F0E442"),
)
MARKERS = "osD^vP*X"
GREY = "0.45"
DPI = 120
FEWEST = 3  # seeds of which a band or an interval is drawn; of fewer, each seed is


def colour(number: int) -> str:
    """The colour of the `number`-th thing of a figure."""
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    """The mark of the `number`-th thing; with its colour unique to 56 things."""
    return MARKERS[number % 7]


def new(width: float, height: float) -> Any:
    """An empty figure, of so many inches."""
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _import_matplotlib() -> None:
    """Imports matplotlib, which fails if MPLBACKEND names a backend that is not installed here.

    A notebook of another installation passes its own on to the programs that it starts.
    """
    chosen = os.environ.get("MPLBACKEND", "")
    package = chosen.removeprefix("module://").split(".")[0]
    absent = chosen.startswith("module://") and importlib.util.find_spec(package) is None
    if absent:
        del os.environ["MPLBACKEND"]
    try:
        importlib.import_module("matplotlib")
    finally:
        if absent:
            os.environ["MPLBACKEND"] = chosen


def save(figure: Any, path: Path) -> None:
    """Writes a PNG so that it is never seen half done."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)  # it may be a link
    figure.savefig(draft, dpi=DPI, format="png")
    draft.replace(path)


def reference_lines(panel: Any, data_score: float | None, *, along: str = "y") -> None:
    """Lines at 0 and at the data's own score, along an axis of scores.

    Args:
        panel: the axes.
        data_score: the mean score of the data's episodes; None draws only the line at 0.
        along: the axis of scores, "x" or "y".
    """
    line = panel.axhline if along == "y" else panel.axvline
    line(0, color=GREY, linewidth=0.8, linestyle=":", label="0", zorder=0)
    if data_score is not None:
        label = f"the data: {data_score:.1f}"
        line(data_score, color=GREY, linewidth=1.2, linestyle="--", label=label, zorder=0)


def score_label(kind: str, episodes: int | None = None) -> str:
    """What an axis of scores says: `normalised score (0-100), mean of 20 episodes`."""
    unit = {"normalised score": " (0-100)", "success rate": " (%)"}.get(kind, "")
    count = f", mean of {episodes} episode{'s' * (episodes != 1)}" if episodes else ""
    return f"{kind}{unit}{count}"


def seeds_label(seeds: Sequence[int]) -> str:
    """The seeds in few letters.

    >>> seeds_label([0, 1, 2, 3]), seeds_label([4]), seeds_label([1, 5])
    ('seeds 0 to 3', 'seed 4', 'seeds 1, 5')
    """
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def joined(names: Iterable[str], most: int = 4) -> str:
    """Names in few letters.

    >>> joined("abcdef", 2)
    'a, b and 4 more'
    """
    found = list(names)
    if len(found) <= most:
        return ", ".join(found)
    return f"{', '.join(found[:most])} and {len(found) - most} more"
