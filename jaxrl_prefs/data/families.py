"""Families of datasets, and the processing that each family takes by default."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple

# Tried in this order on the words of the dataset's name and of its environment's id.
FAMILIES = {
    "vd4rl": r"vd4rl|dmcontrol",
    "robomimic": r"robomimic|robosuite",
    "ogbench": r"ogbench",
    "antmaze": r"antmaze",
    "maze2d": r"maze2d\w*",
    "pointmaze": r"pointmaze",
    "kitchen": r"\w*kitchen",
    "adroit": r"adroit\w*|pen|hammer|door|relocate",
    "pendulum": r"pendulum",
    "locomotion": r"\w*(hopper|halfcheetah|walker2d)|walker|ant|humanoid\w*|swimmer",
}
OTHER = "other"
FILES = (".hdf5", ".h5", ".npz", ".npy", ".parquet", ".csv", ".tsv")


class Processing(NamedTuple):
    """How raw data becomes what a method sees; all fields are part of a run's configuration.

    A reward r becomes `reward_scale * r / range + reward_shift`, where the range is 1 for
    reward='affine' and the difference between the largest and the smallest return of an episode
    for reward='range'. For reward='sparse' r is first replaced by 0 where it is 0 and by -1
    elsewhere: success or not, of rewards that count what is wrong (OGBench's manipulation).
    """

    gamma: float = 0.99  # discount per step
    reward: str = "affine"  # 'affine', 'range' or 'sparse'
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    normalize_observations: bool = False  # to mean 0 and standard deviation 1
    clip_actions: bool = False  # to the action space; without it, actions outside are refused
    frame_stack: int = 3  # of an observation's images: frames that are seen at once


DEFAULTS = {
    # The usual D4RL pre-processing of IQL, DAC and BDPO: returns span 1000.
    "locomotion": Processing(reward="range", reward_scale=1000.0),
    # Sparse rewards of 0 and 1 and long ways, as in DAC and BDPO.
    "antmaze": Processing(gamma=0.995, reward_scale=100.0),
    # 1 at success, shaped to -1 on every other step (ARQ, and IQL on Robomimic).
    "robomimic": Processing(reward_shift=-1.0),
    # Raw rewards lie between -16.3 and 0.
    "pendulum": Processing(reward_scale=0.1),
}


def words(name: str) -> list[str]:
    """The lower-case words of a dataset's name or an environment's id.

    >>> words("Ant_maze_big-maze_noisy")  # as D4RL names its files of ant mazes
    ['antmaze', 'big', 'maze', 'noisy']
    """
    return re.findall(r"[a-z0-9]+", name.lower().replace("ant_maze", "antmaze"))


def family_of(name: str, env_id: str = "") -> str:
    """The family of a dataset, by its name and its environment; 'other' if none fits."""
    stem = PurePath(name).stem if name.lower().endswith(FILES) else name
    found = words(stem) + words(env_id)
    for family, pattern in FAMILIES.items():
        if any(re.fullmatch(pattern, word) for word in found):
            return family
    return OTHER


def defaults(family: str) -> Processing:
    """The processing of a family; families without their own take gamma .99 and raw rewards."""
    return DEFAULTS.get(family, Processing())
