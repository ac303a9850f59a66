"""The health of a dataset as a picture, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import health
from jaxrl_prefs.data.recording import Dataset

POINTS = 4000  # states that are drawn
BINS = 40
SHOWN = 12  # actions that are drawn


def draw(dataset: Dataset, figure: Any) -> None:
    """Draws six panels on an empty figure of matplotlib."""
    panels = figure.subplots(2, 3).ravel().tolist()
    _bars(panels[0], dataset.lengths, "steps in an episode", "episodes")
    if dataset.has_rewards:
        _bars(panels[1], dataset.reward, "reward", "steps")
        panels[1].set_yscale("log")
        _bars(panels[2], dataset.returns, "return", "episodes")
    else:
        for panel in panels[1:3]:
            panel.text(0.5, 0.5, "no rewards", ha="center", va="center")
            panel.set_axis_off()
    _actions(panels[3], dataset)
    _bounds(panels[4], dataset)
    _states(panels[5], dataset)
    figure.suptitle(Path(dataset.name).name)


def _bars(panel: Any, values: np.ndarray, what: str, of: str) -> None:
    panel.hist(values, bins=BINS, color="tab:blue")
    panel.set_xlabel(what)
    panel.set_ylabel(of)


def _actions(panel: Any, dataset: Dataset) -> None:
    """A histogram of each action within its bounds, one above the other."""
    names = health.labels(dataset, "action")[:SHOWN]
    width = np.maximum(dataset.action_high - dataset.action_low, 1e-12)
    parts = (dataset.action - dataset.action_low) / width
    for place, _ in enumerate(names):
        counts, edges = np.histogram(parts[:, place], BINS, (0, 1))
        low = np.full(BINS, float(place))
        panel.fill_between(edges[:-1], low, low + 0.9 * counts / max(1, counts.max()), step="post")
    panel.set_yticks(np.arange(len(names)) + 0.4, names, fontsize="small")
    panel.set_xlabel("actions, from the lower to the upper bound")


def _bounds(panel: Any, dataset: Dataset) -> None:
    names = health.labels(dataset, "action")[:SHOWN]
    panel.barh(np.arange(len(names)), 100 * health.at_bounds(dataset)[:SHOWN], color="tab:orange")
    panel.set_yticks(np.arange(len(names)), names, fontsize="small")
    panel.set_xlim(0, 100)
    panel.set_xlabel("percent of actions at a bound")


def _states(panel: Any, dataset: Dataset) -> None:
    """States on their first two principal axes, with the ends of episodes."""
    if not dataset.observation.shape[1]:
        panel.text(0.5, 0.5, "no vector: observations are images", ha="center", va="center")
        panel.set_axis_off()
        return
    size = min(2, dataset.observation.shape[1])
    where = health.projected(dataset.observation, size)[0]
    if size == 1:
        where = np.column_stack([where[:, 0], np.arange(len(where))])
    chosen = np.random.default_rng(0).permutation(len(where))[:POINTS]
    panel.plot(*where[chosen].T, ".", markersize=2, color="tab:gray", label="states")
    last = ~dataset.continues
    for kind, rows, colour in (
        ("terminals", last & dataset.terminal, "tab:red"),
        ("cuts", last & ~dataset.terminal, "tab:blue"),
    ):
        panel.plot(*where[rows][:POINTS].T, ".", markersize=4, color=colour, label=kind)
    panel.set_xlabel("first principal axis of the states")
    panel.set_ylabel("second" if size == 2 else "row")
    panel.legend(fontsize="small", loc="best")
