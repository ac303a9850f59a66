"""Reads HDF5 files of no format of its own as tables: arrays of any name, nested in groups.

Either every array has a row for each step, and `obs/joints` is a column of that name; or the file
has a group for each episode, called `episode_0`, `traj_0` or the like.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import images, tables
from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError

EPISODE = re.compile(r"(?P<kind>.*?)_?(?P<number>\d+)")
DEEPEST = 8  # groups inside groups


def read(path: Path) -> Table:
    """Reads the arrays of a file.

    In a group of an episode, arrays of observations may have a row more than those of actions: the
    observation after the last step.

    Raises:
      DataError: if the file is damaged, or holds no arrays.
    """
    with container.hdf5(path) as file:
        groups = _episodes(file)
        if groups is None:
            return Table(str(path), _columns(path, file))
        parts = [_episode(f"{path}: {group.name}", _columns(path, group)) for group in groups]
    full = [part for part in parts if part is not None]
    if not full:
        raise DataError(f"{path}: the dataset has no episodes with steps")
    table = tables.joined(str(path), full)
    empty = len(parts) - len(full)
    note = f"{empty} of {len(parts)} episodes {'has' if empty == 1 else 'have'} no steps: left out"
    return table._replace(name=str(path), notes=(note,) if empty else ())


def _episodes(file: Any) -> list[Any] | None:
    """The groups of episodes by their number; None if the file is one table."""
    while len(file) == 1 and hasattr(inner := file[next(iter(file))], "keys"):
        if EPISODE.fullmatch(str(inner.name).rpartition("/")[2]):
            break
        file = inner
    found = [(EPISODE.fullmatch(name), file[name]) for name in file]
    groups = [(match, group) for match, group in found if match and hasattr(group, "keys")]
    kinds = {match["kind"] for match, _ in groups}
    if not groups or len(kinds) > 1 or len(groups) < len(found):
        return None
    return [group for _, group in sorted(groups, key=lambda each: int(each[0]["number"]))]


def _columns(path: Path, group: Any, prefix: str = "", depth: int = 0) -> dict[str, np.ndarray]:
    """The arrays in a group and below, by their path inside of it; text is left aside."""
    import h5py

    if depth > DEEPEST:
        raise DataError(f"{path}: more than {DEEPEST} groups inside each other")
    found: dict[str, np.ndarray] = {}
    for key in group:
        member, name = group[key], f"{prefix}{key}"
        if isinstance(member, h5py.Group):
            found |= _columns(path, member, f"{name}/", depth + 1)
        elif h5py.check_string_dtype(member.dtype) is None and member.shape:
            found[name] = container.array(path, member)
    return found


def _episode(place: str, columns: dict[str, np.ndarray]) -> Table | None:
    """One episode, its observations split into those before and those after each step.

    Images are kept whole, so that no frame is there twice.
    """
    whole = {}
    sizes = sorted({len(column) for column in columns.values()})
    if not sizes or sizes == [0]:
        return None
    if len(sizes) == 2 and sizes[1] == sizes[0] + 1:
        if not sizes[0]:
            return None
        for name in [name for name, column in columns.items() if len(column) == sizes[1]]:
            column = columns.pop(name)
            if images.is_image(column):
                frames = images.with_channels(column)
                images.check_frames(f"{place}: the images {name!r}", frames)
                whole[name] = images.with_last(frames, np.array([sizes[1]]))
            else:
                columns[name], columns[f"next_{name}"] = column[:-1], column[1:]
    return Table(place, columns, whole=whole)
