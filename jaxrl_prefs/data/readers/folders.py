"""A dataset in a folder: LeRobot's, or several files of one kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl_prefs.data import tables
from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.joined import joined
from jaxrl_prefs.data.readers import archive, container, files, lerobot, ogbench
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError

VALIDATION = "-val.npz"  # OGBench keeps episodes for validation beside the others
KINDS = {".tsv": ".csv", ".h5": ".hdf5"}
RECORDS = ".tfrecord"
MOST = 100_000  # files and folders in a dataset
MAPPED = "observations and actions stay on the disk, and are read when batches are drawn"
# What reading and preparing a table takes, in sizes of its files (docs/scale.md). Where that is not
# free, files of rows stay on the disk and are mapped.
COPIES = 4


def read(path: Path, env: str = "", hints: Hints | None = None) -> Dataset:
    """Reads a folder with LeRobot's `meta/info.json`, or with files of one kind, in order of names.

    Every file begins a new episode. Files in folders below count too; hidden ones do not. A folder
    of arrays (.npy) that is too large for the memory is mapped into it.

    Raises:
      DataError: if it holds no files that are read, files of several kinds, or one is damaged.
    """
    hints = hints or Hints()
    if lerobot.is_one(path):
        return lerobot.read(path, env, hints)
    found = _files(path)
    left = [file for file in found if file.name.endswith(VALIDATION) or _is_validation(file)]
    if len(left) == len(found):
        left = []
    found = [file for file in found if file not in left]
    notes = (f"{len(left)} files for validation (*{VALIDATION}) are left out",) if left else ()
    kind = _kind(path, found)
    opened: list[Any]
    if kind == ".npy":
        opened, told = _arrays(found, env, hints)
        notes = (*notes, *told)
    elif len(found) == 1:
        single = files.read(str(found[0]), env, hints=hints)
        return single._replace(name=str(path), notes=(*notes, *single.notes))
    else:
        with ogbench.sharing():
            opened = [_opened(file, env, hints) for file in found]
    whole = [each for each in opened if isinstance(each, Table)]
    if len(whole) == len(opened):
        table = tables.joined(str(path), whole)
        dataset = files.of_table(path, table, env, hints)
    elif whole:
        raise DataError(f"{path}: {whole[0].name} is a table, other files there are not")
    else:
        dataset = joined(str(path), opened)
    return dataset._replace(notes=(*notes, *dataset.notes))


def _arrays(found: Sequence[Path], env: str, hints: Hints) -> tuple[list[Any], tuple[str, ...]]:
    """Files of arrays (.npy), by the folders that they are in, and a note if they are mapped.

    A folder is a table, or what an archive of OGBench's was unpacked to.
    """
    size = sum(map(archive.bytes_of_rows, found))
    mapped = COPIES * size > container.free_memory()
    opened: list[Any] = []
    with ogbench.sharing():
        for place in _places(found):
            table = archive.folder(place, _in(place, found), mapped=mapped)
            unpacked = files.is_unpacked_ogbench(place, table, hints)
            opened.append(ogbench.read(place, table.columns, env, hints) if unpacked else table)
    return opened, ((f"its files take {size / 1e9:.3g} GB: {MAPPED}",) if mapped else ())


def _opened(file: Path, env: str, hints: Hints) -> Table | Dataset:
    """A file's table; of a known format, its dataset, which takes less memory than all arrays."""
    found = files.open_file(file, hints)
    return found if isinstance(found, Table) else found(env)


def _files(path: Path) -> list[Path]:
    """The files below a folder in the order of their names, of the endings that are read."""
    found, records, seen = list[Path](), 0, 0
    for place, folders, names in os.walk(path):
        seen += len(names) + len(folders)
        if seen > MOST:
            raise DataError(f"{path} holds more than {MOST:,} files: it is no dataset")
        if "metadata.json" in names:
            raise DataError(f"{path} is no dataset, but {place} is one in Minari's format")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        records += sum(RECORDS in name for name in names)
        found += [
            Path(place, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in files.ENDINGS
        ]
    if records and not found:
        raise DataError(
            f"{path} holds TFRecords (RLDS, TFDS), which are not read, since that takes "
            "TensorFlow: save its episodes with numpy (docs/formats.md has the ten lines)"
        )
    if not found:
        raise DataError(
            f"{path} is no dataset: it has no metadata.json (Minari), no meta/info.json (LeRobot), "
            f"and no files ending in {', '.join(files.ENDINGS)}"
        )
    return sorted(found)


def _kind(path: Path, found: Sequence[Path]) -> str:
    kinds = [KINDS.get(file.suffix.lower(), file.suffix.lower()) for file in found]
    if len(set(kinds)) > 1:
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        raise DataError(
            f"{path} holds files of several kinds ({counts}): keep those of one kind in a folder"
        )
    return kinds[0]


def _is_validation(file: Path) -> bool:
    """Whether it is an array of such a file that was unpacked."""
    return file.suffix == ".npy" and f"{file.parent.name}.npz".endswith(VALIDATION)


def _places(found: Sequence[Path]) -> list[Path]:
    return sorted({file.parent for file in found})


def _in(place: Path, found: Sequence[Path]) -> list[Path]:
    return [file for file in found if file.parent == place]
