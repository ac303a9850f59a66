"""What somebody most likely wants whose dataset is unknown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from jaxrl_prefs.data.families import words
from jaxrl_prefs.environments import ogbench_names

CLOSE = 0.6  # how alike two names are at least, of 1
OLD = re.compile(  # ids of D4RL, which Minari has under other names
    r"(?P<robot>hopper|halfcheetah|walker2d|ant)-(?P<quality>[a-z-]+)-v\d"
)
MINARI = {"medium": "medium", "expert": "expert", "simple": "simple"}
PAGE = "docs/formats.md"
FORMATS = (
    "a file or a folder of Parquet, CSV, npz, npy or HDF5, a LeRobot dataset, a name of OGBench's "
    "such as cube-single-play-singletask-task1-v0 (tasks 1 to 5), a Minari id such as "
    "mujoco/hopper/medium-v0, or its folder"
)


def unknown(name: str, known: Iterable[str]) -> str:
    """Says that there is no such dataset, and what comes close to the name.

    Args:
      name: what was asked for.
      known: the names of datasets that are here, or can be made here.
    """
    told = f"unknown dataset {name!r}. "
    if guesses := _guesses(name, known):
        told += f"Did you mean {' or '.join(map(repr, guesses))}? "
    if path := _neighbour(name):
        told += f"There is {path}. "
    return told + f"A dataset is {FORMATS} ({PAGE}); jaxrl-prefs data list shows what is here"


def _guesses(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names; with OGBench's among them, only the closest, and those as close."""
    found = close(name, known)
    if not (own := ogbench_names.similar(name)):
        return found
    return ogbench_names.closest(name, (*own, *found))


def close(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names: those spelled alike first, then those with the same words."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=CLOSE)
    parts = set(_plain(name))
    shared = {each: len(parts & set(_plain(each))) for each in known}
    most = max(shared.values(), default=0)
    same = [each for each in known if shared[each] == most and most >= max(1, min(2, len(parts)))]
    found = list(dict.fromkeys([*same, *near] if most >= 2 else [*near, *same]))
    old = OLD.fullmatch(name)
    if old and old["quality"] in MINARI:
        found.append(f"mujoco/{old['robot']}/{MINARI[old['quality']]}-v0")
    return list(dict.fromkeys(found))[:3]


def _plain(name: str) -> list[str]:
    """The words of a name but for its version."""
    return [word for word in words(name) if not re.fullmatch(r"v\d+", word)]


def _neighbour(name: str) -> str:
    """The file or folder beside which a path points; empty if there is none like it."""
    place = Path(name).expanduser()
    try:
        names = [each.name for each in place.parent.iterdir()] if place.parent != place else []
    except OSError:
        return ""
    if str(place.parent) == "." and "." not in name:
        return ""
    found = difflib.get_close_matches(place.name, names, n=1, cutoff=0.75)
    return str(place.parent / found[0]) if found else ""
