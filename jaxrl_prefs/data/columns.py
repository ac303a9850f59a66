"""Tables of named columns, and which column is what, by the names that people use.

Names are compared without regard to case. A quantity of several dimensions is one column of lists,
or one column a dimension: `observation_0`, `obs.x`, `action[2]`. docs/formats.md has the rules.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.errors import DataError

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
LISTED = 15  # names of columns in a message


class Table(NamedTuple):
    """Columns of numbers or text, whose rows follow each other in time."""

    name: str
    columns: Mapping[str, np.ndarray]  # each [N] or [N, ...]
    starts: tuple[int, ...] = (0,)  # first rows of the files or recordings that it was made of
    images: tuple[str, ...] = ()  # columns of images, which are not among `columns`
    names: Mapping[str, Sequence[str]] = {}  # of a column's dimensions, where they have names
    notes: tuple[str, ...] = ()


# --- Which column is what -------------------------------------------------------------------------


def chosen(table: Table, role: str, keys: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """The columns of a quantity, in order."""
    if keys:
        found = [name for key in keys for name in _named(table, role, key)]
        if len(set(found)) < len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise DataError(f"{table.name}: --{role}_keys names {twice!r} twice")
        return tuple(found)
    for base in usual:
        if found := matching(table, base):
            return tuple(found)
    raise DataError(
        f"{table.name}: no column is called {usual[0]}, {usual[1]} or {usual[2]}: name the columns "
        f"of the {role} (--{role}_keys=a,b). {_listing(table)}"
    )


def _named(table: Table, role: str, key: str) -> list[str]:
    """The columns that a user's key means."""
    if found := matching(table, key):
        return found
    if key in table.images:
        raise DataError(f"{table.name}: {key} holds images, which are not supported")
    close = difflib.get_close_matches(key, table.columns, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{table.name}: no column {key!r} (--{role}_keys).{guess} {_listing(table)}")


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
            raise DataError(f"{table.name}: no column {key!r} (--{hint}).{guess} {_listing(table)}")
        return found
    return next((found for name in usual if (found := _exact(table, name))), "")


def _listing(table: Table) -> str:
    names = list(table.columns)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"Its columns: {', '.join(names[:LISTED])}{more}"


def check_images(table: Table, hints: Hints) -> None:
    if table.images and not hints.observation_keys:
        raise DataError(
            f"{table.name} holds images ({', '.join(table.images[:LISTED])}), which are not "
            "supported. To train without them, name the columns of the observation: "
            f"--observation_keys=... {_listing(table)}"
        )


def unused(table: Table, used: set[str]) -> list[str]:
    """What is not used, for the user to know."""
    spare = [name for name in table.columns if name not in used and name.lower() not in COUNTERS]
    notes = []
    if spare:
        more = f" and {len(spare) - LISTED} more" if len(spare) > LISTED else ""
        notes.append(f"columns that are not used: {', '.join(spare[:LISTED])}{more}")
    if table.images:
        notes.append(f"images that are left out: {', '.join(table.images[:LISTED])}")
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
    """Columns side by side [N, D], and what each dimension is called."""
    parts, told = [], []
    for name in names:
        column = _checked(table, name)
        if column.ndim > 3 or (column.ndim == 3 and column.dtype == np.uint8):
            raise DataError(
                f"{table.name}: {name} holds images, arrays of shape {column.shape[1:]}, which are "
                "not supported"
            )
        flat = column.reshape(len(column), int(np.prod(column.shape[1:])))
        own = [str(each) for each in table.names.get(name, ())]
        parts.append(flat)
        if column.ndim == 1:
            told.append(name)
        elif len(own) == flat.shape[1]:
            told += [f"{name}.{each}" for each in own]
        else:
            told += [f"{name}.{place}" for place in range(flat.shape[1])]
    whole = np.concatenate(parts, axis=1)
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
    """A column of 0 and 1 as floats [N]; an empty cell is NaN."""
    column = np.asarray(numbers(table, name), np.float64)
    good = np.isin(column, (0, 1)) | np.isnan(column)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{table.name}: {name} holds other values than 0 and 1: {column[row]:g} at row {row}"
        )
    return column


def kind_of(column: np.ndarray) -> str:
    size = int(np.prod(column.shape[1:]))
    return "text" if column.dtype.kind in "US" else f"{size} number{'s' * (size != 1)} in a row"
