"""Settings by dataset and algorithm, as plain data with their sources.

`PRESETS[dataset][algo]` holds fields of the run and of the method. A dataset without a row of its
own takes its robot's (`ROBOTS`), else its family's (`FAMILIES`). The key "*" holds what every
method shares. Defaults are the papers' for locomotion, so rows name only what differs.

`CPU` holds other rows, which only `--preset=cpu` takes: small networks and few updates, chosen for
two CPU cores. The pendulum's two sets (`EMBEDDED`) appear in no paper; their rows
stand in both tables.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxrl_prefs.data.families import words
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import baseline_presets, diffusion_presets, family_presets
from jaxrl_prefs.runs.baseline_presets import Row, merged
from jaxrl_prefs.runs.cpu_presets import CPU, EMBEDDED
from jaxrl_prefs.runs.family_presets import FAMILIES, ROBOTS, TASKS

DEFAULT, CPU_PRESET = "default", "cpu"  # values of the run's field `preset`

PRESETS: dict[str, dict[str, Row]] = merged(
    family_presets.DATASETS,
    baseline_presets.DATASETS,
    diffusion_presets.DATASETS,
    {name: CPU[name] for name in EMBEDDED},
)


# D4RL's antmaze tasks by the name of the file that each downloads (d4rl/locomotion/__init__.py).
ANTMAZE_FILES = {
    "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse": "antmaze-umaze-v0",
    "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse": "antmaze-umaze-diverse-v0",
    "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse": "antmaze-medium-play-v0",
    "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse": "antmaze-medium-diverse-v0",
    "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse": "antmaze-large-play-v0",
    "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse": "antmaze-large-diverse-v0",
}


def known_as(dataset: str) -> str:
    """The name under which a dataset's row is kept: an id as it is, a file by its task.

    >>> known_as("downloads/hopper_medium_replay-v2.hdf5")
    'hopper-medium-replay-v2'
    >>> known_as("datasets/lift/ph/low_dim_v15.hdf5#train")  # as robomimic's downloads lie
    'robomimic/lift/ph-v0'
    """
    path = PurePath(dataset.partition("#")[0])
    if path.suffix not in (".hdf5", ".h5"):
        return dataset
    if path.parent.name in ("ph", "mh", "mg"):
        return f"robomimic/{path.parent.parent.name}/{path.parent.name}-v0"
    stem = path.stem
    return ANTMAZE_FILES.get(stem.removesuffix("_fixed"), stem.replace("_", "-"))


class Preset(NamedTuple):
    """The fields that a method takes on a dataset, and where they come from."""

    fields: dict[str, Any]
    source: str  # for people: "the dataset's own row", "its robot's row (hopper)", ...


def overrides_for(
    dataset: str, family: str, algo: str, env_id: str = "", kind: str = DEFAULT
) -> dict[str, Any]:
    """As `preset`, without the source."""
    return preset(dataset, family, algo, env_id, kind).fields


def preset(dataset: str, family: str, algo: str, env_id: str = "", kind: str = DEFAULT) -> Preset:
    """Finds a method's settings for a dataset: its own row, else its robot's, else its family's.

    Args:
        dataset: its full name.
        family: as `data.families.family_of` says.
        algo: the method's name.
        env_id: of the environment that the dataset names, which may tell the robot.
        kind: DEFAULT, or CPU_PRESET for the dataset's row of `CPU` and no other.

    Raises:
        ConfigError: if `CPU` has no such row.
    """
    if kind == CPU_PRESET:
        check_cpu(dataset, algo)
        rows = CPU[known_as(dataset)]
        return Preset(rows.get("*", {}) | rows[algo], "the dataset's row for a CPU")
    own, by_family = PRESETS.get(known_as(dataset), {}), FAMILIES.get(family, {})
    shared = dict((by_family if algo not in own else {}).get("*", {})) | dict(own.get("*", {}))
    if algo in own:
        return Preset(shared | own[algo], "the dataset's own row")
    robot = _robot(dataset, env_id)
    if robot and algo in ROBOTS[robot]:
        name = re.sub(r"\\w\*|\(2d\)\?", "", robot)
        whose = "task" if robot in TASKS else "robot"
        return Preset(shared | ROBOTS[robot][algo], f"its {whose}'s row ({name})")
    if algo in by_family:
        return Preset(shared | by_family[algo], f"its family's row ({family})")
    return Preset(shared, "the method's defaults")


def has_cpu(dataset: str, algo: str) -> bool:
    """Whether `--preset=cpu` has settings of a method for a dataset, by its full name."""
    return algo in CPU.get(known_as(dataset), {})


def check_cpu(dataset: str, algo: str) -> None:
    """Raises ConfigError, naming the datasets that have one, where `CPU` lacks a row."""
    if has_cpu(dataset, algo):
        return
    others = [name for name, rows in CPU.items() if algo in rows]
    told = f"It has them for {', '.join(others)}" if others else "It has them for no dataset"
    raise ConfigError(
        f"--preset=cpu has no settings of {algo} for {dataset}. {told}. Leave it out, and set what "
        "should be smaller, such as train_steps"
    )


def _robot(dataset: str, env_id: str) -> str:
    """The key of ROBOTS that fits a dataset's name or its environment's; empty if none does."""
    for place in (known_as(dataset), env_id):
        found = words(re.sub(r"[-_]v\d+$", "", place))
        for robot in ROBOTS:
            parts, last = robot.split(), len(found) - len(robot.split())
            if any(
                all(re.fullmatch(part, found[at + i]) for i, part in enumerate(parts))
                for at in range(last + 1)
            ):
                return robot
    return ""
