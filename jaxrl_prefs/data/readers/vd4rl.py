"""Reads V-D4RL's files: images of dm_control's walker, cheetah and humanoid.

Lu et al. 2023, arXiv 2206.04779. The layouts are those of `conversion_scripts/`, `drqbc/utils.py`
and `offlinedv2/dreamerv2/common/replay.py` in github.com/conglu1997/v-d4rl:

    84px  HDF5 of many episodes: `observation` uint8 [N, 3, 84, 84], `step_type` 0 at an episode's
          first row, 2 at its last, 1 between; `action`, `reward`, `discount`
    64px  npz of one episode each, as DreamerV2 keeps them: `image` uint8 [T + 1, 64, 64, 3],
          `is_first`, `is_last`, `is_terminal` (older files have none); `action`, `reward`,
          `discount`

A row holds what was seen, and the action and the reward that led there. So an episode of T steps
has T + 1 rows, and the action of its first row was never taken. Distractors and other bodies
change the images alone. Every action was repeated twice, and scaled to -1 to 1 (drqbc/dmc.py).
Policies are evaluated in the same task, in images of the same size, where dm_control is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxrl_prefs.data import images
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.observations import nothing
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

HDF5 = ("observation", "action", "reward", "discount", "step_type")
NPZ = ("image", "action", "reward", "discount")
FLAGS = ("is_first", "is_last", "is_terminal")
FIRST, LAST = 0, 2  # of step_type
# Tasks of dm_control, by the robot with which a folder's name begins: `cheetah_medium_expert`.
TASKS = {"walker": "walker_walk", "cheetah": "cheetah_run", "humanoid": "humanoid_walk"}
ALTERED = ("distracting", "multitask")  # folders of sets whose images dm_control itself lacks
FAMILY = "vd4rl"


def is_one(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether an archive's arrays are an episode of V-D4RL's layout."""
    return all(name in arrays for name in NPZ) and images.is_image(arrays["image"])


def is_hdf5(path: Path) -> bool:
    """Whether an HDF5 file has V-D4RL's layout."""
    with container.hdf5(path) as file:
        return all(name in file and hasattr(file[name], "shape") for name in HDF5)


def read_hdf5(path: Path, env: str = "", hints: Hints | None = None) -> Dataset:
    """Reads an HDF5 file; its first row begins an episode, whatever its `step_type`.

    Raises:
      DataError: if the file is damaged, or its rows are not those of episodes.
    """
    with container.hdf5(path) as file:
        arrays = {name: container.array(path, file[name]) for name in HDF5}
    kind = container.column(path, "step_type", arrays["step_type"])
    if not np.isin(kind, (FIRST, 1, LAST)).all():
        raise DataError(f"{path}: step_type holds other values than 0 (first), 1 and 2 (last)")
    frames = arrays["observation"]
    if frames.ndim == 4 and frames.shape[1] in (1, 3) and frames.shape[3] not in images.CHANNELS:
        frames = np.ascontiguousarray(np.moveaxis(frames, 1, -1))
    found = {"image": frames, "is_first": kind == FIRST, "is_last": kind == LAST}
    return read(path, arrays | found, env, hints)


def read(
    path: Path, arrays: Mapping[str, np.ndarray], env: str = "", hints: Hints | None = None
) -> Dataset:
    """Makes a Dataset of an archive's arrays, each [N, ...].

    Returns are scored as V-D4RL does: 1000 scores 100. That holds where the path names a robot.

    Raises:
      DataError: if arrays are missing, of wrong shapes, or rows are not those of episodes.
    """
    known = [name for name in (*NPZ, *FLAGS) if name in arrays]
    count = container.check_rows(path, {name: arrays[name] for name in known})
    frames = images.with_channels(arrays["image"])
    images.check_frames(f"{path}: the images {images.ALONE!r}", frames)
    flags = {name: container.flags(path, name, arrays[name]) for name in FLAGS if name in arrays}
    first = flags.get("is_first", np.zeros(count, bool)).copy()
    within = not first[0]
    first[0] = True
    _check_ends(path, first, flags.get("is_last", np.zeros(count, bool)))
    discount = container.column(path, "discount", arrays["discount"])
    counts, taken = np.diff(np.append(np.flatnonzero(first), count)), ~first
    action = container.matrix(path, "action", arrays["action"])[taken]
    robot = task_of(path)
    where, why = (task.named(env), "") if env else _environment(path, robot, frames)
    steps = Steps(
        observation=nothing(len(action)),
        action=action,
        reward=container.column(path, "reward", arrays["reward"])[taken],
        terminal=flags.get("is_terminal", discount == 0)[taken],
        next_observation=nothing(len(action)),
        lengths=counts - 1,
        successor=np.ones(len(action), bool),
        notes=_notes(robot, why, within and "is_first" in flags),
        images={images.ALONE: images.with_last(frames, counts)},
    )
    box = default_task.box(None, action.shape[1])
    return record(str(path), steps, box, where, _references(robot), family=FAMILY, hints=hints)


def task_of(path: Path) -> str:
    """The task of dm_control that a path names; empty if it names none.

    >>> task_of(Path("vd4rl/distracting/cheetah_medium_expert/84px/easy/0.hdf5"))
    'cheetah_run'
    """
    for part in reversed(path.absolute().parts):
        robot = part.lower().partition("_")[0].partition("-")[0]
        if robot in TASKS:
            return TASKS[robot]
    return ""


def _check_ends(path: Path, first: np.ndarray, last: np.ndarray) -> None:
    """Refuses rows of an episode after its last one."""
    astray = last[:-1] & ~first[1:]
    if astray.any():
        row = int(np.argmax(astray)) + 1
        raise DataError(
            f"{path}: row {row} follows the last row of an episode and begins none: rows are "
            "missing or out of order"
        )


def _environment(path: Path, robot: str, frames: np.ndarray) -> tuple[Task | None, str]:
    """The task that a path names, in images of this size; None, and why, if it is not to be had."""
    height, width, channels = frames.shape[1:]
    if not robot:
        return None, ""
    if altered := [each for each in ALTERED if each in path.absolute().parts]:
        return None, f"its {altered[0]} images are not made here"
    if height != width or channels != 3:
        return None, f"its images are {height}x{width}x{channels}, and not square in three colours"
    if not importlib.util.find_spec("dm_control"):
        return None, "dm_control is missing: pip install 'jaxrl_prefs[dmc]'"
    from jaxrl_prefs.environments import dm_control_task

    return task.named(dm_control_task.env_id(robot.replace("_", "-", 1), f"{height}px")), ""


def _notes(robot: str, why: str, within: bool) -> tuple[str, ...]:
    begins = ("a file begins within an episode, which is taken as one of its own",)
    place = (
        f"recorded in dm_control's {robot} with every action repeated twice; it is not evaluated "
        f"there ({why}), or name an environment (--env)",
    )
    return (*(place if why else ()), *(begins if within else ()))


def _references(robot: str) -> References:
    if not robot:
        return References(None, "none: the path names no task of V-D4RL")
    return References((0.0, 1000.0), f"V-D4RL, {robot}: returns lie in 0 to 1000")
