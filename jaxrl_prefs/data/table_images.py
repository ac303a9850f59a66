"""Images in the columns of a table: which are part of the observation, and what each row shows.

A column of images is uint8 [N, H, W, C] (grey also [N, H, W]), or bytes of PNG or JPEG, an array
[N] of objects. Images of recordings with a frame more than steps are in `Table.whole`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import columns, decoding, images
from jaxrl_prefs.data.columns import LISTED, OBSERVATION, Table
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.errors import DataError

# Columns that are cameras if their names begin so, besides those of observations.
CAMERAS = ("images", "image", "pixels", "rgb")


class Shown(NamedTuple):
    """The images of a table's observation."""

    images: dict[str, Images]  # by camera
    known: np.ndarray  # [N] bool, the frames after the step were recorded
    used: tuple[str, ...]  # columns
    notes: tuple[str, ...]


def is_column(column: np.ndarray) -> bool:
    """Whether a column holds images, as arrays or encoded."""
    return column.dtype.kind == "O" or images.is_image(column)


def plain(table: Table) -> Table:
    """The table without columns of images."""
    kept = {name: x for name, x in table.columns.items() if not is_column(x)}
    return table._replace(columns=kept, whole={})


def chosen(table: Table, keys: Sequence[str]) -> dict[str, str]:
    """The columns of the observation's images, by camera.

    Without `keys`, those whose names begin like an observation's or are `image`, `pixels` and the
    like. A camera is called by what follows that beginning: of `observation.images.top`, by
    `images.top`.

    Raises:
      DataError: if a key names what cannot be read, or two columns are one camera.
    """
    names = [*(name for name, x in table.columns.items() if is_column(x)), *table.whole]
    names = [name for name in names if not any(name in _twins(other) for other in names)]
    bases = keys or (*OBSERVATION, *CAMERAS)
    found: dict[str, str] = {}
    for base in bases:
        for name in names:
            if name in found.values() or not columns.begins(name, base):
                continue
            camera = _camera(name)
            if camera in found:
                raise DataError(f"{table.name}: {found[camera]} and {name} are one camera's")
            found[camera] = name
    return found


def _twins(name: str) -> tuple[str, ...]:
    """What columns of the images after the steps are called."""
    return f"next_{name}", f"next.{name}"


def _camera(name: str) -> str:
    for base in sorted(OBSERVATION, key=len, reverse=True):
        if columns.begins(name, base):
            return (
                re.sub(rf"^[{re.escape(columns.SEPARATORS)}]", "", name[len(base) :])
                or images.ALONE
            )
    return name


def shown(table: Table, cameras: dict[str, str], last: np.ndarray) -> Shown:
    """The images of a table's rows.

    Args:
      table: with the columns.
      cameras: their names by camera, as `chosen` gives them.
      last: [N] bool, the episode ends here.

    Raises:
      DataError: naming a column that is not one of images, or of images that differ in size.
    """
    found: dict[str, Images] = {}
    known, used = np.ones(len(last), bool), [*cameras.values()]
    for camera, name in cameras.items():
        if name in table.whole:
            found[camera] = table.whole[name]
            continue
        after = next((twin for twin in _twins(name) if twin in table.columns), "")
        frames, where = _frames(table, name), f"{table.name}: {name}"
        if after:
            found[camera] = images.paired(where, frames, _frames(table, after))
            used.append(after)
        else:
            found[camera] = images.in_order(frames, last)
            known &= ~last
    return Shown(found, known, tuple(used), tuple(_notes(table, used)))


def _frames(table: Table, name: str) -> np.ndarray:
    column, place = table.columns[name], f"{table.name}: {name}"
    if column.dtype.kind == "O":
        return decoding.decoded(place, column)
    frames = images.with_channels(column)
    images.check_frames(f"{place}: its images", frames)
    return frames


def _notes(table: Table, used: Sequence[str]) -> Iterator[str]:
    spare = [name for name, x in table.columns.items() if is_column(x) and name not in used]
    spare += [name for name in (*table.whole, *table.images) if name not in used]
    if spare:
        yield f"images that are left out: {', '.join(spare[:LISTED])}"


def is_meant(name: str, keys: Sequence[str]) -> bool:
    """Whether a column of images is the observation's, by its name or the user's `keys`."""
    return any(columns.begins(name, base) for base in keys or (*OBSERVATION, *CAMERAS))


def without(table: Table) -> str:
    """What to do to train without the images of a table."""
    return (
        "To train without them, name the columns of the observation: --observation_keys=... "
        + columns.listing(table)
    )


def check_all_named(table: Table, cameras: dict[str, str], keys: Sequence[str]) -> None:
    """Refuses images that nobody chose to leave out: those whose names are not an observation's.

    Raises:
      DataError: naming them, and what to do.
    """
    if keys:
        return
    encoded = [name for name, x in table.columns.items() if x.dtype.kind == "O"]
    taken = {*cameras.values(), *(twin for name in cameras.values() for twin in _twins(name))}
    spare = [name for name in (*encoded, *table.images) if name not in taken]
    if spare:
        raise DataError(
            f"{table.name} holds images ({', '.join(spare[:LISTED])}) whose names do not say that "
            f"they are observed: --observation_keys={spare[0]},... takes them. {without(table)}"
        )


def joined(parts: Sequence[Table]) -> dict[str, Any]:
    """The images with a frame more than steps of several tables, one after the other."""
    return images.joined([part.name for part in parts], [part.whole for part in parts])
