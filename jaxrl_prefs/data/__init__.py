"""Data: load a dataset by name, prepare it for a method.

    dataset = load("pendulum-mixed")
    prepared = prepare(dataset, defaults(dataset.family))

Importing this package needs only numpy and the library; gymnasium, minari and h5py are imported
when a dataset is loaded or an environment made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl_prefs.data import ogbench_data, roots, suggestions
from jaxrl_prefs.data.dataset import PreparedDataset, prepare
from jaxrl_prefs.data.families import FILES, Processing, defaults
from jaxrl_prefs.data.generate import online, vd4rl
from jaxrl_prefs.data.hints import Hints, hints_from_json, read_hints
from jaxrl_prefs.data.multi_step import multi_step
from jaxrl_prefs.data.progress import Progress, shown
from jaxrl_prefs.data.recording import Dataset, Environment
from jaxrl_prefs.data.split import split
from jaxrl_prefs.data.transforms import ActionChunk, Affine
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.environments.trust import Refusal
from jaxrl_prefs.errors import DataError, restated

__all__ = [
    "ALIASES",
    "GENERATED",
    "ActionChunk",
    "Affine",
    "DataError",
    "Dataset",
    "Hints",
    "PreparedDataset",
    "Processing",
    "Progress",
    "Recording",
    "Refusal",
    "Task",
    "defaults",
    "hints_from_json",
    "load",
    "load_dataset",
    "multi_step",
    "prepare",
    "read_hints",
    "split",
]

TRAINED = (*online.SETS, *vd4rl.SETS)  # made by the command alone, in hours
ALIASES = {"pendulum-mixed": "pendulum/mixed-v0", "pendulum-pixels": "pendulum/pixels-v0"}
ALIASES |= {each.removesuffix("-v0"): each for each in vd4rl.SETS}
DRAWN = {"pendulum/pixels-v0": "pendulum/mixed-v0"}  # pictures of another set, drawn when loaded
GENERATED = (  # made on this machine on first use
    *("pendulum/mixed-v0", "maze2d/umaze-v0", "maze2d/medium-v0", "maze2d/large-v0"),
    "antmaze/umaze-v0",
)
ROOM = 2**28  # bytes, more than any of them takes
UNREAD = (  # endings of files that people have, and that are not read
    r"(?i).+\.(pkl|pickle|pt|pth|mat|tfrecord|zarr|arrow|feather|jsonl?|zip|tar|gz|xlsx?|bag|mcap)"
)
MINARI_ID = r"[-\w/]+-v\d+"


def load(
    name: str | Path,
    *,
    env: str = "",
    trust_env: bool = False,
    on_progress: Progress | None = None,
    hints: Hints | None = None,
) -> Dataset:
    """Loads a dataset, generating or downloading it first where needed.

    Args:
      name: of the dataset, or its path, as `load_dataset` takes it.
      env: id of the environment to evaluate in; replaces the one that the dataset names.
      trust_env: make the environment that the dataset names even if that runs code of the dataset's
        choice. Without it, such an environment is not made: the dataset has no task, and
        `refused` says why.
      on_progress: called with (what, done, of) while a set is generated; by default a bar is drawn.
      hints: what the data do not say themselves.

    Raises:
      DataError: if there is no such dataset, or it cannot be used; the message says what to do.
    """
    name, hints = str(name), hints or Hints()
    place = Path(name).expanduser()
    dataset_id = ALIASES.get(name, name)
    if dataset_id in DRAWN:
        from jaxrl_prefs.data.generate import pendulum_pixels

        seen = load(DRAWN[dataset_id], on_progress=on_progress, hints=hints)
        drawn = pendulum_pixels.dataset(seen)
        return drawn.with_env(env) if env else drawn
    folder = roots.find(dataset_id)
    if folder is None and _is_file(name):
        from jaxrl_prefs.data.readers import files

        return files.read(name, env, trust_env=trust_env, hints=hints)
    from jaxrl_prefs.data.readers import minari

    if folder is None and (folder := _folder(name)) is not None:
        dataset_id = name
    if folder is None and not place.is_dir() and (found := ogbench_data.parse(name)) is not None:
        folder = roots.find(f"ogbench/{name}")  # in Minari's format
        if folder is None:
            return ogbench_data.read(name, found, env, hints)
        dataset_id = f"ogbench/{name}"
    if folder is None and dataset_id not in GENERATED and _is_other_folder(name):
        from jaxrl_prefs.data.readers import folders

        return folders.read(place, env, hints)
    folder = folder or _obtain(dataset_id, on_progress)
    hints.check_fixed(name, "Minari")
    return minari.read(folder, dataset_id, env, trust_env=trust_env, hints=hints)


def simulate(dataset_id: str, root: Path, progress: Progress) -> Path:
    """Makes one of `GENERATED` below `root`; returns the folder with its `metadata.json`.

    Raises:
      DataError: if it cannot be stored there.
    """
    from jaxrl_prefs.data.generate import antmaze, maze, pendulum

    roots.check_space(dataset_id, root, ROOM)
    if dataset_id == pendulum.DATASET_ID:
        return pendulum.generate(root, progress)
    if dataset_id == antmaze.DATASET_ID:
        return antmaze.generate(root, progress)
    return maze.generate(root, progress, dataset_id)


def load_dataset(
    name: str | Path,
    *,
    env: Environment = "",
    trust_env: bool = False,
    observation_keys: Sequence[str] = (),
    action_keys: Sequence[str] = (),
    reward_key: str = "",
    episode_key: str = "",
    episode_ends: str = "",
    bad_rows: str = "error",
    action_low: Any = None,
    action_high: Any = None,
) -> Dataset:
    """Loads a dataset, making or downloading it first where needed.

    >>> import jaxrl_prefs as jp
    >>> jp.load_dataset("pendulum-mixed")                                     # doctest: +SKIP
    Dataset 'pendulum/mixed-v0': 50,000 transitions of 250 episodes, 3 observations, ...
    >>> jp.load_dataset("logs/", action_keys=["valve"], episode_ends="timeout")  # doctest: +SKIP

    The arguments after `trust_env` are for tables and LeRobot's datasets, whose columns may have
    any name; `observation_keys` also for Robomimic's files, `bad_rows` and the bounds for all.

    Args:
      name: 'pendulum-mixed', 'maze2d/umaze-v0' (medium, large), 'antmaze/umaze-v0', any Minari id;
        the path of a file of D4RL, Robomimic (.hdf5; `file.hdf5#train` takes the mask `train`),
        OGBench or NeoRL-2 (.npz), or of a table (.parquet, .csv, .npz, .npy, .hdf5); or a folder
        of such files, of a dataset of LeRobot, or of one in Minari's format; or a name of
        OGBench's, 'cube-single-play-singletask-task1-v0', whose file is in ~/.ogbench/data.
      env: where to evaluate: an id of Gymnasium's ('my_module:Mine-v0' imports my_module first), a
        function that makes an environment, "" for the one that the dataset names, None for none.
      trust_env: make the environment that the dataset names even if that runs code of the dataset's
        choice. Without it, such an environment is not made, and `train` asks for another.
      observation_keys: the columns of the observation in their order, or the first part of their
        names.
      action_keys: those of the action.
      reward_key: the column of rewards.
      episode_key: the column whose value changes where an episode begins.
      episode_ends: what the last step of every episode is, whatever the columns say: 'terminal'
        (the task ended) or 'timeout' (the recording was cut off).
      bad_rows: of rows with a NaN or an infinity: 'error', or 'drop', which leaves them out and
        cuts the episode there.
      action_low: lower end of the actions, a number or [A]; by default what the data name, or the
        smallest recorded.
      action_high: upper end of the actions.

    Raises:
      DataError: if there is no such dataset, or it cannot be used; the message says what to do.
    """
    with restated():
        hints = read_hints(
            observation_keys=observation_keys,
            action_keys=action_keys,
            reward_key=reward_key,
            episode_key=episode_key,
            episode_ends=episode_ends,
            bad_rows=bad_rows,
            action_low=action_low,
            action_high=action_high,
        )
        if isinstance(env, str):
            return load(name, env=env, trust_env=trust_env, hints=hints)
        return load(name, trust_env=trust_env, hints=hints).with_env(env)


def _is_file(name: str) -> bool:
    """Whether a name is that of a file which is read, there or not; a folder may end like one."""
    bare = name.rpartition("#")[0] or name
    return not Path(name).expanduser().is_dir() and any(
        each.lower().endswith(FILES) for each in (name, bare)
    )


def _is_other_folder(name: str) -> bool:
    """Whether a name is that of a folder which is not one of datasets in Minari's format.

    Raises:
      DataError: if it is a file that is not read.
    """
    place = Path(name).expanduser()
    if place.is_file() or (re.fullmatch(UNREAD, name) and not place.is_dir()):
        kind = place.suffix.lower() or "no ending"
        why = "which is never unpickled" if kind in (".pkl", ".pickle") else f"of the kind {kind}"
        raise DataError(
            f"{name} is a file {why}. Read are {', '.join(FILES)} ({suggestions.PAGE} says what "
            "each must hold)"
        )
    return bool(name) and place.is_dir()


def _folder(name: str) -> Path | None:
    """The part of a folder in Minari's format that holds its metadata.json; None if it is none."""
    place = Path(name).expanduser()
    found = [x for x in (place / "data", place) if (x / "metadata.json").is_file()]
    return found[0] if found else None


def _obtain(dataset_id: str, on_progress: Progress | None) -> Path:
    from jaxrl_prefs.data.readers import minari

    if re.fullmatch(MINARI_ID, dataset_id):
        minari.check_absent(dataset_id)
    if dataset_id in GENERATED:
        root = roots.writable_root()
        with shown(on_progress) as progress:
            folder = simulate(dataset_id, root, progress)
        if on_progress is None:
            print(f"{dataset_id} is stored in {folder.parent}", file=sys.stderr)
        return folder
    if dataset_id in TRAINED:
        raise DataError(
            f"{dataset_id} comes from an agent that is trained for hours: make it by "
            f"jaxrl-prefs data make {dataset_id}"
        )
    known = (*ALIASES, *sorted({*GENERATED, *roots.local_ids()}))
    if not re.fullmatch(MINARI_ID, dataset_id) or "/" not in dataset_id:
        raise DataError(suggestions.unknown(dataset_id, known))
    return minari.download(dataset_id)
