"""A dataset in a file: opened by its ending, told apart by what it holds."""

from __future__ import annotations

import re
from pathlib import Path

from jaxrl_prefs.data.readers import archive, container, d4rl, neorl2, ogbench, robomimic
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError

# The path of a file, and after a # the name of a mask. A # may also stand in the path.
NAME = re.compile(r"(?P<place>.+\.(?:hdf5|h5|npz))(?:#(?P<mask>[^#/]+))?", re.IGNORECASE)


def read(name: str, env: str = "", *, trust_env: bool = False) -> Dataset:
    """Reads a file of D4RL or Robomimic (.hdf5, .h5), of OGBench or NeoRL-2 (.npz).

    `file.hdf5#train` takes those demonstrations of a Robomimic file that its mask `train` lists.
    `trust_env` as in `data.load`; of these files, only Robomimic's name an environment.

    Raises:
      DataError: if the file is none of these, is damaged or incomplete.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise DataError(f"{name} has none of the endings .hdf5, .h5 and .npz")
    path, mask = Path(found["place"]).expanduser(), found["mask"] or ""
    if path.suffix.lower() == ".npz":
        if mask:
            raise DataError(f"{name}: only Robomimic's files have masks")
        arrays = archive.read(path)
        source = neorl2 if "obs" in arrays else ogbench
        return source.read(path, arrays, env)
    with container.hdf5(path) as file:
        nested = "data" in file and hasattr(file["data"], "keys")
    if nested:
        return robomimic.read(path, mask, env, trust_env=trust_env)
    if mask:
        raise DataError(f"{name}: only Robomimic's files have masks")
    return d4rl.read(path, env)
