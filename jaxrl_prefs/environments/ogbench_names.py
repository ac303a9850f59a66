"""OGBench's names: of its data, of single tasks, and of the tasks' environments.

    cube-single-play-v0                     data alone, in the file cube-single-play-v0.npz
    cube-quadruple-play-100m-v0             large data, a folder of files
    cube-single-play-singletask-task1-v0    data with the rewards of a task
    cube-single-play-singletask-v0          with those of the default task
    cube-single-singletask-task1-v0         the task's environment, as Gymnasium knows it
    visual-cube-single-play-v0              the same with images as observations

Large data take a task in the same way, `cube-quadruple-play-100m-singletask-task1-v0`; the package
itself has no name for that. Park et al. 2025, arXiv 2410.20092.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple

VISUAL = "visual-"  # the start of names whose observations are images
_SIZES = ("medium", "large", "giant", "teleport")
MAZES = (
    *(f"{robot}maze-{size}" for robot in ("point", "ant", "humanoid") for size in _SIZES),
    *("antsoccer-arena", "antsoccer-medium"),
)
TABLES = (
    *(f"cube-{count}" for count in ("single", "double", "triple", "quadruple", "octuple")),
    "scene",
    *(f"puzzle-{size}" for size in ("3x3", "4x4", "4x5", "4x6")),
)
WAYS = {MAZES: ("navigate", "stitch", "explore"), TABLES: ("play", "noisy")}  # of collecting data
_MAZES, _TABLES = map("|".join, (MAZES, TABLES))
_WALKED, _HANDLED = map("|".join, WAYS.values())
_DATA = (
    rf"(?P<place>(?:{VISUAL})?(?:(?P<maze>{_MAZES})|{_TABLES}))-"
    rf"(?P<kind>(?(maze)(?:{_WALKED})|(?:{_HANDLED})))(?P<large>-100m)?"
)
_TASK = r"-singletask(?:-(?P<task>task[1-5]))?"
_NAME = re.compile(rf"{_DATA}(?P<single>{_TASK})?-v0")
_ENVIRONMENT = re.compile(rf"(?P<place>(?:{VISUAL})?(?:{_MAZES}|{_TABLES})){_TASK}-v0")
_IMAGES = re.compile(r"(visual-|powderworld-).+-v\d+")
CLOSE = 0.88  # similarity of a name at least, of 1; D4RL's antmaze-medium-play-v0 has less
NEAR = 0.02  # by how much another guess may be less similar than the closest

# The task that a name without a number stands for, by the first part of the place that fits.
DEFAULT_TASKS = {
    **dict.fromkeys(("puzzle-4x5", "puzzle-4x6", "cube", "scene"), "task2"),
    **dict.fromkeys(("puzzle", "antsoccer"), "task4"),
    "": "task1",
}


class Name(NamedTuple):
    """A name of data, read."""

    place: str  # "cube-single"
    kind: str  # how the data were collected: "play"
    large: bool  # the set of 100 million steps
    task: str | None  # "task1", empty for the default task, None for data alone

    @property
    def data(self) -> str:
        """The name of the file, without its ending, or of the folder: "cube-single-play-v0"."""
        return f"{self.place}-{self.kind}{'-100m' * self.large}-v0"

    @property
    def env_id(self) -> str:
        """The task's environment; empty for data alone."""
        if self.task is None:
            return ""
        return "-".join([self.place, "singletask", *filter(None, [self.task]), "v0"])


def parse(name: str) -> Name | None:
    """Reads a name of data; None for anything else, such as the name of an environment.

    >>> parse("scene-play-singletask-task4-v0")
    Name(place='scene', kind='play', large=False, task='task4')
    >>> parse("antmaze-medium-play-v0")  # is D4RL's
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    task = (found["task"] or "") if found["single"] else None
    return Name(found["place"], found["kind"], bool(found["large"]), task)


def closest(text: str, names: Iterable[str], least: float = 0.0) -> list[str]:
    """Up to three names: the one most similar to a text, and those about as similar."""
    similarity = {name: difflib.SequenceMatcher(None, text, name).ratio() for name in names}
    least = max(least, max(similarity.values()) - NEAR)
    near = [name for name, found in similarity.items() if found >= least]
    return sorted(near, key=lambda name: -similarity[name])[:3]


def similar(text: str) -> list[str]:
    """Up to three names that are spelled almost like a text: the closest, and those as close.

    >>> similar("antmaze-giant-navigate-v1"), similar("hopper-medium-v2")
    (['antmaze-giant-navigate-v0'], [])
    """
    start, large = VISUAL * text.startswith(VISUAL), "-100m" * ("-100m" in text)
    tasks = ["-singletask", *(f"-singletask-task{number}" for number in range(1, 6))]
    names = [
        f"{start}{place}-{kind}{large}{task}-v0"
        for places, kinds in WAYS.items()
        for place in places
        for kind in kinds
        for task in (tasks if "task" in text else [""])
    ]
    return closest(text, names, CLOSE)


def of_path(path: str | PurePath) -> Name | None:
    """Reads the name of a file of data or of the folder that it is in; None for other names.

    >>> of_path("downloads/cube-single-play-v0.npz").place
    'cube-single'
    """
    place = PurePath(path)
    names = (parse(text.removesuffix(".npz")) for text in (place.name, place.parent.name))
    return next(filter(None, names), None)


def example(path: str | PurePath) -> str:
    """The flag that names a task for the data of a name or a file.

    >>> example("downloads/cube-single-play-v0.npz")
    '--env=cube-single-singletask-task1-v0'
    """
    found = of_path(path)
    return f"--env={found.place if found else 'PLACE'}-singletask-task1-v0"


def tasks_of(env_id: str) -> tuple[str, ...]:
    """The environments of the five tasks of the place of a task's environment."""
    place = place_of(env_id)
    return tuple(f"{place}-singletask-task{number}-v0" for number in range(1, 6)) if place else ()


def environment(name: str) -> str:
    """The id of the environment that a name of a single task stands for; other text as it is.

    >>> environment("cube-single-play-singletask-task1-v0")
    'cube-single-singletask-task1-v0'
    """
    found = parse(name)
    return found.env_id or name if found else name


def is_task(env_id: str) -> bool:
    """Whether this is the id of the environment of a single task."""
    return _ENVIRONMENT.fullmatch(env_id) is not None


def place_of(env_id: str) -> str:
    """The place of a task's environment, "cube-single"; empty for other ids."""
    found = _ENVIRONMENT.fullmatch(env_id)
    return found["place"] if found else ""


def of_images(name: str) -> bool:
    """Whether a name is that of data whose observations are images, or actions numbers of choices.

    >>> of_images("visual-cube-single-play-v0")
    True
    """
    return _IMAGES.fullmatch(name) is not None


def single_task(dataset: str, env_id: str = "") -> str:
    """The full name of single-task data, its task numbered; empty for other data.

    Args:
      dataset: a name, or the path of a file or folder that is called like its data.
      env_id: the environment, which tells the task of data alone.

    >>> single_task("downloads/scene-play-v0.npz", "scene-singletask-task4-v0")
    'scene-play-singletask-task4-v0'
    """
    found, where = (
        parse(PurePath(dataset).name.removesuffix(".npz")),
        _ENVIRONMENT.fullmatch(env_id),
    )
    if found is not None and found.task is None and where and where["place"] == found.place:
        found = found._replace(task=where["task"] or "")
    if found is None or found.task is None:
        return ""
    task = "-".join(filter(None, ["singletask", found.task]))
    return numbered(f"{found.data.removesuffix('-v0')}-{task}-v0")


def numbered(name: str) -> str:
    """A name of data or of an environment with the number of its task in place of the default.

    >>> numbered("scene-play-singletask-v0"), numbered("antmaze-large-singletask-v0")
    ('scene-play-singletask-task2-v0', 'antmaze-large-singletask-task1-v0')
    """
    if not name.endswith("-singletask-v0"):
        return name
    bare = name.removeprefix(VISUAL)
    task = next(task for start, task in DEFAULT_TASKS.items() if bare.startswith(start))
    return name.replace("-singletask-", f"-singletask-{task}-")
