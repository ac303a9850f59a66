"""Figures 4 and 5 of the BDPO paper: generation paths over the values, and the samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.runs.figures import COLOURS as OKABE_ITO
from jaxrl_prefs.runs.figures import new
from jaxrl_prefs.toy.bdpo import Scene

START, END, WAY, POINT = OKABE_ITO[4], OKABE_ITO[1], "0.8", OKABE_ITO[0]
DPI = 110
COLOURS = 128


def draw_paths(
    path: Path, scene: Scene, samples: np.ndarray, axis: np.ndarray, title: str = ""
) -> None:
    """A column per interval of steps, over V_n at its start; the last column holds `samples`.

    Paths go from discs to triangles.

    Args:
        path: the PNG to write.
        scene: paths and landscapes.
        samples: actions of the policy, [K, 2].
        axis: the coordinates [G] of the landscapes, which bound every panel.
        title: method, task and seed.
    """
    columns = len(scene.landscape) + 1
    figure, axes = panels(1, columns, title=title)
    shades: Any = None
    lowest, highest = np.quantile(scene.landscape, (0.02, 0.98))
    for column, (first, last) in enumerate(zip(scene.bounds, scene.bounds[1:], strict=False)):
        panel, way = axes[0, column], scene.path[last : first + 1]
        shades = panel.imshow(
            scene.landscape[column],
            extent=(axis[0], axis[-1], axis[0], axis[-1]),
            origin="lower",
            cmap="viridis",
            vmin=lowest,
            vmax=highest,
            alpha=0.85,
        )
        panel.plot(way[..., 0], way[..., 1], color=WAY, linewidth=0.8, alpha=0.8)
        panel.scatter(*way[-1].T, s=8, color=START, linewidths=0, zorder=3)
        panel.scatter(*way[0].T, s=10, color=END, marker="^", linewidths=0, zorder=4)
        panel.set_title(f"n = {first} to {last}, over $V_{{{first}}}$", fontsize=9)
    _scatter(axes[0, -1], samples)
    axes[0, -1].set_title("samples", fontsize=9)
    _frame(axes, axis)
    bar = figure.colorbar(shades, ax=axes, fraction=0.012, pad=0.01, extend="both")
    bar.ax.tick_params(labelsize=7)
    bar.set_label("$V_n$, cut at its 2nd and 98th percentiles", fontsize=6)
    write(figure, path)


def draw_samples(
    path: Path,
    rows: Mapping[str, Mapping[str, np.ndarray]],
    axis: np.ndarray,
    title: str = "",
) -> None:
    """A column per task, a row per distribution; `rows` is {distribution: {task: [K, 2]}}."""
    figure, axes = panels(len(rows), len(next(iter(rows.values()))), title=title)
    fill(axes, rows, axis)
    write(figure, path)


def fill(axes: np.ndarray, rows: Mapping[str, Mapping[str, np.ndarray]], axis: np.ndarray) -> None:
    """Scatters `rows` {distribution: {task: [K, 2]}} over panels [distributions, tasks]."""
    for line, (title, row) in zip(axes, rows.items(), strict=True):
        for panel, points in zip(line, row.values(), strict=True):
            _scatter(panel, points)
        line[0].set_ylabel(title, fontsize=9)
    for panel, task in zip(axes[0], next(iter(rows.values())), strict=True):
        panel.set_title(task, fontsize=9)
    _frame(axes, axis)


def panels(
    rows: int,
    columns: int,
    *,
    size: float = 2.1,
    title: str = "",
    labels: tuple[str, str] = ("first action", "second action"),
) -> tuple[Any, np.ndarray]:
    """A figure and its panels [rows, columns], squares of `size` inches on common axes."""
    figure = new(size * columns + 0.9, size * rows + 0.6 + 0.3 * bool(title))
    figure.set_layout_engine("compressed")
    figure.set_dpi(DPI)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(labels[0], fontsize=8)
    figure.supylabel(labels[1], fontsize=8)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)


def _scatter(panel: Any, points: np.ndarray) -> None:
    panel.scatter(*points.T, s=1.2, color=POINT, alpha=0.5, linewidths=0)


def _frame(axes: np.ndarray, axis: np.ndarray) -> None:
    """The same square everywhere, with few ticks."""
    for panel in axes.flat:
        panel.set(xlim=(axis[0], axis[-1]), ylim=(axis[0], axis[-1]), aspect="equal")
        panel.set_xticks([-4, -2, 0, 2, 4])
        panel.set_yticks([-4, -2, 0, 2, 4])
        panel.tick_params(labelsize=7, length=2)


def write(figure: Any, path: Path) -> None:
    """Writes a PNG of few colours, a third of the size; never seen half done."""
    from PIL import Image

    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    draft = path.with_name(f".{path.name}")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(draft, format="PNG", optimize=True)
    draft.replace(path)
