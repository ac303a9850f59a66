"""Reads HDF5 files in D4RL's format: flat arrays, with ends of episodes marked by flags.

Reference scores: D4RL's published table (Farama-Foundation/D4RL, d4rl/infos.py). They hold where
the environment is the same task with the same observations, rewards and horizon: HalfCheetah and
Hopper of Gymnasium's v4 and v5, Walker2d of v4 (v5 has another friction), and the Adroit hands of
Gymnasium-Robotics. Its kitchen, ant mazes and point mazes have other observations than D4RL's:
such files train unscored, unless a package registers D4RL's own environment and `env` names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl_prefs.data.families import words
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import spaces, task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
SAME_STATE = 1e-6  # how far a successor may lie from the next row's observation (IQL's loader)


class Robot(NamedTuple):
    """One robot of D4RL, and Gymnasium's environment of the same task."""

    env_id: str  # where its files are evaluated if no environment is named
    sizes: tuple[int, int]  # observations, actions
    horizon: int  # D4RL's time limit
    same: tuple[str, ...]  # environments for which the references hold
    references: tuple[float, float]  # raw returns that score 0 and 100


def _hand(name: str, sizes: tuple[int, int], horizon: int, low: float, high: float) -> Robot:
    return Robot(f"AdroitHand{name}-v1", sizes, horizon, (f"AdroitHand{name}-v1",), (low, high))


ROBOTS = {
    "hopper": Robot("Hopper-v4", (11, 3), 1000, ("Hopper-v4", "Hopper-v5"), (-20.272305, 3234.3)),
    "halfcheetah": Robot(
        "HalfCheetah-v4",
        (17, 6),
        1000,
        ("HalfCheetah-v4", "HalfCheetah-v5"),
        (-280.178953, 12135.0),
    ),
    "walker2d": Robot("Walker2d-v4", (17, 6), 1000, ("Walker2d-v4",), (1.629008, 4592.3)),
    "pen": _hand("Pen", (45, 24), 100, 96.262799, 3076.8331017826877),
    "hammer": _hand("Hammer", (46, 26), 200, -274.856578, 12794.134825156867),
    "relocate": _hand("Relocate", (39, 30), 200, -6.425911, 4233.877797728884),
    "door": _hand("Door", (39, 28), 200, -56.512833, 2880.5693087298737),
}
ALIASES = {"walker": "walker2d"}  # walker_mixed.hdf5

# Tasks without an equal among Gymnasium's: start of D4RL's own id, raw returns of scores 0 and 100.
OWN = {
    "antmaze-": (0.0, 1.0),
    "kitchen-": (0.0, 4.0),
    "maze2d-open-v": (0.01, 20.66),
    "maze2d-umaze-v": (23.85, 161.86),
    "maze2d-medium-v": (13.13, 277.39),
    "maze2d-large-v": (6.7, 273.99),
    "maze2d-open-dense-v": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v": (30.569041, 303.4857382709002),
    "ant-": (-325.6, 3879.7),
}


def read(path: Path, env: str = "", hints: Hints | None = None) -> Dataset:
    """Reads a file with `observations`, `actions`, `rewards`, `terminals`, each [N, ...].

    `timeouts` mark steps after which an episode was cut off; they are never terminals. Where the
    file has none, episodes are cut where `next_observations` do not lead to the next row, or else
    at the time limit of the environment, or of D4RL's for the robot that the file is named after.
    Where the file has no `next_observations`, a step's successor is the next row; a last step that
    has none is dropped, except at a terminal, whose successor no discounted target looks at (its
    own observation stands in). Terminals are taken as D4RL has them: in its kitchen sets they mark
    the end of every demonstration, in its ant mazes every step at the goal.

    With `next_observations` every row is a transition, rows at a time-out and the last row too:
    the observation after them is recorded, so their targets are right. The authors' code of BDPO
    drops these rows instead, and the rewards of dropped rows count in no episode's return. Here a
    return sums every recorded reward, with `next_observations` or without. Where reward='range'
    divides by the difference of returns, the two conventions differ by one reward an episode,
    about .1 % on D4RL's locomotion sets.

    Without an `env` the actions must lie in [-1, 1], as D4RL's do.

    Raises:
      DataError: if the file is damaged, incomplete or does not fit the environment.
    """
    arrays = _arrays(path)
    observation, action = arrays["observations"], arrays["actions"]
    count = container.check_rows(path, arrays)
    if "next_observations" in arrays:
        following = ("next observations", arrays["next_observations"])
        container.check_same_shape(path, ("observations", observation), following)
    robot = _robot(path, (observation.shape[1], action.shape[1]))
    where = task.named(env) if env else _default(robot)
    box = _box(path, arrays, where if env else None)
    limit = where.max_episode_steps if where else robot.horizon if robot else 0
    terminal = arrays["terminals"]
    ends = terminal | _cuts(path, arrays, terminal, limit)
    ends[-1] = True
    if "next_observations" not in arrays:
        after = np.roll(observation, -1, axis=0)
        after[ends] = observation[ends]
        successor = terminal | ~ends
    else:
        after = arrays["next_observations"]
        successor = np.ones(count, bool)
    steps = Steps(
        observation=observation,
        action=action,
        reward=arrays["rewards"],
        terminal=terminal,
        next_observation=after,
        lengths=np.diff(np.flatnonzero(ends), prepend=-1),
        successor=successor,
    )
    return record(str(path), steps, box, where, _references(path, where), hints=hints)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import h5py

    with container.hdf5(path) as file:
        stored = {key: file[key] for key in file if isinstance(file[key], h5py.Dataset)}
        container.need(path, stored, REQUIRED, "D4RL's format")
        arrays = {
            key: container.array(path, stored[key])
            for key in (*REQUIRED, *OPTIONAL)
            if key in stored
        }
        sizes = file.attrs.get(container.SIZES)
    for key in ("observations", "actions", "next_observations"):
        if key in arrays:
            arrays[key] = container.matrix(path, key, arrays[key])
    container.check_sizes(path, sizes, arrays["observations"], arrays["actions"])
    arrays["rewards"] = container.column(path, "rewards", arrays["rewards"])
    for key in ("terminals", "timeouts"):
        if key in arrays:
            arrays[key] = container.flags(path, key, arrays[key])
    return arrays


def _robot(path: Path, sizes: tuple[int, int]) -> Robot | None:
    """The robot that the file is named after, if its sizes are the robot's."""
    named = words(path.stem)
    if "bullet" in named:
        return None
    robots = (ROBOTS.get(ALIASES.get(word, word)) for word in named)
    return next((robot for robot in robots if robot and robot.sizes == sizes), None)


def _default(robot: Robot | None) -> Task | None:
    """The robot's environment with D4RL's horizon; None where its package is missing."""
    if robot is None:
        return None
    try:
        return task.named(robot.env_id)._replace(max_episode_steps=robot.horizon)
    except DataError:
        return None


def _box(
    path: Path, arrays: dict[str, np.ndarray], where: Task | None
) -> tuple[np.ndarray, np.ndarray]:
    """The action box, from the environment if one is named; also checks that it fits the file."""
    action, observation = arrays["actions"], arrays["observations"]
    if where is None:
        return default_task.box(None, action.shape[1])
    env = where.make()
    low, high = spaces.bounds(env.action_space, where.env_id)
    sizes = np.prod(env.observation_space.shape or ()), low.size
    env.close()
    if sizes != (observation.shape[1], action.shape[1]):
        raise DataError(
            f"{path}: has {observation.shape[1]} observations and {action.shape[1]} actions, the "
            f"environment {where.env_id} has {sizes[0]} and {sizes[1]}: it is another one"
        )
    return low, high


def _cuts(
    path: Path, arrays: dict[str, np.ndarray], terminal: np.ndarray, limit: int
) -> np.ndarray:
    """Where episodes were cut off: [N] bool."""
    if "timeouts" in arrays:
        return arrays["timeouts"]
    cuts = np.zeros(len(terminal), bool)
    if "next_observations" in arrays:
        here = np.asarray(arrays["next_observations"][:-1], np.float64)
        after = np.asarray(arrays["observations"][1:], np.float64)
        cuts[:-1] = np.logical_not(np.linalg.norm(here - after, axis=-1) <= SAME_STATE)
        return cuts
    if not limit:
        raise DataError(
            f"{path}: has neither timeouts nor next_observations, so its episodes cannot be told "
            "apart: name the environment (--env), whose time limit tells them"
        )
    first = 0
    for end in (*np.flatnonzero(terminal), len(terminal) - 1):
        cuts[first + limit - 1 : end + 1 : limit] = True
        first = end + 1
    return cuts


def _references(path: Path, where: Task | None) -> References:
    """D4RL's published references, if the file and the environment are of the same robot."""
    if where is None:
        return References(None, "none: an HDF5 file without an environment has no references")
    named = words(path.stem)
    for word in named:
        name = ALIASES.get(word, word)
        if name in ROBOTS and where.env_id in ROBOTS[name].same and "bullet" not in named:
            return References(ROBOTS[name].references, f"D4RL's published table for {name}")
    for start, values in OWN.items():
        if where.env_id.lower().startswith(start):
            return References(values, f"D4RL's published table for {where.env_id}")
    return References(None, f"none: D4RL publishes none for {path.name} in {where.env_id}")
