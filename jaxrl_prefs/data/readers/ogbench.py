"""Reads OGBench's numpy archives, of single tasks: `observations`, `actions`, `terminals`, and the
task's `rewards` and `masks`.

OGBench's files hold no rewards; its package computes them for a task (`ogbench.relabel_utils`).
That is done here if `env` names the task and ogbench is installed. The reward of a step is that of
the state before it, as in the environments of ogbench 1.2; those of 1.1 paid for the state after.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import ogbench_names, spaces, task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

REQUIRED = ("observations", "actions", "terminals")
LABELS = ("rewards", "masks")
UNLABELLED = (
    "the file is of OGBench's for goals: a single task gives it rewards, "
    "--env=cube-single-singletask-task1-v0 (pip install ogbench)"
)


def read(
    path: Path, arrays: Mapping[str, np.ndarray], env: str = "", hints: Hints | None = None
) -> Dataset:
    """Makes a Dataset of an archive's arrays, each [N, ...].

    In OGBench's files an episode of T steps takes T + 1 rows, and `terminals` mark the last, whose
    action had no effect; a step's successor is the next row. Where a file has `next_observations`,
    every row is a step, and `terminals` mark an episode's last. Neither ends the task: that is
    `masks`, 0 where the goal is reached, which also happens inside episodes. Without rewards in
    the file and without `env`, the dataset has none.

    Raises:
      DataError: if arrays are missing, of wrong shapes, or `env` is not their environment.
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
    if where is not None:
        _check_environment(path, where, observation.shape[1], action.shape[1])
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
        reward=None if reward is None else reward[rows],
        terminal=np.zeros(int(rows.sum()), bool) if mask is None else ~mask[rows],
        next_observation=following[rows],
        lengths=lengths,
        successor=np.ones(int(rows.sum()), bool),
        notes=(UNLABELLED,) if reward is None else (),
    )
    box = spaces.bounds(_made(where).action_space, env) if env and where else None
    box = box or default_task.box(None, action.shape[1])
    references = References(None, "none: OGBench reports success rates")
    return record(str(path), steps, box, where, references, family="ogbench", hints=hints)


def _check_environment(path: Path, where: Task, observations: int, actions: int) -> None:
    """Refuses an environment of other sizes, or of another place than the file's name says."""
    names = [ogbench_names.parse(text) for text in (path.stem, path.parent.name)]
    place = next((name.place for name in names if name), "")
    asked = ogbench_names.place_of(where.env_id)
    own = f"one of their own, such as --env={place or asked or 'scene'}-singletask-task1-v0"
    if place and asked and asked != place:
        raise DataError(f"{path} are data of {place}, and {where.env_id} is not: name {own}")
    env = _made(where)
    sizes = [(space.shape or (0,))[0] for space in (env.observation_space, env.action_space)]
    if sizes != [observations, actions]:
        raise DataError(
            f"{path} has {observations} observations and {actions} actions, and {where.env_id} has "
            f"{sizes[0]} and {sizes[1]}: name the environment of these data"
        )


@functools.lru_cache(maxsize=1)
def _made(where: Task) -> Any:
    """The environment, open from then on: the files of a folder share it."""
    return where.make()


def _labels(
    path: Path, arrays: Mapping[str, np.ndarray], rows: np.ndarray, where: Task | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Rewards and masks of all rows, [N]; computed by ogbench where the file has none.

    None without a task.
    """
    if all(name in arrays for name in LABELS):
        reward = container.column(path, "rewards", arrays["rewards"])
        return reward, container.flags(path, "masks", arrays["masks"])
    if where is None:
        return None, None
    if not ogbench_names.is_task(where.env_id):
        raise DataError(
            f"{path}: has no rewards and masks, as OGBench's files for goal-conditioned learning, "
            f"and {where.env_id} computes none: name a single task "
            "(--env=pointmaze-medium-singletask-task1-v0)"
        )
    whole = _relabelled(path, arrays, where)
    reward = container.column(path, "rewards", whole["rewards"])
    return reward, container.flags(path, "masks", whole["masks"])


def _relabelled(path: Path, arrays: Mapping[str, np.ndarray], where: Task) -> dict[str, Any]:
    """The arrays with the rewards and masks that the package computes."""
    try:
        from ogbench.relabel_utils import relabel_dataset
    except ImportError as fault:
        raise DataError(
            f"{path}: has no rewards, which the package ogbench computes: pip install ogbench"
        ) from fault
    whole: dict[str, Any] = dict(arrays)
    try:
        relabel_dataset(where.env_id, _made(where), whole)
    except KeyError as fault:
        raise DataError(f"{path}: missing {fault}, of which the rewards are computed") from fault
    except Exception as fault:  # the arrays that it looks at may be of any shape
        why = container.first_line(fault)
        raise DataError(f"{path}: ogbench cannot compute its rewards: {why}") from fault
    return whole
