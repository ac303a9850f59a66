"""Opens numpy's archives of named arrays (.npz) and single arrays (.npy). Nothing is unpickled."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import MappedRows

MAGIC = b"\x93NUMPY"
ZIP = b"PK"
UNPACKED = (
    ": unpack the file (python -m zipfile -e FILE FOLDER), since a folder of arrays may be larger "
    "than the memory"
)
IMAGE_AXES = 3  # uint8 arrays with so many are images: [N, H, W], or [N, H, W, C]


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a numpy archive.

    Sizes are checked before anything is allocated. The archive's own checksum (CRC-32) is compared
    for every array.

    Raises:
      DataError: if there is no such file, it is no whole archive, or it holds pickled objects.
    """
    container.check_exists(path)
    try:
        with path.open("rb") as file:
            _check_kind(path, file.read(len(MAGIC)))
            with zipfile.ZipFile(file) as archive:
                return _arrays(path, archive)
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory") from fault
    except Exception as fault:  # zipfile and numpy raise errors of any kind on a damaged file
        why = container.first_line(fault)
        raise DataError(f"{path} cannot be read, it was cut short or damaged: {why}") from fault


def table(path: Path) -> Table:
    """The arrays of an archive as a table.

    Raises:
      DataError: as `read`.
    """
    return Table(str(path), read(path))


def read_array(path: Path, *, mapped: bool = False) -> Any:
    """Reads a file of one array (.npy). Images are mapped into memory, and read when they are used.

    With `mapped`, so are rows of numbers [N, D], D > 1, as `MappedRows`.

    Raises:
      DataError: if there is no such file, it is damaged, or it holds pickled objects.
    """
    container.check_exists(path)
    try:
        with path.open("rb") as file:
            shape, by_column, dtype = _header(str(path), file)
            if dtype.hasobject:
                raise DataError(
                    f"{path} holds pickled objects, which are never unpickled, because that would "
                    "run whatever code they name"
                )
            declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
            held = path.stat().st_size - file.tell()
            if declared != held:
                raise DataError(
                    f"{path} declares {declared} bytes, but {held} are there: the file was cut "
                    "short or is still being written; copy or write it again"
                )
            is_images = dtype == np.uint8 and len(shape) >= IMAGE_AXES
            if is_images or (mapped and _is_rows(shape, dtype)):
                if by_column:  # to take some rows, numpy would copy the whole file
                    raise DataError(
                        f"{path} is stored column by column (Fortran order), so that its rows "
                        "cannot be read by themselves; save it again with np.ascontiguousarray"
                    )
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
                return rows if is_images else MappedRows((rows,))
            container.check_size(str(path), declared, held)
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory") from fault
    except OSError as fault:
        if fault.errno != errno.EMFILE:
            raise DataError(f"{path} cannot be read: {container.first_line(fault)}") from fault
        raise DataError(
            f"{path} cannot be opened, because this process has as many files open as it may, and "
            "each mapped one counts: join parts of the dataset, or raise the limit (ulimit -n)"
        ) from fault
    except Exception as fault:
        why = container.first_line(fault)
        raise DataError(f"{path} cannot be read, it was cut short or damaged: {why}") from fault


def structured(path: Path) -> Table:
    """A file of one array (.npy) whose type names its columns.

    Raises:
      DataError: as `read_array`, and if the array has no such type.
    """
    array = read_array(path)
    if array.dtype.names is None or array.ndim != 1:
        raise DataError(
            f"{path} holds one array {array.shape} without names of columns: save named arrays "
            "(numpy.savez), or name the folder with observations.npy, actions.npy and so on"
        )
    return Table(str(path), {name: array[name] for name in array.dtype.names})


def folder(path: Path, files: Sequence[Path], *, mapped: bool = False) -> Table:
    """Files of one array each (.npy), which are the columns of a table; `mapped` as `read_array`.

    Raises:
      DataError: as `read_array`.
    """
    return Table(str(path), {file.stem: read_array(file, mapped=mapped) for file in files})


def bytes_of_rows(path: Path) -> int:
    """What a file of one array (.npy) would take in memory; 0 if it would be mapped anyway.

    Raises:
      DataError: if its header is damaged.
    """
    container.check_exists(path)
    with path.open("rb") as file:
        shape, _, dtype = _header(str(path), file)
    is_images = dtype == np.uint8 and len(shape) >= IMAGE_AXES
    return 0 if is_images else path.stat().st_size


def _is_rows(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether an array holds rows of several numbers: a column [N] takes little, and is read."""
    numbers = dtype.kind in "biuf" and dtype.subdtype is None
    return numbers and len(shape) == 2 and shape[0] > 0 and shape[1] > 1


def _check_kind(path: Path, start: bytes) -> None:
    if start == MAGIC:
        raise DataError(f"{path} holds one array, not an archive of named arrays (.npz)")
    if not start.startswith(ZIP):
        raise DataError(
            f"{path} is no numpy archive; objects are never unpickled, because that would run "
            "whatever code they name"
        )


def _arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    found: dict[str, np.ndarray] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise DataError(f"{path} holds two arrays of the name {name!r}")
        found[name] = _array(f"{path}: {name}", archive, member)
    return found


def _array(place: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, after its header was compared with the size of what follows it."""
    with archive.open(member) as stream:
        shape, _, dtype = _header(place, stream)
        if dtype.hasobject:
            raise DataError(
                f"{place} holds pickled objects, no array of numbers in an archive; objects are "
                "never unpickled, because that would run whatever code they name"
            )
        declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
        held = member.file_size - stream.tell()
        if declared != held:
            raise DataError(f"{place} declares {declared} bytes, but {held} are there")
        container.check_size(place, declared, member.compress_size, UNPACKED)
    with archive.open(member) as stream:
        array = npy.read_array(stream, allow_pickle=False)
        stream.read(1)  # at the end, zipfile compares the checksum
    return array


def _header(place: str, stream: Any) -> tuple[Any, ...]:
    """Shape, order and type of an array, which the start of its file says."""
    readers: dict[Any, Any] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    try:
        version = npy.read_magic(stream)
        return readers[version](stream)
    except Exception as fault:  # numpy parses the header as a Python literal: any error may come
        why = container.first_line(fault)
        raise DataError(f"{place} is no array: its header is damaged ({why})") from fault
