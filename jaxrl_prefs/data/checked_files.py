"""Writes datasets in Minari's layout, with a checksum for every array.

Minari's own writer fills its file in place, and HDF5 ends the process where the disk is full. Here
the file is made in memory and then written like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import roots

FILE = "main_data.hdf5"


class Steps(NamedTuple):
    """One episode of T steps."""

    observations: Any  # [T + 1, ...], or a dict of such arrays
    actions: np.ndarray  # [T, ...]
    rewards: np.ndarray  # [T] float64
    terminations: np.ndarray  # [T] bool
    truncations: np.ndarray  # [T] bool


class Spaces(NamedTuple):
    """Gymnasium's spaces of a dataset, and its EnvSpec or None."""

    observation: Any
    action: Any
    spec: Any


def write(
    folder: Path, spaces: Spaces, about: Mapping[str, Any], episodes: Iterable[Steps]
) -> None:
    """Fills the new folder `folder` with the episodes; `about` is added to Minari's metadata.

    Raises:
      DataError: if the disk has no room for them.
    """
    from minari.dataset.minari_storage import MinariStorage

    image, count, steps = _image(episodes)
    roots.check_space(str(about["dataset_id"]), folder.parent, len(image))
    storage = MinariStorage.new(folder, spaces.observation, spaces.action, spaces.spec)
    (folder / FILE).write_bytes(image)
    size = round(len(image) / 1e6, 1)
    counts = {"total_episodes": count, "total_steps": steps, "dataset_size": size}
    storage.update_metadata({**about, **counts})


def _image(episodes: Iterable[Steps]) -> tuple[bytes, int, int]:
    """The bytes of an HDF5 file, and the numbers of episodes and steps."""
    count = steps = 0
    with in_memory() as file:
        for each in episodes:
            group = file.create_group(f"episode_{count}")
            group.attrs["id"] = count
            group.attrs["total_steps"] = len(each.rewards)
            for name, value in each._asdict().items():
                parts = value if isinstance(value, Mapping) else {"": value}
                for part, array in parts.items():
                    checked(group, f"{name}/{part}".rstrip("/"), array)
            count, steps = count + 1, steps + len(each.rewards)
        file.flush()
        return file.id.get_file_image(), count, steps


def in_memory() -> Any:
    """A new HDF5 file that is not on a disk; `file.id.get_file_image()` gives its bytes."""
    import h5py

    # From version 1.10 on, HDF5 guards its own structures by checksums too.
    memory = {"driver": "core", "backing_store": False, "libver": "v110"}
    return h5py.File("in memory", "w", track_order=True, **memory)


def checked(group: Any, name: str, array: np.ndarray, **options: Any) -> None:
    """Stores an array with checksums (Fletcher-32), which HDF5 compares whenever it is read."""
    array = np.asarray(array)
    if array.size and array.ndim:
        options.setdefault("chunks", "compression" in options or _chunks(array))
        group.create_dataset(name, data=array, fletcher32=True, **options)
    else:
        group.create_dataset(name, data=array)


def _chunks(array: np.ndarray) -> tuple[int, ...]:
    """The whole array in one chunk, as long as HDF5 allows for that."""
    row = max(1, array[:1].nbytes)
    return (min(len(array), max(1, 2**26 // row)), *array.shape[1:])
