"""Tables of named columns, and which column is what, by the names that people use.

Names are compared without regard to case. A quantity of several dimensions is one column of lists,
or one column a dimension: `observation_0`, `obs.x`, `action[2]`. docs/formats.md has the rules.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data.images import Images
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import is_mapped

# What people call things, the first that is there wins.
OBSERVATION = ("observations", "observation", "obs", "states", "state")
ACTION = ("actions", "action", "act")
FOLLOWING = (
    *("next_observations", "next_observation", "next.observation", "next_obs", "next.obs"),
    *("next_states", "next_state"),
)
REWARD = ("rewards", "reward", "next.reward", "rew")
TERMINAL = (
    *("terminals", "terminal", "terminated", "terminations", "termination", "is_terminal"),
    *("next.terminated", "terminateds"),
)
TIMEOUT = (
    *("timeouts", "timeout", "truncated", "truncations", "truncation", "next.truncated"),
    *("is_truncated", "truncateds"),
)
DONE = ("dones", "done", "next.done", "is_last", "is_done")
FIRST = ("is_first",)
EPISODE = (
    *("episode", "episodes", "episode_id", "episode_index", "episode_idx", "episode_ids"),
    *("trajectory", "trajectory_id", "traj_id", "traj"),
)
TIME = ("timestamp", "timestamps", "time", "t")
STEP = ("frame_index", "step", "steps", "step_index")
COUNTERS = ("index", "task_index", "task", *STEP)
RLDS = ("is_first", "is_last", "is_terminal")
SEPARATORS = "._/: -"  # between a column's name and that of a part
LISTED = 15  # names of columns in a message


class Table(NamedTuple):
    """Columns of numbers or text, whose rows follow each other in time."""

    name: str
    columns: Mapping[str, np.ndarray]  # each [N] or [N, ...]
    starts: tuple[int, ...] = (0,)  # first rows of the files or recordings that it was made of
    images: tuple[str, ...] = ()  # columns of images that were not read, and videos
    names: Mapping[str, Sequence[str]] = {}  # of a column's dimensions, where they have names
    notes: tuple[str, ...] = ()
    whole: Mapping[str, Images] = {}  # columns with a frame more than steps in each recording


# --- Which column is what -------------------------------------------------------------------------


def chosen(
    table: Table,
    role: str,
    keys: Sequence[str],
    usual: Sequence[str],
    cameras: Mapping[str, str] = {},
) -> tuple[str, ...]:
    """The columns of a quantity, in order; `cameras` are columns of its images."""
    if keys:
        found = [name for key in keys for name in _named(table, role, key, cameras)]
        if len(set(found)) < len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise DataError(f"{table.name}: --{role}_keys names {twice!r} twice")
        return tuple(found)
    for base in usual:
        if found := matching(table, base):
            return tuple(found)
    if cameras:
        return ()
    raise DataError(
        f"{table.name}: no column is called {usual[0]}, {usual[1]} or {usual[2]}: name the columns "
        f"of the {role} (--{role}_keys=a,b). {listing(table)}"
    )


def _named(table: Table, role: str, key: str, cameras: Mapping[str, str]) -> list[str]:
    """The columns that a user's key means; none if it means images alone."""
    if found := matching(table, key):
        return found
    if any(begins(name, key) for name in cameras.values()):
        return []
    if key in table.images:
        raise DataError(
            f"{table.name}: {key} holds images, no numbers of an {role} (--{role}_keys). "
            + listing(table)
        )
    close = difflib.get_close_matches(key, table.columns, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{table.name}: no column {key!r} (--{role}_keys).{guess} {listing(table)}")


def begins(name: str, base: str) -> bool:
    """Whether a column's name is `base`, or `base` and a part of it: `obs` and `obs/top`."""
    rest = name.lower().removeprefix(base.lower())
    return name.lower().startswith(base.lower()) and (not rest or rest[0] in SEPARATORS)


def matching(table: Table, base: str) -> list[str]:
    """The column of a name, or those that are its dimensions; none if there are none.

    If some of them are numbered, those are the dimensions.
    """
    if exact := _exact(table, base):
        return [exact]
    pattern = re.compile(rf"{re.escape(base)}(?:[._/: -](?P<a>.+)|\[(?P<b>.+)\])", re.IGNORECASE)
    parts = {}
    for name in table.columns:
        found = pattern.fullmatch(name)
        if found and _role_of(name) in ("", base):
            parts[name] = found["a"] or found["b"]
    if numbered := {name: part for name, part in parts.items() if part.isdecimal()}:
        parts = numbered  # others are by-products, as `action_logprob`
        order = sorted(parts, key=lambda name: int(parts[name]))
        numbers = [int(parts[name]) for name in order]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
            raise DataError(
                f"{table.name}: the columns of {base} are numbered {_short(numbers)}: some are "
                "missing, or there twice"
            )
        return order
    return list(parts)


def _role_of(name: str) -> str:
    """What a column's whole name means by itself; empty if nothing."""
    everything = (*FOLLOWING, *REWARD, *TERMINAL, *TIMEOUT, *DONE, *FIRST, *EPISODE, *TIME)
    return name if name.lower() in (*everything, *COUNTERS) else ""


def _short(numbers: Sequence[int]) -> str:
    text = [str(number) for number in numbers]
    return ", ".join(text if len(text) <= LISTED else [*text[:LISTED], "..."])


def _exact(table: Table, name: str) -> str:
    if name in table.columns:
        return name
    return next((each for each in table.columns if each.lower() == name.lower()), "")


def one(table: Table, hint: str, key: str, usual: Sequence[str]) -> str:
    """The one column of a quantity; empty if there is none."""
    if key:
        found = _exact(table, key)
        if not found:
            close = difflib.get_close_matches(key, table.columns, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{table.name}: no column {key!r} (--{hint}).{guess} {listing(table)}")
        return found
    return next((found for name in usual if (found := _exact(table, name))), "")


def listing(table: Table) -> str:
    """The names of a table's columns, for messages."""
    names = list(table.columns)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"Its columns: {', '.join(names[:LISTED])}{more}"


def unused(table: Table, used: set[str]) -> list[str]:
    """What is not used, for the user to know."""
    spare = [name for name in table.columns if name not in used and name.lower() not in COUNTERS]
    notes = []
    if spare:
        more = f" and {len(spare) - LISTED} more" if len(spare) > LISTED else ""
        notes.append(f"columns that are not used: {', '.join(spare[:LISTED])}{more}")
    return notes


# --- Columns as arrays ----------------------------------------------------------------------------


def numbers(table: Table, name: str) -> np.ndarray:
    """A column of one number in each row [N]."""
    column = _checked(table, name)
    column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    if column.ndim != 1:
        raise DataError(f"{table.name}: {name} holds {kind_of(column)}, expected one")
    return column


def matrix(table: Table, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns side by side [N, D], and what each dimension is called; without names [N, 0]."""
    if not names:
        return np.zeros((rows(table), 0), np.float32), ()
    parts, told = [], []
    for name in names:
        column = _checked(table, name)
        if column.ndim > 3:
            raise DataError(
                f"{table.name}: {name} holds arrays of shape {column.shape[1:]}, which are neither "
                "vectors nor images"
            )
        flat: Any = column
        if not is_mapped(column):
            flat = column.reshape(len(column), int(np.prod(column.shape[1:])))
        own = [str(each) for each in table.names.get(name, ())]
        parts.append(flat)
        if column.ndim == 1:
            told.append(name)
        elif len(own) == flat.shape[1]:
            told += [f"{name}.{each}" for each in own]
        else:
            told += [f"{name}.{place}" for place in range(flat.shape[1])]
    if len(parts) > 1 and any(is_mapped(part) for part in parts):
        raise DataError(
            f"{table.name}: {', '.join(names[:LISTED])} are too large to be put side by side in "
            "memory: save them as one array in one file"
        )
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if not whole.shape[1]:
        raise DataError(f"{table.name}: {names[0]} holds lists without numbers")
    return whole, tuple(told)


def _checked(table: Table, name: str) -> np.ndarray:
    column = table.columns[name]
    if column.dtype.kind not in "biuf" or column.dtype.subdtype is not None:
        told = "text" if column.dtype.kind in "US" else str(column.dtype)
        raise DataError(f"{table.name}: {name} holds no numbers but {told}")
    return column


def flags(table: Table, name: str) -> np.ndarray:
    """A column of 0 and 1 as bools or floats [N]; an empty cell is NaN."""
    column = numbers(table, name)
    if column.dtype == bool:  # floats would take eight times as much
        return column
    column = np.asarray(column, np.float64)
    good = np.isin(column, (0, 1)) | np.isnan(column)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{table.name}: {name} holds other values than 0 and 1: {column[row]:g} at row {row}"
        )
    return column


def rows(table: Table) -> int:
    """The number of rows, which all columns must have.

    Raises:
      DataError: if they differ.
    """
    counts = {name: len(column) for name, column in table.columns.items() if column.ndim}
    counts |= {name: len(each.before) for name, each in table.whole.items()}
    single = [name for name, column in table.columns.items() if not column.ndim]
    if single:
        raise DataError(f"{table.name}: {single[0]} is a single value, expected one per row")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{table.name}: arrays of different lengths: {found}")
    return next(iter(counts.values()), 0)


def kind_of(column: np.ndarray) -> str:
    size = int(np.prod(column.shape[1:]))
    return "text" if column.dtype.kind in "US" else f"{size} number{'s' * (size != 1)} in a row"
