"""OGBench's datasets by their names: where they lie, and the task whose rewards they get."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np

from jaxrl_prefs.data import roots
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.environments.ogbench_names import Name
from jaxrl_prefs.errors import DataError

FOLDER = "OGBENCH_DATASETS_PATH"  # an environment variable of ours: where the files are
USUAL = "~/.ogbench/data"  # where the package ogbench stores what it downloads
SOURCE = "https://rail.eecs.berkeley.edu/datasets/ogbench"


def root() -> Path:
    """The folder of OGBench's files."""
    return roots.absolute(os.environ.get(FOLDER) or USUAL)


def installed() -> bool:
    """Whether the package ogbench can be imported."""
    return importlib.util.find_spec("ogbench") is not None


def steps_in(place: Path) -> int:
    """How many rows the file or the files of a folder hold, without those for validation.

    Only their heads are read: a file whose download was cut short has none, and counts as empty.
    """
    files = [place] if place.is_file() else sorted(place.glob("*.npz"))
    return sum(_rows(file) for file in files if not file.name.endswith("-val.npz"))


def _rows(file: Path) -> int:
    try:
        with zipfile.ZipFile(file) as archive, archive.open("actions.npy") as stream:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, *_ = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, *_ = np.lib.format.read_array_header_2_0(stream)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return 0
    return int(shape[0]) if shape else 0


def parse(name: str) -> Name | None:
    """Reads a name of OGBench's; None for other names.

    Raises:
      DataError: for data whose actions are choices (powderworld).
    """
    found = ogbench_names.parse(name)
    if found is None and ogbench_names.of_images(name):
        raise DataError(f"{name}: of OGBench's images, only those of robots and mazes are read")
    return found


def read(dataset: str, name: Name, env: str = "", hints: Hints | None = None) -> Dataset:
    """Reads the data of a name, with the rewards of its task.

    Args:
      dataset: the name as it was given, by which the result is called.
      name: the same, read.
      env: another environment to evaluate in. Of data alone, the task whose rewards are computed.
      hints: as `data.load` takes them.

    Raises:
      DataError: if the data are not here, or `env` is another task of OGBench's.
    """
    from jaxrl_prefs.data.readers import files, folders

    own, asked = name.env_id, ogbench_names.environment(env)
    elsewhere = bool(own and asked) and ogbench_names.numbered(asked) != ogbench_names.numbered(own)
    if elsewhere and ogbench_names.is_task(asked):
        raise DataError(
            f"{dataset} has the rewards of {own}, and --env={env} is another task: leave --env out"
        )
    place = find(name)
    wanted = own or asked
    if place.is_dir():
        found = folders.read(place, wanted, hints)
    else:
        found = files.read(str(place), wanted, hints=hints)
    found = found._replace(name=dataset)
    return found.with_env(env) if elsewhere else found


def find(name: Name) -> Path:
    """The file or folder of the data.

    Raises:
      DataError: if it is not here, saying what to download and where to put it.
    """
    found = here(name)
    if found is None:
        raise DataError(f"OGBench's {name.data} is not on this machine: {how_to_get(name)}")
    return found


def here(name: Name) -> Path | None:
    """The file or folder of the data; None if it is not on this machine."""
    place = root() / name.data
    places = (place.with_name(f"{name.data}.npz"), place)
    return next((each for each in places if each.exists()), None)


def how_to_get(name: Name) -> str:
    """How to download the data, and where to."""
    source, place = f"{SOURCE}/{name.data}", root() / name.data
    if name.large:  # which the package's own function does not find
        what = f"download the files of {source} into the folder {place}, where they are looked for"
    else:
        folder = "" if root() == roots.absolute(USUAL) else f", {str(root())!r}"
        call = f"ogbench.download_datasets([{name.data!r}]{folder})"
        what = (
            f'python -c "import ogbench; {call}" downloads it ({source}.npz) into {root()}, where '
            "it is looked for"
        )
    return f"{what}; {FOLDER} names another folder"
