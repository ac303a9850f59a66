"""Reads HDF5 files in D4RL's format: flat arrays, with ends of episodes marked by flags.

Reference scores: D4RL's published table (Farama-Foundation/D4RL, d4rl/infos.py), for the robots
whose Gymnasium environments are the same task with the same observations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrl_prefs.data import task
from jaxrl_prefs.data.families import words
from jaxrl_prefs.data.recording import Recording, References, Steps, record
from jaxrl_prefs.data.task import DataError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")

# robot: (Gymnasium's name, raw returns that score 0 and 100)
PUBLISHED = {
    "hopper": ("hopper", (-20.272305, 3234.3)),
    "halfcheetah": ("halfcheetah", (-280.178953, 12135.0)),
    "walker2d": ("walker2d", (1.629008, 4592.3)),
    "ant": ("ant", (-325.6, 3879.7)),
    "pen": ("adroithandpen", (96.262799, 3076.8331017826877)),
    "hammer": ("adroithandhammer", (-274.856578, 12794.134825156867)),
    "relocate": ("adroithandrelocate", (-6.425911, 4233.877797728884)),
    "door": ("adroithanddoor", (-56.512833, 2880.5693087298737)),
}


def read(path: Path, env: str = "") -> Recording:
    """Reads a file with `observations`, `actions`, `rewards`, `terminals`, each [N, ...].

    `timeouts` mark steps after which an episode was cut off; they are never terminals. Where the
    file has none, episodes are cut where `next_observations` do not lead to the next row, or else
    at the environment's time limit. Where the file has no `next_observations`, a step's successor
    is the next row; a last step that has none is dropped, except at a terminal, whose successor no
    discounted target looks at (its own observation stands in).

    Without an `env` the actions must lie in [-1, 1], as D4RL's do.

    Raises:
      DataError: if the file is damaged, incomplete or does not fit the environment.
    """
    arrays = _arrays(path)
    where = task.named(env) if env else None
    box = _box(path, arrays, where)
    count = len(arrays["rewards"])
    if any(len(array) != count for array in arrays.values()):
        found = ", ".join(f"{name} {len(value)}" for name, value in arrays.items())
        raise DataError(f"{path}: arrays of different lengths: {found}")
    if count == 0:
        raise DataError(f"{path}: the dataset has no episodes")
    terminal = arrays["terminals"].astype(bool)
    ends = terminal | _cuts(path, arrays, terminal, where.max_episode_steps if where else 0)
    ends[-1] = True
    observation = arrays["observations"]
    following = arrays.get("next_observations")
    if following is None:
        following = np.where(ends[:, None], observation, np.roll(observation, -1, axis=0))
        successor = terminal | ~ends
    else:
        successor = np.ones(count, bool)
    steps = Steps(
        observation=observation,
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminal=terminal,
        next_observation=following,
        lengths=np.diff(np.flatnonzero(ends), prepend=-1),
        successor=successor,
    )
    return record(str(path), steps, box, where, _references(path, env))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import h5py

    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
            if missing:
                raise DataError(
                    f"{path}: missing {', '.join(missing)}; D4RL's format has {', '.join(REQUIRED)}"
                )
            keys = [key for key in (*REQUIRED, *OPTIONAL) if key in file]
            arrays = {key: file[key][()] for key in keys}
    except OSError as fault:
        raise DataError(
            f"{path} cannot be read, it is not HDF5 or was cut short: {fault}"
        ) from fault
    for key in ("rewards", "terminals", "timeouts"):
        if key in arrays and arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]
    return arrays


def _box(
    path: Path, arrays: dict[str, np.ndarray], where: task.Task | None
) -> tuple[np.ndarray, np.ndarray]:
    """The action box, from the environment if there is one; also checks that it fits the file."""
    action, observation = arrays["actions"], arrays["observations"]
    if action.ndim != 2 or observation.ndim != 2:
        raise DataError(
            f"{path}: observations {observation.shape} and actions {action.shape} must have two "
            "axes; discrete actions and images are not supported"
        )
    if where is None:
        one = np.ones(action.shape[1], np.float32)
        if action.size and np.abs(action).max() > 1.001:
            raise DataError(
                f"{path}: actions reach {np.abs(action).max():g}, outside [-1, 1]: name the "
                "environment (--env), whose action space tells their units"
            )
        return -one, one
    env = where.make()
    low, high = task.bounds(env.action_space, where.env_id)
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
        return arrays["timeouts"].astype(bool)
    cuts = np.zeros(len(terminal), bool)
    if "next_observations" in arrays:
        here = np.asarray(arrays["next_observations"][:-1], np.float32)
        after = np.asarray(arrays["observations"][1:], np.float32)
        cuts[:-1] = (here != after).any(-1)
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


def _references(path: Path, env: str) -> References:
    """D4RL's published references, if the file and the environment are of the same robot."""
    in_file, in_env = words(path.stem), words(env)
    for robot, (gymnasium_name, values) in PUBLISHED.items():
        if robot in in_file and gymnasium_name in in_env and "bullet" not in in_file:
            return References(values, f"D4RL's published table for {robot}")
    if not env:
        return References(None, "none: an HDF5 file without an environment has no references")
    return References(None, f"none: D4RL publishes none for {path.name} in {env}")
