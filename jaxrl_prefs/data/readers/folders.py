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
from jaxrl_prefs.data.readers import archive, files, lerobot, ogbench
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError

VALIDATION = "-val.npz"  # OGBench keeps episodes for validation beside the others
KINDS = {".tsv": ".csv", ".h5": ".hdf5"}
RECORDS = ".tfrecord"
MOST = 100_000  # files and folders in a dataset


def read(path: Path, env: str = "", hints: Hints | None = None) -> Dataset:
    """Reads a folder with LeRobot's `meta/info.json`, or with files of one kind, in order of names.

    Every file begins a new episode. Files in folders below count too; hidden ones do not.

    Raises:
      DataError: if it holds no files that are read, files of several kinds, or one is damaged.
    """
    hints = hints or Hints()
    if lerobot.is_one(path):
        return lerobot.read(path, env, hints)
    found = _files(path)
    left = [file for file in found if file.name.endswith(VALIDATION)]
    if len(left) == len(found):
        left = []
    found = [file for file in found if file not in left]
    notes = (f"{len(left)} files for validation (*{VALIDATION}) are left out",) if left else ()
    kind = _kind(path, found)
    opened: list[Any]
    if kind == ".npy":
        opened = [archive.folder(place, _in(place, found)) for place in _places(found)]
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


def _places(found: Sequence[Path]) -> list[Path]:
    return sorted({file.parent for file in found})


def _in(place: Path, found: Sequence[Path]) -> list[Path]:
    return [file for file in found if file.parent == place]
