"""Stores generated episodes as a Minari dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl_prefs.data import checked_files, roots
from jaxrl_prefs.data.generate.episodes import Episode
from jaxrl_prefs.data.progress import Progress
from jaxrl_prefs.environments.task import Task


class Generated(NamedTuple):
    """Episodes and their provenance."""

    dataset_id: str
    task: Task
    episodes: Sequence[Episode]
    references: tuple[float, float]  # the raw returns that score 0 and 100
    algorithm: str
    description: str


def save(generated: Generated, root: Path, progress: Progress) -> Path:
    """Writes the episodes below `root`; returns the folder with the dataset's `metadata.json`.

    The dataset appears in one step when it is complete (`roots.install`). Minari's own
    `create_dataset_from_buffers` is not used because it writes in place.

    Raises:
      DataError: if the disk has no room for them.
    """
    from importlib.metadata import version

    count = len(generated.episodes)

    def episodes() -> Iterator[checked_files.Steps]:
        for i, each in enumerate(generated.episodes):
            progress(f"storing {generated.dataset_id}", i + 1, count)
            last = np.arange(len(each.reward)) == len(each.reward) - 1
            yield checked_files.Steps(
                observations=each.observation,
                actions=each.action,
                rewards=each.reward,
                terminations=last & each.terminal,
                truncations=last & (not each.terminal),
            )

    def write(folder: Path) -> None:
        env = generated.task.make()
        spaces = checked_files.Spaces(
            env.observation_space, env.action_space, generated.task.spec()
        )
        env.close()
        low, high = generated.references
        about = {
            "dataset_id": generated.dataset_id,
            "minari_version": version("minari"),
            "code_permalink": "jaxrl_prefs.data",
            "author": {"jaxrl_prefs"},
            "algorithm_name": generated.algorithm,
            "description": generated.description,
            "ref_min_score": low,
            "ref_max_score": high,
            "num_episodes_average_score": 100,
        }
        checked_files.write(folder, spaces, about, episodes())

    return roots.install(generated.dataset_id, root, write)
