"""Data: load a dataset by name, prepare it for a method.

    dataset = load("pendulum-mixed")
    prepared = prepare(dataset, defaults(dataset.family))

Importing this package needs only numpy and the library; gymnasium, minari and h5py are imported
when a dataset is loaded or an environment made.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from jaxrl_prefs.data import roots
from jaxrl_prefs.data.dataset import PreparedDataset, prepare
from jaxrl_prefs.data.families import Processing, defaults
from jaxrl_prefs.data.progress import Progress, shown
from jaxrl_prefs.data.recording import Dataset, Environment
from jaxrl_prefs.data.split import split
from jaxrl_prefs.data.transforms import Affine
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.environments.trust import Refusal
from jaxrl_prefs.errors import DataError, restated

__all__ = [
    "ALIASES",
    "GENERATED",
    "Affine",
    "DataError",
    "Dataset",
    "PreparedDataset",
    "Processing",
    "Progress",
    "Recording",
    "Refusal",
    "Task",
    "defaults",
    "load",
    "load_dataset",
    "prepare",
    "split",
]

ALIASES = {"pendulum-mixed": "pendulum/mixed-v0"}
GENERATED = (  # made on this machine on first use
    *("pendulum/mixed-v0", "maze2d/umaze-v0", "maze2d/medium-v0", "maze2d/large-v0"),
    "antmaze/umaze-v0",
)
ROOM = 2**28  # bytes, more than any of them takes
FILES = r"(?i).+\.(hdf5|h5|npz)(#[^#/]+)?"
MINARI_ID = r"[-\w/]+-v\d+"


def load(
    name: str | Path,
    *,
    env: str = "",
    trust_env: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Loads a dataset, generating or downloading it first where needed.

    Args:
      name: 'pendulum-mixed', 'maze2d/umaze-v0' (medium, large), 'antmaze/umaze-v0', any Minari id,
        the path of a file of D4RL, Robomimic (.hdf5; `file.hdf5#train` takes the mask `train`),
        OGBench or NeoRL-2 (.npz), or the folder of a dataset in Minari's format.
      env: id of the environment to evaluate in; replaces the one that the dataset names.
      trust_env: make the environment that the dataset names even if that runs code of the dataset's
        choice. Without it, such an environment is not made: the dataset has no task, and
        `refused` says why.
      on_progress: called with (what, done, of) while a set is generated; by default a bar is drawn.

    Raises:
      DataError: if there is no such dataset, or it cannot be used; the message says what to do.
    """
    name = str(name)
    if re.fullmatch(FILES, name):
        from jaxrl_prefs.data.readers import files

        return files.read(name, env, trust_env=trust_env)
    from jaxrl_prefs.data.readers import minari

    dataset_id = ALIASES.get(name, name)
    folder = roots.find(dataset_id)
    if folder is None and (folder := _folder(name)) is not None:
        dataset_id = name
    folder = folder or _obtain(dataset_id, on_progress)
    return minari.read(folder, dataset_id, env, trust_env=trust_env)


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


def load_dataset(name: str | Path, *, env: Environment = "", trust_env: bool = False) -> Dataset:
    """Loads a dataset, making or downloading it first where needed.

    >>> import jaxrl_prefs as jp
    >>> jp.load_dataset("pendulum-mixed")                                     # doctest: +SKIP
    Dataset 'pendulum/mixed-v0': 50,000 transitions of 250 episodes, 3 observations, ...

    Args:
      name: 'pendulum-mixed', 'maze2d/umaze-v0' (medium, large), 'antmaze/umaze-v0', any Minari id,
        the path of a file of D4RL, Robomimic (.hdf5; `file.hdf5#train` takes the mask `train`),
        OGBench or NeoRL-2 (.npz), or the folder of a dataset in Minari's format.
      env: where to evaluate: an id of Gymnasium's ('my_module:Mine-v0' imports my_module first), a
        function that makes an environment, "" for the one that the dataset names, None for none.
      trust_env: make the environment that the dataset names even if that runs code of the dataset's
        choice. Without it, such an environment is not made, and `train` asks for another.

    Raises:
      DataError: if there is no such dataset, or it cannot be used; the message says what to do.
    """
    with restated():
        if isinstance(env, str):
            return load(name, env=env, trust_env=trust_env)
        return load(name, trust_env=trust_env).with_env(env)


def _folder(name: str) -> Path | None:
    """The part of a folder in Minari's format that holds its metadata.json; None if it is none."""
    place = Path(name).expanduser()
    found = [x for x in (place / "data", place) if (x / "metadata.json").is_file()]
    return found[0] if found else None


def _obtain(dataset_id: str, on_progress: Progress | None) -> Path:
    from jaxrl_prefs.data.generate import online
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
    if dataset_id in online.SETS:
        raise DataError(
            f"{dataset_id} comes from an agent that is trained for hours: make it by "
            f"jaxrl-prefs data make {dataset_id}"
        )
    if not re.fullmatch(MINARI_ID, dataset_id):
        raise DataError(
            f"unknown dataset {dataset_id!r}. Known here: "
            f"{', '.join((*ALIASES, *sorted({*GENERATED, *roots.local_ids()})))}; or a Minari id "
            "such as mujoco/hopper/medium-v0; or the path of a file (.hdf5, .npz), or of a folder "
            "in Minari's format"
        )
    return minari.download(dataset_id)
