"""The picture of descents over a certainty landscape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.runs.figures import colour
from jaxrl_prefs.toy import figures

WAY, START, END, GOAL = "white", "0.85", colour(1), colour(5)
COLUMNS = 4


def draw(
    path: Path, axis: np.ndarray, descents: Sequence[Any], data: np.ndarray, title: str = ""
) -> None:
    """A panel per descent over the certainty; starts are grey, ends triangles, a goal a star.

    Args:
        path: the PNG to write.
        axis: the coordinates [G], which bound every panel.
        descents: records with `title`, `goal` (a point or None), `path` [T, K, 2] and `height`, the
            certainty on the square of `axis` with itself, [G, G]; rows are the second axis.
        data: actions of the data, [K, 2].
        title: method and seed.
    """
    rows = -(-len(descents) // COLUMNS)
    figure, axes = figures.panels(rows, COLUMNS, size=2.5, title=title)
    shades: Any = None
    for panel, descent in zip(axes.flat, descents, strict=False):
        extent = (axis[0], axis[-1], axis[0], axis[-1])
        shades = panel.imshow(
            descent.height, extent=extent, origin="lower", cmap="viridis", vmin=0, vmax=1
        )
        panel.scatter(*data.T, s=0.8, color="black", alpha=0.35, linewidths=0)
        panel.plot(descent.path[..., 0], descent.path[..., 1], color=WAY, linewidth=0.6, alpha=0.7)
        panel.scatter(*descent.path[0].T, s=3, color=START, linewidths=0, zorder=3)
        panel.scatter(*descent.path[-1].T, s=16, color=END, marker="^", linewidths=0, zorder=4)
        if descent.goal is not None:
            panel.scatter(
                *descent.goal,
                s=70,
                marker="*",
                color=GOAL,
                edgecolors="black",
                linewidths=0.5,
                zorder=5,
            )
        panel.set_title(descent.title, fontsize=8)
        panel.set(xlim=(axis[0], axis[-1]), ylim=(axis[0], axis[-1]), aspect="equal")
        panel.set_xticks([-1, 0, 1])
        panel.set_yticks([-1, 0, 1])
        panel.tick_params(labelsize=7, length=2)
    for panel in axes.flat[len(descents) :]:
        panel.set_axis_off()
    bar = figure.colorbar(shades, ax=axes, fraction=0.02, pad=0.01)
    bar.set_label("certainty M(a)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figures.write(figure, path)
