"""What of a run's config may change while the run is kept, and what is refused.

A folder takes, besides the config that it holds:

- bookkeeping: how often rows, evaluations and checkpoints are written, which loggers, and which
  preset the fields came from (the fields themselves are compared);
- more evaluation episodes: the last evaluation is played again with that many;
- more seeds (seeds_added.py trains them);
- more updates in the last phase, where no program of the method depends on their number;
- a first state (`init`) at another path, with the same numbers.

Everything else changes the meaning of what is there, and is refused with the field's name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl_prefs.errors import WorkdirError
from jaxrl_prefs.method import Method, identity
from jaxrl_prefs.runs import renamed, workdir
from jaxrl_prefs.runs.workdir import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    METRICS,
    RESULT,
    TIMINGS,
    Rows,
)
from jaxrl_prefs.training import comparison
from jaxrl_prefs.types import Spec

BOOKKEEPING = (  # fields of a run
    *("log", "log_every", "eval_every", "checkpoint_every", "checkpoint_minutes", "keep"),
    "preset",
)
EPISODES = "eval_episodes"


class Change(NamedTuple):
    """A field in which the requested config differs from the one in the folder."""

    section: str
    name: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.there!r} in the folder, {self.here!r} requested"


class CannotExtend(Exception):
    """A run cannot be trained further with other fields; the text says why, and may be empty."""


def no_extension(fields: Mapping[str, Any]) -> None:
    """Allows no field of the method to change."""
    del fields
    raise CannotExtend


def adopt(
    path: Path,
    config: Mapping[str, Any],
    compared: Iterable[str],
    check_extension: Callable[[Mapping[str, Any]], None] = no_extension,
) -> tuple[int, ...]:
    """Writes the config of a new run, or makes the run found here go on under this one.

    Data are compared by their checksum: the same file in another folder is the same run. A run that
    is to go on without an environment (`run.env` is "none") may have been begun with one.

    Args:
        path: the claimed folder.
        config: everything to write.
        compared: the sections of `config` in which no field may differ, but for the changes above.
        check_extension: given the method's fields in the folder, raises CannotExtend if a run with
            them cannot be trained further with those of `config`.

    Returns:
        The seeds that are there. They may be fewer than those of `config`.

    Raises:
        WorkdirError: naming the fields that differ, or saying that the folder is no run's.
    """
    if not (path / CONFIG).exists():
        if strangers := workdir.strangers(path):
            names = ", ".join(strangers[:3])
            raise WorkdirError(f"--workdir={path} is not empty and holds no run ({names})")
        workdir.write_json(path / CONFIG, config)
        return tuple(config["run"].get("seeds", ()))
    found = renamed.present(workdir.read_json(path / CONFIG))
    asked = renamed.present(config)
    changes = [Change(*each) for each in workdir.differences(found, asked, compared)]
    if refused := _refused(changes, found, asked, path, check_extension):
        other_preset = [str(each) for each in changes if each.name == "preset"]  # explains the rest
        refused = [*other_preset, *refused]
        differences = "; ".join(dict.fromkeys(refused))  # a field may stand in two sections
        raise WorkdirError(
            f"--workdir={path} holds a run with different settings ({differences}). "
            "Give another --workdir, or --overwrite to start again"
        )
    if kept := [each for each in changes if each[:2] != ("run", "seeds")]:
        _apply(path, found, asked, kept)
    return tuple(found["run"].get("seeds", ()))


def _refused(
    changes: Sequence[Change],
    found: Mapping[str, Any],
    asked: Mapping[str, Any],
    path: Path,
    check_extension: Callable[[Mapping[str, Any]], None],
) -> list[str]:
    refused = [
        str(each)
        for each in changes
        if each.section not in ("method", "init") and not _allowed(each)
    ]
    if any(each.section == "init" and not _allowed(each) for each in changes):
        refused.append(_other_init(found.get("init") or {}, asked.get("init") or {}))
    of_method = [each for each in changes if each.section == "method"]
    told = "; ".join(map(str, of_method))
    if of_method and refused:
        refused.append(told)
    elif of_method:
        try:
            check_extension(found.get("method", {}))
        except CannotExtend as error:
            refused.append(f"{told}: {error}" if str(error) else told)
    replayed = [each for each in changes if _plays_again(each)]
    if replayed and not refused and not _can_repeat(path):
        told = "; ".join(map(str, replayed))
        refused.append(f"{told}: this run is of a release whose last evaluation cannot be repeated")
    return refused


def _other_init(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    one, other = (each.get("run", "nothing") for each in (there, here))
    told = f"init: {one!r} in the folder, {other!r} requested"
    return told if "nothing" in (one, other) else f"{told}, which holds another state"


def _allowed(change: Change) -> bool:
    section, name, there, here = change
    if section == "init" and name == "sha256" and there != "nothing" and here != "nothing":
        return all(here.get(seed, digest) == digest for seed, digest in there.items())
    if section != "run":
        return False
    if name == "seeds":
        return isinstance(there, list) and set(there) < set(here)
    if name == EPISODES:
        return isinstance(there, int) and here > there
    return name in BOOKKEEPING


def _plays_again(change: Change) -> bool:
    return change.section == "method" or change.name == EPISODES


def _can_repeat(path: Path) -> bool:
    rows = list(Rows(path / TIMINGS))
    return not rows or "checksum" in rows[-1]


def _apply(
    path: Path, found: dict[str, Any], asked: Mapping[str, Any], changes: Sequence[Change]
) -> None:
    """Writes the changed config.

    If the change affects the last evaluation, first removes that log point's rows, so that the
    resumed run writes them again.
    """
    if any(map(_plays_again, changes)):
        with contextlib.suppress(FileNotFoundError):
            (path / RESULT).unlink()
        _cut_last(path)
    for section, name, _, here in changes:
        found[section] = {**found.get(section, {}), name: here}
    told = [{"field": each.name, "from": each.there, "to": each.here} for each in changes]
    found["changes"] = [*found.get("changes", []), *told]
    if any(each.section == "method" for each in changes):
        found |= {name: asked[name] for name in ("steps", "settings") if name in asked}
    workdir.write_json(path / CONFIG, found)


def _cut_last(path: Path) -> None:
    """Removes the rows of the newest checkpoint's log point; once, however often it is called."""
    timings = list(Rows(path / TIMINGS))
    steps = [int(x.name) for x in (path / CHECKPOINTS).glob("*") if x.name.isdigit()]
    if timings and steps and timings[-1]["step"] == max(steps):
        before = timings[-1]["step"] - timings[-1]["updates"]
        for name in (METRICS, EVALUATIONS, TIMINGS):  # TIMINGS last: an interrupted cut is repeated
            Rows(path / name).cut(before)


def check_extension(before: Method, after: Method, spec: Spec) -> None:
    """Checks that a run of `before` can be trained further as one of `after`.

    Raises:
        CannotExtend: if not. The text is empty where the two differ in more than the length of the
            last phase, so that the names of the fields say enough.
    """
    names = [phase.name for phase in before.phases]
    if names != [phase.name for phase in after.phases]:
        raise CannotExtend
    last = max(place for place, phase in enumerate(before.phases) if phase.steps)
    lengths = [(one.steps, other.steps) for one, other in _pairs(before, after)]
    if any(one != other for place, (one, other) in enumerate(lengths) if place != last):
        raise CannotExtend("only the last phase of a run can be made longer")
    if lengths[last][0] > lengths[last][1]:
        raise CannotExtend("a run takes more updates, not fewer")
    for phase in before.phases[last + 1 :]:
        if phase.enter is not identity:
            raise CannotExtend(
                f"phase {phase.name!r}, which follows, has already changed the state"
            )
    if lengths[last][0] == lengths[last][1]:
        raise CannotExtend
    differing = comparison.differing(before, after, spec)
    if differing == [f"phase {names[last]}"]:
        raise CannotExtend(
            f"the program of phase {names[last]!r} depends on its number of updates (usually a "
            "learning-rate schedule), so a longer run must start again"
        )
    if differing:
        raise CannotExtend


def _pairs(before: Method, after: Method) -> Iterable[Any]:
    return zip(before.phases, after.phases, strict=True)
