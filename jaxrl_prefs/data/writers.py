"""Writes a Dataset in the formats that `load` reads.

Only what every format holds is written: transitions and ends of episodes, in raw units. Images are
kept by Minari's, and by OGBench's where observations are images of one camera alone. Minari's and
LeRobot's keep the names of dimensions and the bounds of actions too, Minari's also environment
and references; of the others, `load` knows them by the file's name or not at all. Steps that a
source dropped, because they had no successor, are gone.

Every array has a checksum, of which the readers are told by HDF5 or by the archive: bytes that
change later are found when the array is read. A file appears when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import checked_files, images, layout, lerobot_writer, roots
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.data.readers.minari import LAYOUT, REWARDS
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import STATE


def episodes(recording: Dataset) -> list[slice]:
    """The rows of each episode, as far as they are kept: a step without a successor cuts it."""
    ends = np.flatnonzero(np.logical_not(recording.continues)) + 1
    return [slice(int(a), int(b)) for a, b in zip(np.r_[0, ends[:-1]], ends, strict=True)]


def d4rl(recording: Dataset, path: Path) -> None:
    """Flat arrays in HDF5, with `timeouts` and `next_observations`."""
    _check_vectors(recording, "D4RL's format")
    cut = np.logical_not(recording.continues | recording.terminal)
    with _new_hdf5(path) as file:
        file.attrs[container.SIZES] = _sizes(recording)
        for name, array in (
            ("observations", recording.observation),
            ("actions", _unit(recording)),
            ("rewards", recording.reward),
            ("terminals", recording.terminal),
            ("timeouts", cut),
            ("next_observations", recording.next_observation),
        ):
            checked_files.checked(file, name, array, compression="gzip")


def robomimic(recording: Dataset, path: Path) -> None:
    """A demonstration per episode in HDF5, its observation under the one key `flat`."""
    _check_vectors(recording, "this writer of Robomimic's format")
    action = _unit(recording)
    with _new_hdf5(path) as file:
        data = file.create_group("data")
        data.attrs["total"] = recording.size
        data.attrs[container.SIZES] = _sizes(recording)
        for place, rows in enumerate(episodes(recording)):
            demo = data.create_group(f"demo_{place}")
            demo.attrs["num_samples"] = rows.stop - rows.start
            for name, array in (
                ("actions", action),
                ("rewards", recording.reward),
                ("dones", recording.terminal.astype(int)),
                ("obs/flat", recording.observation),
                ("next_obs/flat", recording.next_observation),
            ):
                checked_files.checked(demo, name, array[rows])


def ogbench(recording: Dataset, path: Path) -> None:
    """A numpy archive as OGBench's package returns it, with `rewards` and `masks`.

    Images of one camera are its observations, each there twice: before a step and after another.
    """
    before, after = recording.observation, recording.next_observation
    if _is_alone(recording):
        frames, *rows = recording.images[images.ALONE]
        before, after = (frames[each] for each in rows)
    else:
        _check_vectors(recording, "OGBench's format, besides those of one camera alone,")
    _archive(
        path,
        recording,
        observations=before,
        next_observations=after,
        actions=_unit(recording),
        rewards=recording.reward,
        masks=1.0 - recording.terminal,
        terminals=1.0 - recording.continues,
    )


def neorl2(recording: Dataset, path: Path) -> None:
    """A numpy archive as NeoRL-2's, which cannot hold a terminal inside an episode."""
    _check_vectors(recording, "NeoRL-2's format")
    inside = recording.continues & recording.terminal
    if inside.any():
        raise DataError(
            f"{recording.name}: {inside.sum()} terminals lie inside episodes, which NeoRL-2's "
            "format cannot say; take OGBench's"
        )
    _archive(
        path,
        recording,
        obs=recording.observation,
        next_obs=recording.next_observation,
        action=_unit(recording),
        reward=recording.reward[:, None],
        done=recording.terminal[:, None],
        truncated=np.logical_not(recording.continues | recording.terminal)[:, None],
    )


def _archive(path: Path, recording: Dataset, **arrays: Any) -> None:
    sizes = {container.SIZES: np.array(_sizes(recording))}
    with _new(path) as draft, draft.open("wb") as file:
        content: dict[str, Any] = arrays | sizes
        np.savez_compressed(file, **content)


def _sizes(recording: Dataset) -> list[int]:
    return [recording.observation.shape[1], recording.action.shape[1]]


@contextlib.contextmanager
def _new_hdf5(path: Path) -> Iterator[Any]:
    """A new HDF5 file, made in memory: HDF5 itself ends the process where the disk is full."""
    with checked_files.in_memory() as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with _new(path) as draft:
        draft.write_bytes(image)


@contextlib.contextmanager
def _new(path: Path) -> Iterator[Path]:
    """A file beside `path` to fill, which then takes its name; removed on any failure.

    Raises:
      FileExistsError: if there is a file of the name.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "it exists already", str(path))
    draft = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield draft
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _check_vectors(recording: Dataset, form: str) -> None:
    """Refuses images that a format, or its writer, does not keep.

    Raises:
      DataError: naming the cameras.
    """
    if recording.images:
        raise DataError(
            f"{recording.name} has images ({', '.join(sorted(recording.images))}), which {form} "
            "does not keep; take Minari's"
        )


def _unit(recording: Dataset) -> np.ndarray:
    """The actions; refuses those of another box than [-1, 1], which these formats do not name, and
    data without rewards.
    """
    if not recording.has_rewards:
        raise DataError(
            f"{recording.name} has no rewards, and this format must have some; take Minari's or "
            "LeRobot's"
        )
    if not ((recording.action_low == -1).all() and (recording.action_high == 1).all()):
        raise DataError(
            f"{recording.name}: actions lie in [{recording.action_low.min():g}, "
            f"{recording.action_high.max():g}], but this format takes [-1, 1] for granted; "
            "take Minari's"
        )
    return recording.action


def lerobot(recording: Dataset, path: Path) -> None:
    """A folder in LeRobot's format v3.0, with next observations and bounds of actions.

    Raises:
      DataError: if terminals lie inside episodes, there are images, or pyarrow is missing.
    """
    _check_vectors(recording, "this writer of LeRobot's format")
    lerobot_writer.write(recording, path, episodes(recording))


def minari(recording: Dataset, dataset_id: str) -> None:
    """A Minari dataset in this machine's folder, with environment and references.

    Raises:
      DataError: if the id is taken, or successors do not lead to the next row.
    """
    on = np.flatnonzero(recording.continues)
    jumps = (recording.next_observation[on] != recording.observation[on + 1]).any()
    if jumps or any((x.after[on] != x.before[on + 1]).any() for x in recording.images.values()):
        raise DataError(
            f"{recording.name}: successors differ from the next step's observation, which Minari's "
            "format cannot say"
        )
    if roots.find(dataset_id):
        raise DataError(f"{dataset_id} is already on this machine")
    parts = episodes(recording)

    def buffers() -> Iterator[Any]:
        for rows in parts:
            last = rows.stop - 1
            over = np.arange(rows.start, rows.stop) == last
            yield checked_files.Steps(
                observations=_seen(recording, rows),
                actions=recording.action[rows],
                rewards=recording.reward[rows].astype(np.float64),
                terminations=recording.terminal[rows],
                truncations=over & np.logical_not(recording.terminal[rows]),
            )

    roots.install(dataset_id, roots.writable_root(), _minari_writer(recording, dataset_id, buffers))


def _seen(recording: Dataset, rows: slice) -> Any:
    """An episode's T + 1 observations, a dict of arrays where there are images and a vector."""
    last = recording.next_observation[rows.stop - 1 : rows.stop]
    vector = np.concatenate([recording.observation[rows], last])
    shown = {
        camera: each.frames[np.append(each.before[rows], each.after[rows.stop - 1])]
        for camera, each in recording.images.items()
    }
    if _is_alone(recording):
        return shown[images.ALONE]
    return shown | ({STATE: vector} if vector.shape[1] else {}) if shown else vector


def _is_alone(recording: Dataset) -> bool:
    """Whether observations are images of one camera that has no name of its own."""
    return [*recording.images] == [images.ALONE] and not recording.observation.shape[1]


def _space(recording: Dataset) -> Any:
    """Gymnasium's space of `_seen`."""
    from gymnasium.spaces import Box, Dict

    width = recording.observation.shape[1:]
    vector = Box(-np.inf, np.inf, width, np.float32)
    shown: dict[str, Any] = {
        camera: Box(0, 255, each.frames.shape[1:], np.uint8)
        for camera, each in recording.images.items()
    }
    if _is_alone(recording):
        return shown[images.ALONE]
    return Dict(shown | ({STATE: vector} if width[0] else {})) if shown else vector


def _minari_writer(
    recording: Dataset, dataset_id: str, buffers: Callable[[], Iterator[Any]]
) -> Callable[[Path], None]:
    from importlib.metadata import version

    from gymnasium.spaces import Box

    low, high = recording.references or (None, None)
    about = {
        "dataset_id": dataset_id,
        "minari_version": version("minari"),
        "code_permalink": "jaxrl_prefs.data",
        "description": f"converted from {Path(recording.name).name} by jaxrl_prefs",
        LAYOUT: layout.to_json(layout.of(recording)),
        REWARDS: recording.has_rewards,
        **({} if low is None else {"ref_min_score": low, "ref_max_score": high}),
    }

    spec = None if recording.task is None else recording.task.spec()
    if spec is not None and recording.task is not None:
        spec.max_episode_steps = recording.task.max_episode_steps

    def write(folder: Path) -> None:
        spaces = checked_files.Spaces(
            _space(recording),
            Box(recording.action_low, recording.action_high, dtype=np.float32),
            spec,
        )
        checked_files.write(folder, spaces, about, buffers())

    return write
