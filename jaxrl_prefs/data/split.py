"""A split of the data by whole episodes: most are trained on, the others are only measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrl_prefs.data.dataset import PreparedDataset
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.rows import kept
from jaxrl_prefs.types import Spec, Transition


def episode_of(data: Transition) -> np.ndarray:
    """The number of each row's episode, [N] int32; what follows a cut is another episode."""
    goes_on = np.asarray(data.has_next_action) > 0
    return np.cumsum(np.append(0, ~goes_on[:-1])).astype(np.int32)


def held_out(episodes: int, share: float, name: str = "the dataset") -> np.ndarray:
    """Which episodes are held out, [episodes] bool; the same ones for the same numbers.

    At least one is held out, and one is kept.

    >>> held_out(10, 0.2).sum()
    np.int64(2)

    Raises:
        DataError: for a share outside (0, 1), and if there is only one episode.
    """
    if not 0 < share < 1:
        raise DataError(f"--holdout takes a share of at least 0 and below 1, and got {share}")
    if episodes < 2:
        raise DataError(f"--holdout={share}: {name} has one episode, and a split needs two")
    count = min(max(round(share * episodes), 1), episodes - 1)
    chosen = np.random.default_rng(0).permutation(episodes)[:count]
    return np.isin(np.arange(episodes), chosen)


def taken(data: Transition, keep: np.ndarray) -> Transition:
    """The rows `keep` [N] bool, which are whole episodes, numbered anew."""
    rows = np.flatnonzero(keep)
    number = np.cumsum(keep).astype(np.int32) - 1
    found = kept(data, rows)
    numbers: dict[str, Any] = {
        "index": np.arange(len(rows), dtype=np.int32),
        "next_index": number[np.asarray(data.next_index)[rows]],
    }
    return found._replace(**numbers)


def split(dataset: PreparedDataset, share: float) -> PreparedDataset:
    """The dataset with `share` of its episodes moved to `held_out`; unchanged for a share of 0.

    Maps of observations and rewards stay those of all episodes.

    Raises:
        DataError: as `held_out`.
    """
    if not share:
        return dataset
    episode = episode_of(dataset.transitions)
    apart = held_out(int(episode[-1]) + 1, share, dataset.recording.name)[episode]
    trained = taken(dataset.transitions, ~apart)
    return dataset._replace(
        transitions=trained, spec=Spec.of(trained), held_out=taken(dataset.transitions, apart)
    )
