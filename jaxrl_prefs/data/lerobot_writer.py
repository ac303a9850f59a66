"""Writes a Dataset as LeRobot's, v3.0. Needs pyarrow.

The columns are `observation.state`, `action`, `next.reward`, `next.done`, and those of LeRobot's
own bookkeeping. Three more keep what LeRobot has no place for, and are ignored by its policies:
`next.observation.state`, `next.terminated` and `next.truncated`. Bounds of the actions and names of
the dimensions lie in `meta/jaxrl_prefs.json`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import layout, roots
from jaxrl_prefs.data.readers import parquet
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError

VERSION = "v3.0"
LARGEST = 9 * 10**7  # bytes of numbers in a file; LeRobot's limit for a file is 100 MB
CHUNK = 1000  # files in a folder
FPS = 10  # where the data name no times
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VECTORS = ("observation.state", "action", "next.observation.state")


def write(recording: Dataset, path: Path, episodes: list[slice]) -> None:
    """Writes the episodes to the new folder `path`, which appears when it is complete.

    Raises:
      DataError: if terminals lie inside episodes, which LeRobot's format cannot say; if the disk
        has no room.
      FileExistsError: if there is something at `path`.
    """
    inside = recording.continues & recording.terminal
    if inside.any():
        raise DataError(
            f"{recording.name}: {inside.sum()} terminals lie inside episodes, which LeRobot's "
            "format cannot say; take OGBench's"
        )
    pq = parquet.package()
    if path.exists():
        raise FileExistsError(errno.EEXIST, "it exists already", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _columns(recording, episodes)
    size = sum(column.nbytes for column in columns.values())
    roots.check_space(str(path), path.parent, size)
    draft = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        places = list(_files(columns, episodes))
        for place, rows in places:
            file = draft / place
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_table(columns, rows), file, write_page_checksum=True)
        _write_meta(pq, draft, recording, columns, episodes, places)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _columns(recording: Dataset, episodes: list[slice]) -> dict[str, np.ndarray]:
    sizes = [rows.stop - rows.start for rows in episodes]
    frame = np.concatenate([np.arange(size) for size in sizes])
    last = np.logical_not(recording.continues)
    return {
        "observation.state": recording.observation,
        "action": recording.action,
        **({"next.reward": recording.reward} if recording.has_rewards else {}),
        "next.done": last,
        "next.terminated": recording.terminal,
        "next.truncated": last & ~recording.terminal,
        "next.observation.state": recording.next_observation,
        "timestamp": (frame / _fps(recording)).astype(np.float32),
        "frame_index": frame.astype(np.int64),
        "episode_index": np.repeat(np.arange(len(sizes)), sizes).astype(np.int64),
        "index": np.arange(recording.size, dtype=np.int64),
        "task_index": np.zeros(recording.size, np.int64),
    }


def _fps(recording: Dataset) -> int:
    """Steps per second by the recorded times."""
    if recording.time is None or not recording.continues.any():
        return FPS
    steps = np.diff(recording.time)[recording.continues[:-1]]
    middle = float(np.median(steps))
    return max(1, round(1 / middle)) if 0 < middle < np.inf else FPS


def _files(columns: dict[str, np.ndarray], episodes: list[slice]) -> Iterator[tuple[str, slice]]:
    """Where each stretch of rows is written; an episode is never split."""
    width = sum(column[:1].nbytes for column in columns.values())
    first = number = 0
    for place, rows in enumerate(episodes):
        ends = place + 1 == len(episodes)
        if ends or (episodes[place + 1].stop - first) * width > LARGEST:
            chunk, file = divmod(number, CHUNK)
            yield DATA.format(chunk_index=chunk, file_index=file), slice(first, rows.stop)
            first, number = rows.stop, number + 1


def _table(columns: dict[str, np.ndarray], rows: slice) -> Any:
    import pyarrow as pa

    arrays = {}
    for name, column in columns.items():
        part = np.ascontiguousarray(column[rows])
        flat = pa.array(part.reshape(-1))
        wide = part.ndim == 2 and part.shape[1] > 1
        arrays[name] = pa.FixedSizeListArray.from_arrays(flat, part.shape[1]) if wide else flat
    return pa.table(arrays)


def _write_meta(
    pq: Any,
    root: Path,
    recording: Dataset,
    columns: dict[str, np.ndarray],
    episodes: list[slice],
    places: list[tuple[str, slice]],
) -> None:
    import pyarrow as pa

    names = {
        "observation.state": recording.observation_names,
        "next.observation.state": recording.observation_names,
        "action": recording.action_names,
    }
    features = {
        name: {
            "dtype": str(column.dtype),
            "shape": [column.shape[1] if column.ndim == 2 else 1],
            "names": list(names.get(name, ())) or None,
        }
        for name, column in columns.items()
    }
    task = f"recorded in {Path(recording.name).name}"
    about = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(episodes),
        "total_frames": recording.size,
        "total_tasks": 1,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": _fps(recording),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA,
        "video_path": None,
        "features": features,
    }
    _json(root / "meta/info.json", about)
    _json(root / "meta/stats.json", {name: _stats(each) for name, each in columns.items()})
    _json(root / "meta/jaxrl_prefs.json", {"layout": layout.to_json(layout.of(recording))})
    (root / EPISODES).parent.mkdir(parents=True)
    pq.write_table(_episode_table(pa, episodes, places, task), root / EPISODES)
    pq.write_table(_task_table(pa, task), root / "meta/tasks.parquet")


def _episode_table(
    pa: Any, episodes: list[slice], places: list[tuple[str, slice]], task: str
) -> Any:
    stops = [rows.stop for _, rows in places]
    numbers = np.searchsorted(stops, [rows.start for rows in episodes], side="right")
    count = len(episodes)
    whole: dict[str, Any] = {
        "episode_index": np.arange(count),
        "tasks": [[task]] * count,
        "length": np.array([rows.stop - rows.start for rows in episodes]),
        "data/chunk_index": numbers // CHUNK,
        "data/file_index": numbers % CHUNK,
        "dataset_from_index": np.array([rows.start for rows in episodes]),
        "dataset_to_index": np.array([rows.stop for rows in episodes]),
        "meta/episodes/chunk_index": np.zeros(count, np.int64),
        "meta/episodes/file_index": np.zeros(count, np.int64),
    }
    return pa.table(whole)


def _task_table(pa: Any, task: str) -> Any:
    """A table that pandas reads with the task as its index, as LeRobot looks tasks up."""
    index = "__index_level_0__"
    types = {"task_index": "int64", index: "unicode"}
    about = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {
                "name": None if name == index else name,
                "field_name": name,
                "pandas_type": kind,
                "numpy_type": "object" if kind == "unicode" else kind,
                "metadata": None,
            }
            for name, kind in types.items()
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": np.zeros(1, np.int64), index: [task]})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _stats(column: np.ndarray) -> dict[str, list[Any]]:
    rows = column.reshape(len(column), -1).astype(np.float64)
    whole = {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        **{f"q{100 * q:02.0f}": np.quantile(rows, q, axis=0) for q in (0.01, 0.1, 0.5, 0.9, 0.99)},
    }
    return {key: value.tolist() for key, value in whole.items()} | {"count": [len(rows)]}


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
