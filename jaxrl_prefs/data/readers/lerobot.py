"""Reads LeRobot's datasets, v2.0 to v3.0: `meta/info.json` and Parquet files below `data`.

v3.0 keeps many episodes in a file, the versions before an episode in each. The path patterns in
`meta/info.json` are not followed: files are found where both versions put them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import layout, tables
from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.readers import container, files, lerobot_videos, parquet
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError

INFO = lerobot_videos.INFO
OURS = "meta/jaxrl_prefs.json"  # bounds and names, of datasets that we wrote
VERSIONS = ("v2.0", "v2.1", "v3.0")


def is_one(path: Path) -> bool:
    """Whether a folder is a LeRobot dataset."""
    return (path / INFO).is_file()


def read(path: Path, env: str = "", hints: Hints | None = None) -> Dataset:
    """Reads the dataset in the folder `path`.

    Observations are the columns `observation.*`, actions `action`, rewards `next.reward`, unless
    `hints` name others. Images that Parquet holds are taken, PNG or JPEG in a struct of bytes and a
    path, as LeRobot writes features of the dtype `image` (lerobot 0.4.4, `use_videos=False`).
    Videos of the observation are decoded as a whole (lerobot_videos.py).

    Raises:
      DataError: if files are missing or damaged, rows are not those that `meta` tells of, or the
        observation has videos and the package that decodes them is missing.
    """
    hints = hints or Hints()
    about = container.json_mapping(path / INFO)
    version, features = str(about.get("codebase_version")), about.get("features")
    if version not in VERSIONS:
        raise DataError(
            f"{path} is of LeRobot's format {version[:20]}, and {', '.join(VERSIONS)} are read: "
            "LeRobot converts its own older datasets"
        )
    if not isinstance(features, dict):
        raise DataError(f"{path / INFO} is damaged: it names no features")
    parts = [parquet.read(file, hints.observation_keys) for file in _files(path)]
    table = tables.joined(str(path), parts)._replace(starts=(0,))
    films = [name for name, kind in features.items() if _dtype(kind) == "video"]
    films = [name for name in films if name not in table.columns]
    table = table._replace(
        images=tuple(dict.fromkeys([*films, *table.images])),
        names={name: _names(kind) for name, kind in features.items()},
    )
    _check(path, about, table)
    table = lerobot_videos.decoded(path, about, table, hints.observation_keys)
    if not (path / OURS).is_file():
        return files.of_table(path, table, env, hints)
    kept = container.json_mapping(path / OURS).get("layout")
    told = layout.from_json(kept, str(path / OURS))
    box = np.array(told.action_low, np.float32), np.array(told.action_high, np.float32)
    found = files.of_table(path, table, env, hints, box)
    if hints.observation_keys or hints.action_keys:
        return found
    if (told.observation_dim, told.action_dim) != layout.of(found)[:2]:
        raise DataError(f"{path}: {OURS} tells of other sizes than the columns have")
    return found._replace(observation_names=told.observation_names, action_names=told.action_names)


def _files(path: Path) -> list[Path]:
    found = sorted((path / "data").glob("chunk-*/*.parquet"))
    if not found:
        raise DataError(f"{path}: data/ holds no chunk-*/*.parquet: only a part was downloaded")
    return found


def _dtype(feature: Any) -> Any:
    return feature.get("dtype") if isinstance(feature, dict) else None


def _names(feature: Any) -> Sequence[str]:
    """The names of a feature's dimensions, which versions keep in lists or in dicts of lists."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        lists = [each for each in names.values() if isinstance(each, list)]
        names = [each for part in lists for each in part] or list(names)
    return [str(name) for name in names] if isinstance(names, list) else ()


def _check(path: Path, about: Mapping[str, Any], table: Table) -> None:
    """Compares the rows with what `meta` tells, so that no lost file goes unnoticed."""
    features: dict[str, Any] = about["features"]
    for name, kind in features.items():
        if name not in table.columns and name not in table.images:
            raise DataError(f"{path}: its files lack the column {name}, which {INFO} names")
        shape = kind.get("shape") if isinstance(kind, dict) else None
        encoded = name in table.columns and table.columns[name].dtype.kind == "O"
        if name in table.columns and isinstance(shape, list) and not encoded:
            own = table.columns[name].shape[1:]
            sizes = [size for size in shape if type(size) is int]
            if int(np.prod(own)) != int(np.prod(sizes, dtype=object)):
                raise DataError(
                    f"{path}: {name} holds {int(np.prod(own))} numbers in a row, and {INFO} tells "
                    f"of the shape {str(shape)[:40]}"
                )
    container.need(path, table.columns, ("index", "episode_index"), "LeRobot's format")
    index = container.column(path, "index", table.columns["index"])
    episode = container.column(path, "episode_index", table.columns["episode_index"])
    if not np.array_equal(index, np.arange(len(index))):
        row = int(np.argmin(index == np.arange(len(index))))
        raise DataError(
            f"{path}: the index of row {row} is {index[row]}: files of data/ are missing, or there "
            "twice"
        )
    begins = np.r_[True, episode[1:] != episode[:-1]]
    for key, found in (("total_frames", len(index)), ("total_episodes", int(begins.sum()))):
        if about.get(key) != found:
            raise DataError(
                f"{path}: {INFO} tells of {key}={str(about.get(key))[:20]}, and data/ holds {found}"
            )
