"""Opens the files that datasets come in. Nothing is ever unpickled; every fault is a DataError."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.errors import DataError

DAMAGES = (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Opens an HDF5 file for reading; what h5py finds wrong in it becomes a DataError."""
    import h5py

    _check_exists(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except DAMAGES as fault:
        raise DataError(
            f"{path} cannot be read, it is not HDF5 or was cut short: {fault}"
        ) from fault


def npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a numpy archive.

    Raises:
      DataError: if there is no such file, it is no whole archive, or it holds pickled objects.
    """
    _check_exists(path)
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one array, not an archive of named arrays (.npz)")
            return {name: archive[name] for name in archive.files}
    except ValueError as fault:
        if isinstance(fault, DataError):
            raise
        raise DataError(
            f"{path} holds pickled objects or is no numpy archive; objects are never unpickled, "
            "because that would run whatever code they name"
        ) from fault
    except DAMAGES as fault:
        raise DataError(f"{path} cannot be read, it was cut short or damaged: {fault}") from fault


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"there is no file {path}")


def need(path: Path, found: Mapping[str, Any], names: Sequence[str], layout: str) -> None:
    """Refuses a file that lacks one of the `names` of a `layout`.

    Raises:
      DataError: naming what is missing.
    """
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: missing {', '.join(missing)}; {layout} has {', '.join(names)}")


def column(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array with one number per row, [N]; formats also store it as [N, 1].

    Raises:
      DataError: for any other shape.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{path}: {name} have shape {array.shape}, expected one number per row")
    return array


def flags(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """A column of zeros and ones as booleans [N].

    Raises:
      DataError: for another shape, and for other values: NaN too would count as true.
    """
    array = column(path, name, array)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DataError(f"{path}: {name} hold other values than 0 and 1")
    return array.astype(bool)


def check_rows(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """The common number of rows.

    Raises:
      DataError: if it is not common, or 0.
    """
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{path}: arrays of different lengths: {found}")
    count = next(iter(counts.values()))
    if count == 0:
        raise DataError(f"{path}: the dataset has no episodes")
    return count


def matrices(path: Path, *named: tuple[str, np.ndarray]) -> None:
    """Refuses arrays that are not [N, D].

    Raises:
      DataError: naming the shapes.
    """
    if any(array.ndim != 2 for _, array in named):
        found = " and ".join(f"{name} {array.shape}" for name, array in named)
        raise DataError(
            f"{path}: {found} must have two axes; discrete actions and images are not supported"
        )
