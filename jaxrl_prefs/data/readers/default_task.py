"""Environments of datasets that do not name their own."""

from __future__ import annotations

import importlib.util

import numpy as np

from jaxrl_prefs.data.families import words
from jaxrl_prefs.environments import ogbench_names, spaces, task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError


def of(name: str, longest: int = 0) -> Task | None:
    """The environment of a dataset, by its name; None where there is none on this machine.

    NeoRL-2's SafetyHalfCheetah is one of ours. OGBench's single tasks need its package.
    """
    if "safetyhalfcheetah" in words(name):
        return _found("jaxrl_prefs/SafetyHalfCheetah-v0", longest)
    single = ogbench_names.parse(name.removeprefix("ogbench/")) if name[:8] == "ogbench/" else None
    if single and single.env_id and importlib.util.find_spec("ogbench"):
        return _found(single.env_id, longest)
    return None


def _found(env_id: str, longest: int) -> Task | None:
    try:
        return task.named(env_id, longest)
    except DataError:
        return None


def box(where: Task | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The action box of an environment, or [-1, 1] of `size` dimensions without one."""
    if where is None:
        one = np.ones(size, np.float32)
        return -one, one
    env = where.make()
    low, high = spaces.bounds(env.action_space, where.env_id)
    env.close()
    return low, high
