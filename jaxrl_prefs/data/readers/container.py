"""Opens the files that datasets come in. Nothing is ever unpickled; every fault is a DataError."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.errors import DataError

SIZES = "jaxrl_prefs_sizes"  # our own files say how many numbers an observation and an action have
MODEST = 2**28  # bytes; smaller arrays are read without a look at what is stored of them
DENSEST = 2000  # bytes of numbers that one stored byte may stand for; deflate reaches 1032


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Opens an HDF5 file for reading; what h5py finds wrong in it becomes a DataError.

    Arrays are to be read by `array`, which refuses those that lie in other files.
    """
    import h5py

    check_exists(path)
    try:
        with h5py.File(path, "r") as file:
            check_links(path, file)
            yield file
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory: {first_line(fault)}") from fault
    except Exception as fault:  # h5py raises errors of any kind on a damaged file
        raise DataError(_unreadable(path, fault)) from fault


def _unreadable(path: Path, fault: Exception) -> str:
    why = first_line(fault)
    if "unable to lock file" in why:
        return (
            f"{path} is locked: another process has it open, perhaps to write to it. Try again "
            "when it is closed. If nobody writes to it, or its file system has no locks, set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
    if isinstance(fault, PermissionError):
        return f"{path} may not be read: {why}"
    return f"{path} cannot be read, it is not HDF5 or was cut short: {why}"


def json_mapping(path: Path) -> dict[str, Any]:
    """The content of a JSON file. Raises DataError if it is no mapping."""
    check_exists(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        raise DataError(
            f"{path} is damaged: it holds no JSON text ({first_line(fault)})"
        ) from fault
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it holds no mapping")
    return content


def first_line(fault: BaseException) -> str:
    """What a foreign exception says, on one line."""
    lines = str(fault).strip().splitlines()
    return lines[0] if lines else type(fault).__name__


def check_exists(path: Path) -> None:
    """Refuses what is no file, devices and pipes too.

    Raises:
      DataError: naming it.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder where a file should be")
    if not path.is_file():
        raise DataError(f"there is no file {path}")


# --- Sizes and types, before anything is allocated ------------------------------------------------


def check_numbers(place: str, dtype: np.dtype) -> None:
    """Refuses types of which no learner can take the values: text, objects, complex numbers, dates.

    Raises:
      DataError: naming the type.
    """
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise DataError(f"{place} are not numbers but {dtype}")


def check_size(place: str, declared: int, stored: int, remedy: str = "") -> None:
    """Refuses an array that a file declares but does not hold, or that no memory holds.

    Args:
      place: names the array in messages.
      declared: bytes of the array.
      stored: bytes that the file has of it, compressed.
      remedy: what to do where memory is short.

    Raises:
      DataError: with both sizes.
    """
    if declared <= MODEST:
        return
    if declared > DENSEST * stored:
        raise DataError(
            f"{place} declares {declared / 1e9:.3g} GB of numbers, of which the file holds "
            f"{stored} bytes: it is damaged, or was never written"
        )
    free = free_memory()
    if declared > free:
        raise DataError(
            f"{place} takes {declared / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free"
            + remedy
        )


def free_memory() -> int:
    """Bytes; where the system does not tell, all that the machine has."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- HDF5 across files ----------------------------------------------------------------------------


def check_links(path: Path, file: Any, folder: Path | None = None) -> None:
    """Refuses links that leave the dataset's folder, lead nowhere, or lead in a circle.

    Args:
      path: of the file.
      file: the same, opened by h5py.
      folder: the dataset's; by default the one that the file is in.

    Raises:
      DataError: naming the link.
    """
    import h5py

    folder = folder or path.parent
    found: dict[Path, list[bytes]] = {}
    _collect(path, file, folder, found)
    for place, names in found.items():  # no link is followed before all are known to stay inside
        if place == path.resolve():
            _check_targets(path, file, names, folder, found)
        elif names:
            with h5py.File(place, "r") as other:
                _check_targets(place, other, names, folder, found)


def _collect(path: Path, file: Any, folder: Path, found: dict[Path, list[bytes]]) -> None:
    """Notes the soft and external links of a file, and of all files that they lead to."""
    import h5py

    links: list[tuple[bytes, int]] = []

    def note(name: bytes, info: Any) -> None:
        if info.type != h5py.h5l.TYPE_HARD:
            links.append((name, info.type))

    file.id.links.visit(note, info=True)
    found[path.resolve()] = [name for name, _ in links]
    for name, kind in links:
        if kind == h5py.h5l.TYPE_SOFT:
            continue
        if kind != h5py.h5l.TYPE_EXTERNAL:
            raise DataError(f"{path}: the link {_text(name)!r} is of an unknown kind")
        there = _inside(path, file.id.links.get_val(name)[0], folder, f"the link {_text(name)!r}")
        if there not in found:
            with h5py.File(there, "r") as other:
                _collect(there, other, folder, found)


def _check_targets(
    path: Path, file: Any, names: Sequence[bytes], folder: Path, known: Mapping[Path, Any]
) -> None:
    for name in names:
        try:
            there = Path(file[name].file.filename).resolve()
        except (KeyError, RuntimeError, OSError) as fault:
            raise DataError(
                f"{path}: the link {_text(name)!r} leads nowhere, or in a circle: {fault}"
            ) from fault
        if there not in known:
            raise DataError(f"{path}: the link {_text(name)!r} leaves the files of {folder}")


def _inside(path: Path, name: bytes | str, folder: Path, what: str) -> Path:
    """The file that `name` means in the HDF5 file `path`, which must lie in the folder."""
    found = (path.parent / _text(name)).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise DataError(
            f"{path}: {what} leads to {_text(name)!r}, outside of the dataset's folder; files of "
            "this machine are not read on a dataset's word"
        )
    if not found.is_file():
        raise DataError(f"{path}: {what} leads to {_text(name)!r}, which does not exist")
    return found


def _text(name: bytes | str) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name


def array(path: Path, stored: Any) -> np.ndarray:
    """Reads the numbers of a dataset of the HDF5 file `path`.

    Raises:
      DataError: if it is no dataset, holds no numbers, or takes them from outside of its folder.
    """
    import h5py

    if not isinstance(stored, h5py.Dataset):
        raise DataError(f"{path}: {stored.name} holds no array")
    return numbers(path, stored.id, str(stored.name))


def numbers(path: Path, stored: Any, name: str) -> np.ndarray:
    """As `array`, of h5py's DatasetID; half as slow, which shows in thousands of episodes."""
    from h5py import h5d, h5s

    check_stored(path, stored, name)
    place = f"{path}: {name}"
    if stored.get_space().get_simple_extent_type() == h5s.NULL:
        raise DataError(f"{place} is empty: it has no shape")
    shape, dtype = stored.shape, stored.dtype
    check_numbers(place, dtype)
    declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if declared > MODEST:
        whole = stored.get_create_plist().get_layout() == h5d.VIRTUAL  # its sources were checked
        check_size(place, declared, declared if whole else stored.get_storage_size())
    found = np.empty(shape, dtype)
    if found.size:
        stored.read(h5s.ALL, h5s.ALL, found)
    return found


def texts(path: Path, stored: Any) -> list[str]:
    """Reads a list of names from a dataset of the HDF5 file `path`.

    Raises:
      DataError: if it is none.
    """
    import h5py

    if not isinstance(stored, h5py.Dataset) or stored.ndim != 1:
        raise DataError(f"{path}: {stored.name} holds no list of names")
    check_stored(path, stored.id, str(stored.name))
    if h5py.check_string_dtype(stored.dtype) is None:
        raise DataError(f"{path}: {stored.name} holds {stored.dtype}, expected names")
    check_size(f"{path}: {stored.name}", stored.nbytes, stored.id.get_storage_size())
    return [_text(each) for each in stored[()].tolist()]


def check_stored(path: Path, stored: Any, name: str) -> None:
    """Refuses a dataset whose numbers are raw bytes of another file, or missing.

    Args:
      path: of the file that was opened.
      stored: h5py's DatasetID.
      name: of the dataset, for messages.

    Raises:
      DataError: naming the dataset.
    """
    from h5py import h5d

    about = stored.get_create_plist()
    if about.get_external_count():
        other = _text(about.get_external(0)[0])
        raise DataError(
            f"{path}: {name} takes its numbers from the bytes of {other!r} (external storage); "
            "files of this machine are not read on a dataset's word"
        )
    if about.get_layout() == h5d.VIRTUAL:
        _check_virtual(path, stored, name, about)


def _check_virtual(path: Path, stored: Any, name: str, about: Any) -> None:
    """Refuses a virtual dataset that is not whole: HDF5 makes up the numbers that are missing."""
    import h5py

    here = Path(_text(h5py.h5f.get_name(stored)))
    covered = 0
    for part in range(about.get_virtual_count()):
        source = _text(about.get_virtual_filename(part))
        wanted = _text(about.get_virtual_dsetname(part))
        if "%" in source + wanted:
            raise DataError(f"{path}: {name} is a virtual dataset of a pattern of names")
        what = f"{name}, a virtual dataset,"
        there = here if source == "." else _inside(here, source, path.parent, what)
        try:
            last = about.get_virtual_srcspace(part).get_select_bounds()[1]
            covered += about.get_virtual_vspace(part).get_select_npoints()
            with h5py.File(there, "r") as file:
                check_links(there, file, path.parent)
                _check_source(path, file[wanted], last, name)
        except (KeyError, RuntimeError, OSError, ValueError, TypeError) as fault:
            if isinstance(fault, DataError):
                raise
            raise DataError(f"{path}: {name} lacks its source {wanted!r} in {source!r}") from fault
    if covered < int(np.prod(stored.shape, dtype=object)):
        raise DataError(f"{path}: {name} is a virtual dataset with parts that come from nowhere")


def _check_source(path: Path, source: Any, last: Sequence[int], name: str) -> None:
    from h5py import h5d

    about = source.id.get_create_plist()
    if about.get_external_count() or about.get_layout() == h5d.VIRTUAL:
        raise DataError(f"{path}: the source of {name} has no numbers of its own")
    if len(last) != len(source.shape) or any(
        end >= size for end, size in zip(last, source.shape, strict=True)
    ):
        raise DataError(f"{path}: the source of {name} is smaller than what is taken from it")


# --- Arrays of any container ----------------------------------------------------------------------


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
      DataError: for any other shape, and for what are no numbers.
    """
    check_numbers(f"{path}: {name}", array.dtype)
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
    good = np.isin(array, (0, 1))
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(f"{path}: {name} hold other values than 0 and 1: {array[row]} at row {row}")
    return array.astype(bool)


def check_rows(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """The common number of rows.

    Raises:
      DataError: if it is not common, or 0.
    """
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(f"{path}: {name} is a single value, expected one per row")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{path}: arrays of different lengths: {found}")
    count = next(iter(counts.values()))
    if count == 0:
        raise DataError(f"{path}: the dataset has no episodes")
    return count


def matrix(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array with a vector per row, [N, D]; vectors of one real number may be stored as [N].

    Raises:
      DataError: for any other shape, and for what are no numbers.
    """
    check_numbers(f"{path}: {name}", array.dtype)
    if array.ndim == 1 and array.dtype.kind == "f":
        array = array[:, None]
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(
            f"{path}: {name} {array.shape} must have two axes; discrete actions and images are "
            "not supported"
        )
    return array


def check_sizes(path: Path, said: Any, observation: np.ndarray, action: np.ndarray) -> None:
    """Refuses vectors of other sizes than a file of ours says; nothing else shows a lost column.

    Args:
      path: of the file.
      said: what stands under `SIZES`, None if nothing does.
      observation: [N, O].
      action: [N, A].

    Raises:
      DataError: with both.
    """
    if said is None:
        return
    sizes = [observation.shape[1], action.shape[1]]
    if np.asarray(said).tolist() != sizes:
        raise DataError(
            f"{path}: observations and actions have {sizes} numbers, but the file says {said} "
            f"({SIZES}); where they were changed on purpose, change that too"
        )


def check_same_shape(path: Path, first: tuple[str, np.ndarray], other: tuple[str, Any]) -> None:
    """Refuses two arrays of different shapes.

    Raises:
      DataError: naming both.
    """
    if first[1].shape != other[1].shape:
        raise DataError(
            f"{path}: {first[0]} have shape {first[1].shape}, but {other[0]} {other[1].shape}"
        )
