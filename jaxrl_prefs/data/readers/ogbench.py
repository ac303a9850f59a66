"""Reads OGBench's numpy archives, of single tasks: `observations`, `actions`, `terminals`, and the
task's `rewards` and `masks`.

OGBench's files hold no rewards; its package computes them for a task (`ogbench.relabel_utils`).
That is done here if `env` names the task and ogbench is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

REQUIRED = ("observations", "actions", "terminals")
LABELS = ("rewards", "masks")


def read(
    path: Path, arrays: Mapping[str, np.ndarray], env: str = "", hints: Hints | None = None
) -> Dataset:
    """Makes a Dataset of an archive's arrays, each [N, ...].

    In OGBench's files an episode of T steps takes T + 1 rows, and `terminals` mark the last, whose
    action had no effect; a step's successor is the next row. Where a file has `next_observations`,
    every row is a step, and `terminals` mark an episode's last. Neither ends the task: that is
    `masks`, 0 where the goal is reached, which also happens inside episodes.

    Raises:
      DataError: if arrays are missing, of wrong shapes, or the task has no rewards.
    """
    container.need(path, arrays, REQUIRED, "OGBench's format")
    known = (*REQUIRED, *LABELS, "next_observations")
    count = container.check_rows(path, {k: v for k, v in arrays.items() if k in known})
    observation, action = (
        container.matrix(path, key, arrays[key]) for key in ("observations", "actions")
    )
    container.check_sizes(path, arrays.get(container.SIZES), observation, action)
    last = container.flags(path, "terminals", arrays["terminals"])
    if not last[-1]:
        raise DataError(f"{path}: the last episode has no end (terminals); the file was cut short")
    where = task.named(env) if env else default_task.of(f"ogbench/{path.stem}")
    if "next_observations" in arrays:
        rows = np.ones(count, bool)
        following = container.matrix(path, "next_observations", arrays["next_observations"])
        container.check_same_shape(
            path, ("observations", observation), ("next_observations", following)
        )
        lengths = np.diff(np.flatnonzero(last), prepend=-1)
    else:
        rows, following = ~last, np.roll(observation, -1, axis=0)
        lengths = np.diff(np.flatnonzero(last), prepend=-1) - 1
    reward, mask = _labels(path, arrays, rows, where)
    steps = Steps(
        observation=observation[rows],
        action=action[rows],
        reward=reward[rows],
        terminal=~mask[rows],
        next_observation=following[rows],
        lengths=lengths,
        successor=np.ones(int(rows.sum()), bool),
    )
    box = default_task.box(where if env else None, action.shape[1])
    references = References(None, "none: OGBench reports success rates")
    return record(str(path), steps, box, where, references, family="ogbench", hints=hints)


def _labels(
    path: Path, arrays: Mapping[str, np.ndarray], rows: np.ndarray, where: Task | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and masks of all rows, [N]; computed by ogbench where the file has none."""
    if all(name in arrays for name in LABELS):
        reward = container.column(path, "rewards", arrays["rewards"])
        return reward, container.flags(path, "masks", arrays["masks"])
    if where is None or "singletask" not in where.env_id:
        raise DataError(
            f"{path}: has no rewards and masks, as OGBench's files for goal-conditioned learning: "
            "name a single task (--env=pointmaze-medium-singletask-task1-v0), for which the "
            "package ogbench computes them (pip install ogbench)"
        )
    try:
        from ogbench.relabel_utils import relabel_dataset
    except ImportError as fault:
        raise DataError(
            f"{path}: has no rewards, which the package ogbench computes: pip install ogbench"
        ) from fault

    env: Any = where.make()
    whole: dict[str, Any] = dict(arrays)
    try:
        relabel_dataset(where.env_id, env, whole)
    except KeyError as fault:
        raise DataError(f"{path}: missing {fault}, of which the rewards are computed") from fault
    except Exception as fault:  # the arrays that it looks at may be of any shape
        why = container.first_line(fault)
        raise DataError(f"{path}: ogbench cannot compute its rewards: {why}") from fault
    finally:
        env.close()
    reward = container.column(path, "rewards", whole["rewards"])
    return reward, container.flags(path, "masks", whole["masks"])
