"""Scores that papers published of V-D4RL's own sets: returns of 0 to 1000 as 0 to 100.

A set is known by the folders of V-D4RL's download, `walker_walk/medium/84px`, and by its size; sets
that are made by its recipe have other names, and stand beside nothing. "Mixed" is medium_replay.
The baselines are those of Lu et al. 2023 (arXiv 2206.04779), and ReBRAC's are its own, all as table
5 of ReBRAC's paper (Tarasov et al. 2023, arXiv 2305.09836) prints them; table 3 of BPR's paper has
ours, of nine sets, and repeats the baselines with slips in cheetah-run, medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from jaxrl_prefs.data.readers.vd4rl import ALTERED, TASKS

Scores = dict[str, tuple[float, float | None]]  # by set: mean, standard deviation

QUALITIES = ("random", "medium_replay", "medium", "medium_expert", "expert")
SETS = tuple(f"vd4rl/main/{task}/{quality}" for task in TASKS.values() for quality in QUALITIES)
SIZES = ("64px", "84px")
# Of every set, whichever its quality; some are larger. The sets that are made here have a fifth.
FEWEST = 100_000


def set_of(dataset: str) -> str:
    """The one of SETS whose folder, or a file of it, a dataset's name is; empty if none.

    >>> set_of("downloads/vd4rl_data/main/walker_walk/medium_replay/84px")
    'vd4rl/main/walker_walk/medium_replay'
    >>> set_of("vd4rl/walker-walk-medium-v0")  # made here
    ''
    """
    parts = PurePath(dataset).parts
    if not set(ALTERED) & set(parts):
        for task, quality, size in zip(parts, parts[1:], parts[2:], strict=False):
            name = f"vd4rl/main/{task}/{quality}"
            if name in SETS and size in SIZES:
                return name
    return ""


def _scores(means: Sequence[float], deviations: Sequence[float], sets: Sequence[str]) -> Scores:
    return dict(zip(sets, zip(means, deviations, strict=True), strict=True))


# By the order of SETS: walker-walk, cheetah-run, humanoid-walk.
BASELINES: Mapping[str, Scores] = {
    name: _scores(means, deviations, SETS)
    for name, (means, deviations) in {
        "BC": (
            [2.0, 16.5, 40.9, 47.7, 91.5, 0.0, 25.0, 51.6, 57.5, 67.4, 0.1, 18.8, 13.5, 17.2, 6.1],
            [0.2, 4.3, 3.1, 3.9, 3.9, 0.0, 3.6, 1.4, 6.3, 6.8, 0.0, 4.2, 4.1, 4.7, 3.7],
        ),
        "DrQ+BC": (
            [5.5, 28.7, 46.8, 86.4, 68.4, 5.8, 44.8, 53.0, 50.6, 34.5, 0.1, 15.9, 6.2, 7.0, 2.7],
            [0.9, 6.9, 2.3, 5.6, 7.5, 0.6, 3.6, 3.0, 8.2, 8.3, 0.0, 3.8, 2.4, 2.3, 0.9],
        ),
        "CQL": (
            [14.4, 11.4, 14.8, 56.4, 89.6, 5.9, 10.7, 40.9, 20.9, 61.5, 0.2, 0.1, 0.1, 0.1, 1.6],
            [12.4, 12.4, 16.1, 38.4, 6.0, 8.4, 12.8, 5.1, 5.5, 4.3, 0.1, 0.0, 0.0, 0.0, 0.5],
        ),
        "Offline DV2": (
            [28.7, 56.5, 34.1, 43.9, 4.8, 31.7, 61.6, 17.2, 10.4, 10.9, 0.1, 0.2, 0.2, 0.1, 0.2],
            [13.0, 18.1, 19.7, 34.4, 0.6, 2.7, 1.0, 3.5, 3.5, 3.2, 0.0, 0.1, 0.1, 0.0, 0.1],
        ),
        "LOMPO": (
            [21.9, 34.7, 43.4, 39.2, 5.3, 11.4, 36.3, 16.4, 11.9, 14.0, 0.1, 0.2, 0.1, 0.2, 0.1],
            [8.1, 19.7, 11.1, 19.5, 7.7, 5.1, 13.6, 8.3, 1.9, 3.8, 0.0, 0.0, 0.0, 0.0, 0.0],
        ),
    }.items()
}
REBRAC: Scores = _scores(
    [15.9, 41.6, 52.5, 92.7, 81.4, 12.9, 46.8, 59.0, 58.3, 35.6, 0.1, 16.0, 9.0, 7.8, 2.9],
    [2.3, 8.0, 3.2, 1.3, 10.0, 2.2, 0.7, 0.7, 11.7, 5.3, 0.0, 2.7, 2.3, 2.4, 0.9],
    SETS,
)
BPR: Scores = _scores(
    [45.0, 50.7, 97.4, 45.0, 55.3, 62.7, 18.3, 9.0, 13.3],
    [11.2, 4.1, 1.9, 3.1, 1.2, 8.5, 1.9, 0.8, 4.4],
    [name for name in SETS if name.split("/")[-1] not in ("random", "expert")],
)
