"""Stores generated episodes as a Minari dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl_prefs.data import roots
from jaxrl_prefs.data.progress import Progress
from jaxrl_prefs.data.task import Task


class Generated(NamedTuple):
    """Episodes of T steps, each with a T of its own, and their provenance."""

    dataset_id: str
    task: Task
    observation: np.ndarray | Sequence[np.ndarray]  # each [T + 1, O] float32
    action: np.ndarray | Sequence[np.ndarray]  # each [T, A] float32
    reward: np.ndarray | Sequence[np.ndarray]  # each [T] float64
    references: tuple[float, float]  # the raw returns that score 0 and 100
    algorithm: str
    description: str
    terminal: Sequence[bool] = ()  # the episode ended by itself; () says none did


def save(generated: Generated, root: Path, progress: Progress) -> Path:
    """Writes the episodes below `root`; returns the folder with the dataset's `metadata.json`.

    The dataset appears in one step when it is complete (`roots.install`). Minari's own
    `create_dataset_from_buffers` is not used because it writes in place.
    """
    from importlib.metadata import version

    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    count = len(generated.reward)

    def episodes() -> Iterator[minari.data_collector.EpisodeBuffer]:
        for i in range(count):
            last = np.arange(len(generated.reward[i])) == len(generated.reward[i]) - 1
            over = bool(generated.terminal and generated.terminal[i])
            progress(f"storing {generated.dataset_id}", i + 1, count)
            yield EpisodeBuffer(
                observations=generated.observation[i],
                actions=generated.action[i],
                rewards=generated.reward[i],
                terminations=last & over,
                truncations=last & (not over),
            )

    def write(folder: Path) -> None:
        env = generated.task.make()
        storage = MinariStorage.new(
            folder, env.observation_space, env.action_space, generated.task.spec()
        )
        env.close()
        low, high = generated.references
        storage.update_metadata(
            {
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
        )
        storage.update_episodes(episodes())

    return roots.install(generated.dataset_id, root, write)
