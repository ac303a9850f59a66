"""Aggregates over datasets as rliable defines them (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from jaxrl_prefs.errors import ConfigError

TITLE = "interquartile mean over datasets and seeds, 95 % stratified bootstrap interval"
DRAWS = 2_000  # of the bootstrap


def iqm(
    scores: Mapping[str, np.ndarray], draws: int = DRAWS, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """The interquartile mean of scores [seeds, datasets], and its interval, of every column.

    The bootstrap draws seeds anew within each dataset. Raises ConfigError without rliable.
    """
    try:
        from rliable import library, metrics
    except ImportError as fault:
        raise ConfigError(
            "aggregates need rliable, with pandas below 3: pip install 'jaxrl_prefs[aggregate]'"
        ) from fault
    with warnings.catch_warnings():  # of arch, about the generator that rliable hands it
        warnings.simplefilter("ignore", FutureWarning)
        means, bounds = library.get_interval_estimates(
            dict(scores),
            lambda drawn: np.array([metrics.aggregate_iqm(drawn)]),
            reps=draws,
            random_state=np.random.RandomState(seed),
        )
    return {
        name: (float(means[name][0]), float(bounds[name][0, 0]), float(bounds[name][1, 0]))
        for name in scores
    }


def iqm_table(scores: Mapping[str, np.ndarray], datasets: int) -> list[list[str]]:
    """As a table with its head; columns that lack a dataset are not in `scores`, nor here."""
    found = iqm(scores) if scores else {}
    body = [
        [name, f"{mean:.1f} ({low:.1f} to {high:.1f})"] for name, (mean, low, high) in found.items()
    ]
    return [["column", f"IQM of {datasets} datasets"], *body]
