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
    except DAMAGES as fault:
        raise DataError(
            f"{path} cannot be read, it is not HDF5 or was cut short: {fault}"
        ) from fault


def npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a numpy archive.

    Raises:
      DataError: if there is no such file, it is no whole archive, or it holds pickled objects.
    """
    check_exists(path)
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


def check_exists(path: Path) -> None:
    """Refuses what is no file, devices and pipes too.

    Raises:
      DataError: naming it.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")


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
    """Reads a dataset of the HDF5 file `path`.

    Raises:
      DataError: if it is no dataset, or its numbers lie outside of the dataset's folder.
    """
    import h5py

    if not isinstance(stored, h5py.Dataset):
        raise DataError(f"{path}: {stored.name} holds no array")
    check_stored(path, stored.id, str(stored.name))
    return stored[()]


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
