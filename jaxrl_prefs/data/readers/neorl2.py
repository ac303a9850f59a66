"""Reads NeoRL-2's numpy archives: `obs`, `action`, `reward`, `next_obs`, `done`, `truncated`.

Reference scores: NeoRL-2's own table (polixir/NeoRL2, neorl2/envs/info.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import task
from jaxrl_prefs.errors import DataError

REQUIRED = ("obs", "action", "reward", "next_obs", "done")

# raw returns that score 0 and 100
PUBLISHED = {
    "pipeline": (-296.0, 751.0),
    "simglucose": (9.75, 475.0),
    "rocketrecovery": (-176.0, 208.0),
    "randomfrictionhopper": (-3.0, 503.0),
    "dmsd": (30.60, 849.51),
    "fusion": (-107.601, 98.05),
    "salespromotion": (357.62, 602.21),
    "safetyhalfcheetah": (-283.0, 2507.0),
}


def read(
    path: Path, arrays: Mapping[str, np.ndarray], env: str = "", hints: Hints | None = None
) -> Dataset:
    """Makes a Dataset of an archive's arrays, each [N, ...].

    An episode ends at `done` or `truncated`, before every row that `index` names as a first one,
    and where `next_obs` does not lead to the next row. A step that is done and truncated was cut
    off; without `truncated`, every done is a terminal. Actions must lie in [-1, 1] unless `env`
    names an environment.

    Raises:
      DataError: if arrays are missing, of wrong shapes or contradict each other.
    """
    container.need(path, arrays, REQUIRED, "NeoRL-2's format")
    sizes = arrays.get(container.SIZES)
    arrays = {key: arrays[key] for key in (*REQUIRED, "truncated", "index") if key in arrays}
    starts = arrays.pop("index", np.zeros(0, int))
    count = container.check_rows(path, arrays)
    observation, action, following = (
        container.matrix(path, key, arrays[key]) for key in ("obs", "action", "next_obs")
    )
    container.check_same_shape(path, ("observations", observation), ("next_obs", following))
    container.check_sizes(path, sizes, observation, action)
    done = container.flags(path, "done", arrays["done"])
    cut = container.flags(path, "truncated", arrays.get("truncated", np.zeros(count)))
    ends = done | cut
    ends[:-1] |= (following[:-1] != observation[1:]).any(-1)
    ends[_starts(path, starts, count) - 1] = True  # the first row's predecessor is the last row
    ends[-1] = True
    steps = Steps(
        observation=observation,
        action=action,
        reward=container.column(path, "reward", arrays["reward"]),
        terminal=done & ~cut,
        next_observation=following,
        lengths=np.diff(np.flatnonzero(ends), prepend=-1),
        successor=np.ones(count, bool),
    )
    where = task.named(env) if env else default_task.of(path.stem)
    name = path.stem.lower().split("-")[0]
    values = PUBLISHED.get(name)
    source = f"NeoRL-2's table for {path.stem.split('-')[0]}" if values else "none: not NeoRL-2's"
    box = default_task.box(where if env else None, action.shape[1])
    return record(str(path), steps, box, where, References(values, source), hints=hints)


def _starts(path: Path, index: np.ndarray, count: int) -> np.ndarray:
    if index.ndim != 1 or index.dtype.kind not in "iu" or ((index < 0) | (index >= count)).any():
        raise DataError(f"{path}: index must hold numbers of rows below {count}")
    return index
