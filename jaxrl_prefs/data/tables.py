"""Tables of named columns, a row for each step: which column is what, and where episodes end.

Names are compared without regard to case. A quantity of several dimensions is one column with lists,
or one column a dimension: `observation_0`, `obs.x`, `action[2]`. docs/formats.md has the rules.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.steps import Steps
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
COUNTERS = ("index", "frame_index", "step", "steps", "step_index", "task_index", "task")
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


class _Ends(NamedTuple):
    """Where episodes end, and how."""

    last: np.ndarray  # [N] bool
    terminal: np.ndarray  # [N] of 0 and 1; NaN where a cell is empty
    used: tuple[str, ...]  # columns
    notes: tuple[str, ...]


def steps_of(table: Table, hints: Hints) -> Steps:
    """The episodes of a table.

    The observation after a step is the next row of the same episode, unless the table has columns
    of next observations. Without them the last step of an episode that was cut off has no
    successor.

    Raises:
      DataError: if the table lacks observations or actions, has images that are not left out by
        `observation_keys`, or does not say what the end of an episode is.
    """
    count = _check_rows(table)
    observed = _chosen(table, "observation", hints.observation_keys, OBSERVATION)
    acted = _chosen(table, "action", hints.action_keys, ACTION)
    _check_images(table, hints)
    reward = _one(table, "reward_key", hints.reward_key, REWARD)
    time = _one(table, "", "", TIME)
    observation, observation_names = _matrix(table, observed)
    action, action_names = _matrix(table, acted)
    ends = _ends(table, hints, time)
    following, successor, after = _following(table, observed, observation, ends)
    used = {*observed, *acted, *after, *ends.used, *filter(None, (reward, time))}
    steps = Steps(
        observation=observation,
        action=action,
        reward=_numbers(table, reward) if reward else None,
        terminal=ends.terminal,
        next_observation=following,
        lengths=np.diff(np.flatnonzero(ends.last), prepend=-1),
        successor=successor,
        time=_numbers(table, time) if time else None,
        observation_names=observation_names,
        action_names=action_names,
        notes=(*table.notes, *ends.notes, *_left(table, used), *_rewardless(reward)),
    )
    asked = bool(hints.episode_ends)
    rlds = all(name in table.columns for name in RLDS) and not asked and not after
    return _without_last_rows(table, steps, count) if rlds else steps


def joined(name: str, parts: Sequence[Table]) -> Table:
    """One table of several, each of which begins a new episode.

    Raises:
      DataError: if they have different columns.
    """
    first = parts[0]
    for part in parts[1:]:
        if missing := sorted({*first.columns} ^ {*part.columns}):
            lacking = part if missing[0] in first.columns else first
            raise DataError(
                f"{lacking.name} has no column {missing[0]!r}, which other files of {name} have"
            )
        for key, column in part.columns.items():
            other = first.columns[key]
            if column.shape[1:] != other.shape[1:] or (column.dtype.kind in "US") != (
                other.dtype.kind in "US"
            ):
                raise DataError(
                    f"{part.name}: column {key!r} holds {_kind(column)}, and {_kind(other)} in "
                    f"{first.name}"
                )
    sizes = [len(next(iter(part.columns.values()))) for part in parts]
    begins = np.cumsum([0, *sizes[:-1]]).tolist()
    starts = [b + s for b, part in zip(begins, parts, strict=True) for s in part.starts]
    return first._replace(
        name=name,
        columns={key: np.concatenate([p.columns[key] for p in parts]) for key in first.columns},
        starts=tuple(starts),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _kind(column: np.ndarray) -> str:
    size = int(np.prod(column.shape[1:]))
    return "text" if column.dtype.kind in "US" else f"{size} number{'s' * (size != 1)} in a row"


def _check_rows(table: Table) -> int:
    counts = {name: len(column) for name, column in table.columns.items() if column.ndim}
    single = [name for name, column in table.columns.items() if not column.ndim]
    if single:
        raise DataError(f"{table.name}: {single[0]} is a single value, expected one per row")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{table.name}: arrays of different lengths: {found}")
    if not counts or not next(iter(counts.values())):
        raise DataError(f"{table.name}: the dataset has no episodes")
    return next(iter(counts.values()))


# --- Which column is what -------------------------------------------------------------------------


def _chosen(
    table: Table, role: str, keys: Sequence[str], usual: Sequence[str]
) -> tuple[str, ...]:
    """The columns of a quantity, in order."""
    if keys:
        found = [name for key in keys for name in _named(table, role, key)]
        if len(set(found)) < len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise DataError(f"{table.name}: --{role}_keys names {twice!r} twice")
        return tuple(found)
    for base in usual:
        if found := _columns(table, base):
            return tuple(found)
    raise DataError(
        f"{table.name}: no column is called {usual[0]}, {usual[1]} or {usual[2]}: name the columns "
        f"of the {role} (--{role}_keys=a,b). {_listing(table)}"
    )


def _named(table: Table, role: str, key: str) -> list[str]:
    """The columns that a user's key means."""
    if found := _columns(table, key):
        return found
    if key in table.images:
        raise DataError(f"{table.name}: {key} holds images, which are not supported")
    close = difflib.get_close_matches(key, table.columns, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{table.name}: no column {key!r} (--{role}_keys).{guess} {_listing(table)}")


def _columns(table: Table, base: str) -> list[str]:
    """The column of a name, or those that are its dimensions; none if there are none."""
    if exact := _exact(table, base):
        return [exact]
    pattern = re.compile(rf"{re.escape(base)}(?:[._/: -](?P<a>.+)|\[(?P<b>.+)\])", re.IGNORECASE)
    parts = {}
    for name in table.columns:
        found = pattern.fullmatch(name)
        if found and _role_of(name) in ("", base):
            parts[name] = found["a"] or found["b"]
    if parts and all(part.isdecimal() for part in parts.values()):
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


def _one(table: Table, hint: str, key: str, usual: Sequence[str]) -> str:
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


def _check_images(table: Table, hints: Hints) -> None:
    if table.images and not hints.observation_keys:
        raise DataError(
            f"{table.name} holds images ({', '.join(table.images[:LISTED])}), which are not "
            "supported. To train without them, name the columns of the observation: "
            f"--observation_keys=... {_listing(table)}"
        )


def _left(table: Table, used: set[str]) -> list[str]:
    """What is not used, for the user to know."""
    spare = [name for name in table.columns if name not in used and name.lower() not in COUNTERS]
    notes = []
    if spare:
        more = f" and {len(spare) - LISTED} more" if len(spare) > LISTED else ""
        notes.append(f"columns that are not used: {', '.join(spare[:LISTED])}{more}")
    if table.images:
        notes.append(f"images that are left out: {', '.join(table.images[:LISTED])}")
    return notes


def _rewardless(reward: str) -> list[str]:
    return [] if reward else ["there are no rewards: only methods that need none can be trained"]


# --- Columns as arrays ----------------------------------------------------------------------------


def _numbers(table: Table, name: str) -> np.ndarray:
    """A column of one number in each row [N]."""
    column = _checked(table, name)
    column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    if column.ndim != 1:
        raise DataError(f"{table.name}: {name} holds {_kind(column)}, expected one")
    return column


def _matrix(table: Table, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
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


def _flags(table: Table, name: str) -> np.ndarray:
    """A column of 0 and 1 as floats [N]; an empty cell is NaN."""
    column = np.asarray(_numbers(table, name), np.float64)
    good = np.isin(column, (0, 1)) | np.isnan(column)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{table.name}: {name} holds other values than 0 and 1: {column[row]:g} at row {row}"
        )
    return column


# --- Episodes -------------------------------------------------------------------------------------


def _ends(table: Table, hints: Hints, time: str) -> _Ends:
    count = len(next(iter(table.columns.values())))
    names = {
        role: _one(table, "", "", usual)
        for role, usual in (
            *(("terminal", TERMINAL), ("timeout", TIMEOUT)),
            *(("done", DONE), ("first", FIRST)),
        )
    }
    flags = {role: _flags(table, name) for role, name in names.items() if name}
    episode = _one(table, "episode_key", hints.episode_key, EPISODE)
    last = np.zeros(count, bool)
    last[np.asarray(table.starts[1:], int) - 1] = True
    for role in ("terminal", "timeout", "done"):
        if role in flags:
            last |= flags[role] != 0  # an empty cell is a bad row, and ends an episode too
    if "first" in flags:
        last[:-1] |= flags["first"][1:] != 0
    if episode:
        last |= _changes(table, episode)
    notes = []
    if not episode and not flags:
        last, notes = _by_time(table, time, last)
    last[-1] = True
    if hints.episode_ends:
        terminal = last.astype(np.float64) * (hints.episode_ends == "terminal")
    else:
        terminal = _terminals(table, flags, names["done"], count)
        if not flags:
            notes.append(
                "no column says how episodes end: they are taken as cut off "
                "(--episode_ends=terminal if nothing can follow)"
            )
    used = tuple(filter(None, (*names.values(), episode)))
    return _Ends(last, terminal, used, tuple(notes))


def _terminals(
    table: Table, flags: Mapping[str, np.ndarray], done: str, count: int
) -> np.ndarray:
    """Where the task itself ended [N]; asks where one flag leaves that open."""
    if "terminal" in flags:
        return flags["terminal"]
    if "done" in flags and "timeout" in flags:
        ended = (flags["done"] == 1) & (flags["timeout"] == 0)
        return np.where(np.isnan(flags["done"] + flags["timeout"]), np.nan, ended)
    if "done" in flags and (flags["done"] != 0).any():
        raise DataError(
            f"{table.name}: {done} is the only flag, and does not say what the end of an episode "
            "is. --episode_ends=terminal if the task itself ended there, so that no reward can "
            "follow; --episode_ends=timeout if a time limit or the recording ended"
        )
    return np.zeros(count)


def _changes(table: Table, name: str) -> np.ndarray:
    """Where the number or the name of the episode is another one in the next row [N]."""
    column = table.columns[name]
    column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    if column.ndim != 1 or column.dtype.kind not in "biufUS":
        raise DataError(f"{table.name}: {name} holds no numbers or names of episodes")
    if column.dtype.kind == "f" and np.isnan(column).any():
        row = int(np.argmax(np.isnan(column)))
        raise DataError(f"{table.name}: {name} is empty at row {row}, so its episode is unknown")
    ends = np.append(column[1:] != column[:-1], True)
    bounds = [*table.starts, len(column)]
    for first, stop in zip(bounds[:-1], bounds[1:], strict=True):
        begins = first + np.flatnonzero(np.append(True, ends[first : stop - 1]))
        ids, where = np.unique(column[begins], return_index=True)
        if len(ids) < len(begins):
            again = np.setdiff1d(np.arange(len(begins)), where)[0]
            raise DataError(
                f"{table.name}: episode {column[begins[again]]} ({name}) comes back at row "
                f"{begins[again]} after others: sort the rows by episode and time"
            )
    return ends


def _by_time(table: Table, time: str, last: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Episodes of a table that names none: they begin where time goes back."""
    back = np.zeros(len(last), bool)
    if time:
        back[:-1] = np.diff(np.asarray(_numbers(table, time), np.float64)) < 0
    what = f"an episode begins where {time} goes back" if back.any() else "each file is one"
    single = not back.any() and len(table.starts) == 1
    told = "all rows are one episode" if single else what
    return last | back, [f"no column tells episodes apart: {told} (see --episode_key)"]


def _following(
    table: Table, observed: Sequence[str], observation: np.ndarray, ends: _Ends
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Next observations [N, O], whether each is known [N], and the columns that they are from."""
    twins = [[f"{prefix}{name}" for name in observed] for prefix in ("next_", "next.")]
    known = [twin for twin in twins if all(name in table.columns for name in twin)]
    for found in (*known, *(_columns(table, base) for base in FOLLOWING)):
        if found:
            order = found if known else _matched(observed, found)
            following = _matrix(table, order)[0]
            if following.shape != observation.shape:
                raise DataError(
                    f"{table.name}: observations have {observation.shape[1]} numbers, but next "
                    f"observations ({', '.join(found[:LISTED])}) {following.shape[1]}"
                )
            return following, np.ones(len(following), bool), tuple(order)
    shifted = np.roll(observation, -1, axis=0)
    following = np.where(ends.last[:, None], observation, shifted)
    return following, (ends.terminal == 1) | ~ends.last, ()


def _matched(observed: Sequence[str], following: Sequence[str]) -> list[str]:
    """The columns of next observations in the order of the observation's, by their last part."""
    tail = {re.split(r"[./\[]|_(?=[^_]*$)", name)[-1].lower(): name for name in following}
    wanted = [re.split(r"[./\[]|_(?=[^_]*$)", name)[-1].lower() for name in observed]
    if len(tail) == len(following) and all(part in tail for part in wanted):
        return [tail[part] for part in wanted]
    return list(following)


def _without_last_rows(table: Table, steps: Steps, count: int) -> Steps:
    """Steps of RLDS, whose last row of an episode is an observation without a step."""
    last = np.zeros(count, bool)
    last[np.cumsum(steps.lengths) - 1] = True
    kept: dict[str, np.ndarray | None] = {
        "observation": steps.observation,
        "action": steps.action,
        "reward": steps.reward,
        "time": steps.time,
        "terminal": np.roll(steps.terminal, -1),
        "next_observation": np.roll(steps.observation, -1, axis=0),
    }
    rows = ~last
    return steps._replace(
        **{key: None if value is None else value[rows] for key, value in kept.items()},
        lengths=steps.lengths - 1,
        successor=np.ones(int(rows.sum()), bool),
    )
