"""A dataset in a file: opened by its ending, told apart by what it holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jaxrl_prefs.data import images, tables
from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.families import family_of
from jaxrl_prefs.data.hints import COLUMNS, Hints
from jaxrl_prefs.data.readers import (
    archive,
    container,
    d4rl,
    default_task,
    neorl2,
    nested,
    ogbench,
    parquet,
    robomimic,
    text,
    vd4rl,
)
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.environments import ogbench_names, task
from jaxrl_prefs.errors import DataError

HDF5, NPZ = (".hdf5", ".h5"), (".npz",)
TABLES = {
    ".csv": text.read,
    ".tsv": text.read,
    ".npy": archive.structured,
}
PARQUET = ".parquet"
ENDINGS = (*HDF5, *NPZ, PARQUET, *TABLES)
# The path of a file, and after a # the name of a mask. A # may also stand in the path.
_ENDINGS = "|".join(ending[1:] for ending in ENDINGS)
NAME = re.compile(rf"(?P<place>.+\.(?:{_ENDINGS}))(?:#(?P<mask>[^#/]+))?", re.IGNORECASE)


def read(
    name: str, env: str = "", *, trust_env: bool = False, hints: Hints | None = None
) -> Dataset:
    """Reads a file of a known format (.hdf5, .h5, .npz), or a table.

    `file.hdf5#train` takes those demonstrations of a Robomimic file that its mask `train` lists.
    `trust_env` as in `data.load`; of these files, only Robomimic's name an environment.

    Raises:
      DataError: if the file is none of these, is damaged or incomplete.
    """
    hints = hints or Hints()
    found = NAME.fullmatch(name)
    if found is None:
        raise DataError(f"{name} has none of the endings {', '.join(ENDINGS)}")
    path, mask = Path(found["place"]).expanduser(), found["mask"] or ""
    if path.suffix.lower() in HDF5 and _is_robomimic(path):
        return robomimic.read(path, mask, env, trust_env=trust_env, hints=hints)
    if mask:
        raise DataError(f"{name}: only Robomimic's files have masks")
    opened = open_file(path, hints)
    if isinstance(opened, Table):
        return of_table(path, opened, env, hints)
    return opened(env)


def open_file(path: Path, hints: Hints) -> Any:
    """The table in a file, or a function of `env` that reads it where it is of a known format.

    Raises:
      DataError: if the file is damaged.
    """
    ending = path.suffix.lower()
    asked = any(getattr(hints, name) for name in COLUMNS)
    if TABLES.get(ending) is text.read:
        return text.read(path, hints.episode_key)
    if ending == PARQUET:
        return parquet.read(path, hints.observation_keys)
    if ending in TABLES:
        return TABLES[ending](path)
    if ending in NPZ:
        arrays = archive.read(path)
        source = _archive_format(path, arrays)
        if source is None or asked:
            return Table(str(path), arrays)
        return lambda env: source.read(path, arrays, env, hints)
    if _is_robomimic(path):
        return lambda env: robomimic.read(path, "", env, hints=hints)
    if vd4rl.is_hdf5(path) and not asked:
        return lambda env: vd4rl.read_hdf5(path, env, hints)
    if _is_d4rl(path) and not asked:
        return lambda env: d4rl.read(path, env, hints)
    return nested.read(path)


def of_table(
    path: Path,
    table: Table,
    env: str,
    hints: Hints,
    box: Any = None,
) -> Dataset:
    """The dataset in a table; `box` are the bounds of the actions where the data have them.

    Raises:
      DataError: as `tables.steps_of` and `record`.
    """
    where = task.named(env) if env else None
    steps = tables.steps_of(table, hints)
    if where is not None:
        box = default_task.box(where, steps.action.shape[1])
    references = References(None, "none: a table has no references")
    family = family_of(path.stem, where.env_id if where else "")
    return record(table.name, steps, box, where, references, family=family, hints=hints)


def _archive_format(path: Path, arrays: Any) -> Any:
    """The reader of an archive's format; None if it is a table."""
    if vd4rl.is_one(arrays):
        return vd4rl
    ours = container.SIZES in arrays
    if all(name in arrays for name in neorl2.REQUIRED) or (ours and "obs" in arrays):
        return neorl2
    # Only OGBench has masks. Its files for goal-conditioned learning have no rewards; D4RL's, which
    # have `qpos` too, do. A copy without `qpos` is told by the name of its set.
    goals = all(name in arrays for name in ogbench.REQUIRED) and "rewards" not in arrays
    own = goals and ("qpos" in arrays or ogbench_names.of_path(path) is not None)
    return ogbench if ours or "masks" in arrays or own else None


def is_unpacked_ogbench(path: Path, table: Table, hints: Hints) -> bool:
    """Whether a folder's arrays are read as OGBench's: if all are there, as their archive would be.

    Otherwise they are a table, whose `terminals` are the task's.
    """
    asked = any(getattr(hints, name) for name in COLUMNS)
    whole = all(name in table.columns for name in ogbench.REQUIRED)
    return whole and not asked and _archive_format(path, table.columns) is ogbench


def _is_robomimic(path: Path) -> bool:
    with container.hdf5(path) as file:
        data: Any = file.get("data")
        if not hasattr(data, "keys"):
            return False
        named = any(re.fullmatch(r"demo_\d+", name) for name in data)
        return named or "mask" in file or "total" in data.attrs or "env_args" in data.attrs


def _is_d4rl(path: Path) -> bool:
    with container.hdf5(path) as file:
        if container.SIZES in file.attrs:
            return True
        whole = all(name in file and not hasattr(file[name], "keys") for name in d4rl.REQUIRED)
        return whole and not images.is_image(file["observations"])
