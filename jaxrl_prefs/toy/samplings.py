"""The picture of BPR's two ways of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.runs.figures import colour, new
from jaxrl_prefs.toy import figures
from jaxrl_prefs.toy.bpr import Curves

LEAST_KL = 1e-7  # what float32 can tell from 0
STYLES = ((colour(0), "-"), (colour(1), "--"))
PANEL, UPPER = 2.1, 2.4  # inches


def draw(
    path: Path,
    curves: Curves,
    rows: Mapping[str, Mapping[str, np.ndarray]],
    axis: np.ndarray,
    title: str = "",
) -> None:
    """Learning curves of two bandits above; samples of the tasks in the plane below.

    Args:
        path: the PNG to write.
        curves: KL from the optimum after each update.
        rows: {distribution: {task: [K, 2]}}.
        axis: the coordinates that bound every panel of the plane.
        title: method, tasks and seed.
    """
    columns = len(next(iter(rows.values())))
    width, lower = max(PANEL * columns + 0.6, 6.0), PANEL * len(rows) + 0.3
    figure = new(width, UPPER + lower)
    figure.set_dpi(figures.DPI)
    figure.suptitle(title, fontsize=10)
    parts: Any = figure.subfigures(2, 1, height_ratios=(UPPER, lower))
    above, below = parts
    bandits = {"four arms": curves.arms, "Gaussian": curves.gaussian}
    for panel, (bandit, found) in zip(above.subplots(1, 2), bandits.items(), strict=True):
        for (sampling, kl), (shade, style) in zip(found.items(), STYLES, strict=True):
            shown = np.maximum(kl, LEAST_KL)
            panel.semilogy(shown, style, color=shade, linewidth=1, label=sampling)
        panel.set_title(f"{bandit}: KL from the optimum", fontsize=9)
        panel.set_ylabel(f"nats, {LEAST_KL:g} or more", fontsize=8)
        panel.set_xlabel("updates", fontsize=8)
        panel.tick_params(labelsize=7, length=2)
        panel.legend(fontsize=7, frameon=False)
    below.supxlabel("first action", fontsize=8)
    below.supylabel("second action", fontsize=8)
    axes = below.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    figures.fill(axes, rows, axis)
    figures.write(figure, path)
