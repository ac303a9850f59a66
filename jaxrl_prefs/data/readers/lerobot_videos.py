"""Videos of LeRobot's datasets: where they are, and which of their frames a row shows.

Until v2.1 each episode has a file. From v3.0 on a file holds many episodes, and `meta/episodes`
tells which file an episode is in, and from when to when. Path patterns of `meta/info.json` are not
followed: files are found where LeRobot's library puts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import images, table_images, videos
from jaxrl_prefs.data.columns import LISTED, Table
from jaxrl_prefs.data.readers import container, parquet
from jaxrl_prefs.errors import DataError

INFO = "meta/info.json"
MANY = ("v3.0",)  # versions with many episodes in a file
CHUNK = 1000  # episodes in a folder, where info.json does not tell
COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")  # videos/CAMERA/...


class _Places(NamedTuple):
    """Where the video of each of E episodes is."""

    files: list[Path]  # [F]
    file: np.ndarray  # [E], which of them
    begin: np.ndarray  # [E], seconds after the beginning of the file


def decoded(path: Path, about: Mapping[str, Any], table: Table, keys: Sequence[str]) -> Table:
    """The table with the videos that the observation may mean as columns, uint8 [N, H, W, 3].

    Args:
      path: the dataset's folder.
      about: its `meta/info.json`.
      table: its rows, with `episode_index` and `timestamp`; videos are named in `table.images`.
      keys: columns of the observation that a user named; without any, videos whose names begin like
        those of observations.

    Raises:
      DataError: if the package for videos is missing, `info.json` does not tell size or rate, a
        file is missing or damaged, or rows and frames do not belong together.
    """
    features = about["features"]
    stored = [name for name in table.images if _about(features.get(name)).get("dtype") == "video"]
    names = [name for name in stored if table_images.is_meant(name, keys)]
    if not names:
        return table
    try:
        videos.package()
    except DataError as fault:
        raise DataError(
            f"{path} holds videos ({', '.join(names[:LISTED])}): {fault}. "
            + table_images.without(table)
        ) from fault
    found = {name: _frames(path, about, table, name) for name in names}
    rest = tuple(name for name in table.images if name not in found)
    return table._replace(columns={**table.columns, **found}, images=rest)


def _about(feature: Any) -> Mapping[str, Any]:
    return feature if isinstance(feature, dict) else {}


def _frames(path: Path, about: Mapping[str, Any], table: Table, name: str) -> np.ndarray:
    """The frame of one camera that each row shows, [N, H, W, 3] uint8."""
    height, width = _size(path, name, about["features"][name])
    fps = _fps(path, about)
    container.need(path, table.columns, ("episode_index", "timestamp"), "LeRobot's format")
    episode = container.column(path, "episode_index", table.columns["episode_index"])
    time = container.column(path, "timestamp", table.columns["timestamp"])
    if episode.dtype.kind not in "iu":
        raise DataError(f"{path}: episode_index are {episode.dtype}, expected whole numbers")
    numbers, which, lengths = np.unique(episode, return_inverse=True, return_counts=True)
    places = _places(path, about, name, numbers, lengths)
    shown = (places.begin[which] + time.astype(np.float64)) * fps
    size = len(episode) * height * width * 3
    container.check_size(f"{path}: {name}, decoded,", size, size)
    frames = images.empty((len(episode), height, width, 3))
    source = places.file[which]
    by_file = np.argsort(source, kind="stable")
    cuts = np.searchsorted(source[by_file], np.arange(len(places.files) + 1)).tolist()
    for place, file in enumerate(places.files):
        rows = by_file[cuts[place] : cuts[place + 1]]
        videos.read(file, fps, rows[_in_order(file, shown[rows], rows)], frames)
    return frames


def _in_order(file: Path, shown: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The order in which the rows of a file show its frames, each of them once.

    Args:
      file: for messages.
      shown: [K], times in frames.
      rows: [K], numbers of the rows, for messages.
    """
    with np.errstate(invalid="ignore"):
        number = np.round(shown)
        off = ~(np.abs(shown - number) < videos.SLACK)
    if off.any():
        first = int(np.argmax(off))
        raise DataError(
            f"{file}: row {rows[first]} falls on frame {shown[first]:.6g}, between two frames: its "
            f"timestamp does not fit the rate of {INFO}"
        )
    order = np.argsort(number, kind="stable")
    wrong = number[order] != np.arange(len(order))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"{file}: row {rows[order][first]} falls on frame {number[order][first]:.0f}, and the "
            f"next frame without a row is {first}: rows or episodes are missing, or there twice"
        )
    return order


# --- What info.json tells -------------------------------------------------------------------------


def _size(path: Path, name: str, feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a camera's frames; some datasets name the channels first."""
    shape, names = feature.get("shape"), feature.get("names")
    more = [_about(feature.get(key)) for key in ("info", "video_info")]
    if any(each.get(f"{base}is_depth_map") for each in more for base in ("", "video.")):
        raise DataError(
            f"{path}: {name} is a video of depths, which is not decoded. Name the columns of the "
            "observation without it: --observation_keys=..."
        )
    sizes = shape if isinstance(shape, list) else []
    if len(sizes) == 3 and all(type(each) is int and each > 0 for each in sizes):
        first = isinstance(names, list) and bool(names) and str(names[0]).startswith("channel")
        if sizes[0] == 3 and (first or sizes[2] != 3):
            return sizes[1], sizes[2]
        if sizes[2] == 3:
            return sizes[0], sizes[1]
    raise DataError(
        f"{path}: {INFO} tells of the shape {str(shape)[:40]} for the video {name}, expected "
        "[height, width, 3]"
    )


def _fps(path: Path, about: Mapping[str, Any]) -> float:
    fps = about.get("fps")
    if not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise DataError(
            f"{path}: {INFO} tells of fps={str(fps)[:20]}, expected the frames per second of its "
            "videos"
        )
    return float(fps)


# --- Files ----------------------------------------------------------------------------------------


def _places(
    path: Path, about: Mapping[str, Any], name: str, numbers: np.ndarray, lengths: np.ndarray
) -> _Places:
    """Where the videos of the episodes `numbers` are, which have `lengths` rows."""
    _check_key(path, name)
    if about.get("codebase_version") in MANY:
        found = _many_in_a_file(path, name, numbers, lengths, _fps(path, about))
    else:
        found = _one_in_a_file(path, name, numbers, about.get("chunks_size", CHUNK))
    for file in found.files:
        if not file.is_file():
            raise DataError(
                f"{path}: there is no video {file.relative_to(path)}: only a part was downloaded"
            )
    return found


def _check_key(path: Path, name: str) -> None:
    """Refuses a camera whose name would lead out of the folder that holds its videos."""
    if name in ("", ".", "..") or any(each in name for each in "/\\\0"):
        raise DataError(
            f"{path}: {INFO} calls a video {name[:80]!r}, which is no name of a folder; files of "
            "this machine are not read on a dataset's word"
        )


def _one_in_a_file(path: Path, name: str, numbers: np.ndarray, size: Any) -> _Places:
    if type(size) is not int or size < 1:
        raise DataError(f"{path}: {INFO} tells of chunks_size={str(size)[:20]}")
    files = [
        path / f"videos/chunk-{number // size:03d}/{name}/episode_{number:06d}.mp4"
        for number in numbers.tolist()
    ]
    return _Places(files, np.arange(len(files)), np.zeros(len(files)))


def _many_in_a_file(
    path: Path, name: str, numbers: np.ndarray, lengths: np.ndarray, fps: float
) -> _Places:
    """Where `meta/episodes` puts the videos of the episodes `numbers`, of `lengths` rows."""
    told = _told(path, name)
    own = told["episode_index"]
    if not np.array_equal(np.sort(own), numbers):
        raise DataError(
            f"{path}: meta/episodes tells of {len(own)} episodes, which are not the {len(numbers)} "
            "that data/ holds: only a part was downloaded"
        )
    order = np.argsort(own)
    chunk, file, begin, end = (told[f"videos/{name}/{key}"][order] for key in COLUMNS)
    with np.errstate(invalid="ignore"):
        differs = ~(np.abs((end - begin) * fps - lengths) < videos.SLACK)
    if differs.any():
        row = int(np.argmax(differs))
        raise DataError(
            f"{path}: meta/episodes puts the video {name} of episode {numbers[row]} at "
            f"{begin[row]:.6g} to {end[row]:.6g} s, and data/ holds {lengths[row]} rows of it, at "
            f"{fps:g} frames per second"
        )
    pairs, which = np.unique(np.stack([chunk, file]), axis=1, return_inverse=True)
    files = [
        path / f"videos/{name}/chunk-{one:03d}/file-{other:03d}.mp4"
        for one, other in pairs.T.tolist()
    ]
    return _Places(files, which.reshape(-1), begin)


def _told(path: Path, name: str) -> dict[str, np.ndarray]:
    """What `meta/episodes` tells of a camera's videos, each [E]."""
    found = sorted((path / "meta/episodes").glob("chunk-*/*.parquet"))
    if not found:
        raise DataError(
            f"{path}: meta/episodes holds no chunk-*/*.parquet: only a part was downloaded"
        )
    wanted = ("episode_index", *(f"videos/{name}/{key}" for key in COLUMNS))
    parts = [parquet.read(file, only=wanted).columns for file in found]
    told = {}
    for key in wanted:
        whole = np.concatenate([container.column(path, key, part[key]) for part in parts])
        if key.endswith("_index") and whole.dtype.kind not in "iu":
            raise DataError(f"{path}: {key} of meta/episodes are {whole.dtype}, no whole numbers")
        told[key] = whole
    return told
