"""The episodes of a table of named columns, a row for each step: where they end, and how."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import columns, images, table_images
from jaxrl_prefs.data.columns import (
    ACTION,
    DONE,
    EPISODE,
    FIRST,
    FOLLOWING,
    LISTED,
    OBSERVATION,
    REWARD,
    RLDS,
    STEP,
    TERMINAL,
    TIME,
    TIMEOUT,
    Table,
)
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import end_to_end, is_mapped
from jaxrl_prefs.rows import selected


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
      DataError: if the table lacks observations or actions, has images that are neither taken nor
        left out by `observation_keys`, or does not say what the end of an episode is.
    """
    count, keys, whole = _check_rows(table), hints.observation_keys, table
    cameras = table_images.chosen(whole, keys)
    table_images.check_all_named(whole, cameras, keys)
    table = table_images.plain(whole)
    observed = columns.chosen(table, "observation", keys, OBSERVATION, cameras)
    acted = columns.chosen(table, "action", hints.action_keys, ACTION)
    reward = columns.one(table, "reward_key", hints.reward_key, REWARD)
    time = columns.one(table, "", "", TIME)
    observation, observation_names = columns.matrix(table, observed)
    action, action_names = columns.matrix(table, acted)
    order = _ordering(table, {*observed, *acted, reward})
    ends = _ends(table, hints, order)
    following, successor, after = _following(table, keys, observed, observation, ends)
    shown = table_images.shown(whole, cameras, ends.last)
    if cameras:
        successor = (ends.terminal == 1) | (shown.known & (successor | (not observed)))
    used = {*observed, *acted, *after, *ends.used, *filter(None, (reward, time))}
    steps = Steps(
        observation=observation,
        action=action,
        reward=columns.numbers(table, reward) if reward else None,
        terminal=ends.terminal,
        next_observation=following,
        lengths=np.diff(np.flatnonzero(ends.last), prepend=-1),
        successor=successor,
        time=columns.numbers(table, time) if time else None,
        observation_names=observation_names,
        action_names=action_names,
        notes=(*table.notes, *ends.notes, *columns.unused(table, used), *shown.notes),
        images=shown.images,
    )
    rlds = all(columns.one(table, "", "", (name,)) for name in RLDS) and not after
    return _without_last_rows(table, steps, count) if rlds else steps


def joined(name: str, parts: Sequence[Table]) -> Table:
    """One table of several, each of which begins a new episode.

    Raises:
      DataError: if they have different columns.
    """
    sizes = [columns.rows(part) for part in parts]
    full = [part for part, size in zip(parts, sizes, strict=True) if size] or parts[:1]
    empty, sizes = len(parts) - len(full), [size for size in sizes if size] or sizes[:1]
    told = f"{empty} of {len(parts)} files {'has' if empty == 1 else 'have'} no rows: left out"
    parts, first = full, full[0]
    for part in parts[1:]:
        if missing := sorted({*first.columns} ^ {*part.columns}):
            lacking = part if missing[0] in first.columns else first
            raise DataError(
                f"{lacking.name} has no column {missing[0]!r}, which other files of {name} have"
            )
        for key, column in part.columns.items():
            here, there = columns.kind_of(column), columns.kind_of(first.columns[key])
            if images.is_image(column) and column.shape[1:] != first.columns[key].shape[1:]:
                own, other = (images.shape_of(each.columns[key]) for each in (part, first))
                raise DataError(
                    f"{part.name}: the images {key!r} are {own}, and {other} in {first.name}: "
                    "resize them to one size"
                )
            if here != there:
                raise DataError(
                    f"{part.name}: column {key!r} holds {here}, and {there} in {first.name}"
                )
    begins = np.cumsum([0, *sizes[:-1]]).tolist()
    starts = [b + s for b, part in zip(begins, parts, strict=True) for s in part.starts]
    whole = first.columns  # of one part as they are: its images may be a memory map
    if len(parts) > 1:
        whole = {key: end_to_end([part.columns[key] for part in parts]) for key in whole}
    return first._replace(
        name=name,
        columns=whole,
        starts=tuple(starts),
        whole=table_images.joined(parts),
        notes=(
            *((told,) if empty else ()),
            *dict.fromkeys(note for part in parts for note in part.notes),
        ),
    )


def _check_rows(table: Table) -> int:
    count = columns.rows(table)
    if not count:
        raise DataError(f"{table.name}: the dataset has no episodes: there are no rows")
    return count


# --- Episodes -------------------------------------------------------------------------------------


def _ends(table: Table, hints: Hints, order: Sequence[str]) -> _Ends:
    count = len(next(iter(table.columns.values())))
    names = {
        role: columns.one(table, "", "", usual)
        for role, usual in (
            *(("terminal", TERMINAL), ("timeout", TIMEOUT)),
            *(("done", DONE), ("first", FIRST)),
        )
    }
    flags = {role: columns.flags(table, name) for role, name in names.items() if name}
    episode = columns.one(table, "episode_key", hints.episode_key, EPISODE)
    last = np.zeros(count, bool)
    last[np.asarray(table.starts[1:], int) - 1] = True
    for role in ("terminal", "timeout", "done"):
        if role in flags:
            last |= flags[role] != 0  # an empty cell is a bad row, and ends an episode too
    if "first" in flags:
        last[:-1] |= flags["first"][1:] != 0
    last[-1] = True
    if episode:
        last, notes = _by_episode(table, episode, order, last)
    else:
        last, notes = _by_time(table, order, last, bool(flags))
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


def _terminals(table: Table, flags: Mapping[str, np.ndarray], done: str, count: int) -> np.ndarray:
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
    lost = np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)
    if column.dtype.kind == "U":
        lost = (column == "") | (column == "nan")
    if lost.any():
        row = int(np.argmax(lost))
        raise DataError(f"{table.name}: {name} is empty at row {row}, so its episode is unknown")
    if column.dtype.kind == "f":
        largest = 2.0 ** (np.finfo(column.dtype).nmant + 1)
        if (np.abs(column) >= largest).any():
            raise DataError(
                f"{table.name}: {name} holds floats of {largest:.0f} or more, which may stand for "
                "several episodes each: save the numbers of episodes as integers or as text"
            )
    ends = np.append(column[1:] != column[:-1], True)
    bounds = [*table.starts, len(column)]
    for first, stop in itertools.pairwise(bounds):
        begins = first + np.flatnonzero(np.append(True, ends[first : stop - 1]))
        ids, where = np.unique(column[begins], return_index=True)
        if len(ids) < len(begins):
            again = np.setdiff1d(np.arange(len(begins)), where)[0]
            raise DataError(
                f"{table.name}: episode {column[begins[again]]} ({name}) comes back at row "
                f"{begins[again]} after others: sort the rows by episode and time"
            )
    return ends


def _ordering(table: Table, taken: set[str]) -> list[str]:
    """The columns of times and of numbers of steps, which go up within an episode."""
    found = [columns.one(table, "", "", usual) for usual in (TIME, *((name,) for name in STEP))]
    return [
        name
        for name in dict.fromkeys(filter(None, found))
        if name not in taken
        and table.columns[name].dtype.kind in "biuf"
        and table.columns[name].size == len(table.columns[name])
    ]


def _goes_back(table: Table, name: str) -> np.ndarray:
    """Where the next row has a smaller number [N]."""
    column = columns.numbers(table, name)
    return np.append(column[1:] < column[:-1], False)


def _by_episode(
    table: Table, episode: str, order: Sequence[str], last: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Episodes of a table that names them, whose rows must be in the order of time."""
    changes = _changes(table, episode)
    begins = np.asarray(table.starts[1:], int)
    changes[begins - 1] = True
    for name in order:
        back = _goes_back(table, name) & ~changes
        if back.any():
            row = int(np.argmax(back)) + 1
            raise DataError(
                f"{table.name}: {name} goes back at row {row}, within an episode ({episode}): the "
                f"rows of an episode must be in order. Sort them by {episode} and {name}"
            )
    inside = int((last & ~changes).sum())
    told = f"{inside} ends lie within an episode ({episode}): it is cut there"
    return last | changes, [told] if inside else []


def _by_time(
    table: Table, order: Sequence[str], last: np.ndarray, flagged: bool
) -> tuple[np.ndarray, list[str]]:
    """Episodes of a table that names none: they begin where a time or number of steps goes back."""
    back = [_goes_back(table, name) & ~last for name in order]
    found = [name for name, each in zip(order, back, strict=True) if each.any()]
    whole = np.logical_or.reduce([last, *back])
    if flagged and not found:
        return whole, []
    what = f"an episode begins where {found[0]} goes back" if found else "each file is one"
    told = "all rows are one episode" if not found and len(table.starts) == 1 else what
    if flagged:
        return whole, [f"{what}, besides those that flags end (see --episode_key)"]
    return whole, [f"no column tells episodes apart: {told} (see --episode_key)"]


def _following(
    table: Table,
    keys: Sequence[str],
    observed: Sequence[str],
    observation: np.ndarray,
    ends: _Ends,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Next observations [N, O], whether each is known [N], and the columns that they are from."""
    if not observed:
        return observation, (ends.terminal == 1) | ~ends.last, ()
    twins = [[f"{prefix}{name}" for name in observed] for prefix in ("next_", "next.")]
    known = [twin for twin in twins if all(name in table.columns for name in twin)]
    paired = [("", twin) for twin in known]
    for base, found in (*paired, *((base, columns.matching(table, base)) for base in FOLLOWING)):
        if found:
            order = found if known else _matched(table, base, keys, observed, found)
            following = columns.matrix(table, order)[0]
            if following.shape != observation.shape:
                raise DataError(
                    f"{table.name}: observations have {observation.shape[1]} numbers, but next "
                    f"observations ({', '.join(found[:LISTED])}) {following.shape[1]}"
                )
            return following, np.ones(len(following), bool), tuple(order)
    return _next_rows(observation, ends.last), (ends.terminal == 1) | ~ends.last, ()


def _next_rows(observation: Any, last: np.ndarray) -> Any:
    """The next row's observation [N, O], at the last row of an episode its own."""
    if is_mapped(observation):
        return observation.following(~last)
    return np.where(last[:, None], observation, np.roll(observation, -1, axis=0))


def _matched(
    table: Table, base: str, keys: Sequence[str], observed: Sequence[str], following: Sequence[str]
) -> list[str]:
    """The columns of next observations in the order of the observation's, by what follows `base`.

    Raises:
      DataError: if their names do not tell which belongs to which.
    """
    tails = [_tail(name, (base,)) for name in following]
    by_tail = dict(zip(tails, following, strict=True))
    for bases in ((), OBSERVATION, keys):
        wanted = [_tail(name, bases) for name in observed]
        unique = len(set(wanted)) == len(wanted) and len(by_tail) == len(following)
        if unique and all(tail in by_tail for tail in wanted):
            return [by_tail[tail] for tail in wanted]
    own = [_tail(name, (*OBSERVATION, *keys)) for name in observed]
    ascending = all(map(str.isdecimal, own)) and own == sorted(own, key=int)
    single = len(observed) == 1 and all(map(str.isdecimal, tails))
    if single or (tails == [""] and (len(observed) == 1 or ascending)):
        return list(following)  # one of the two is a column of lists, the other numbered in order
    raise DataError(
        f"{table.name}: the names of the next observations ({', '.join(following[:LISTED])}) do "
        f"not tell which belongs to which observation ({', '.join(observed[:LISTED])}): name them "
        f"alike, as next_{observed[0]}, or leave them out of the table"
    )


def _tail(name: str, bases: Sequence[str]) -> str:
    """What follows the first of the bases that a name begins with, its separators made alike."""
    lower = name.lower()
    for base in sorted(bases, key=len, reverse=True):
        rest = lower.removeprefix(base.lower())
        if rest != lower and (not rest or rest[0] in "._/: -["):
            lower = rest
            break
    return re.sub(r"[._/: \-\[\]]+", "_", lower).strip("_")


def _without_last_rows(table: Table, steps: Steps, count: int) -> Steps:
    """Steps of RLDS, whose last row of an episode is an observation without a step."""
    last = np.zeros(count, bool)
    last[np.cumsum(steps.lengths) - 1] = True
    kept: dict[str, Any] = {
        "observation": steps.observation,
        "action": steps.action,
        "reward": steps.reward,
        "time": steps.time,
        "terminal": np.roll(steps.terminal, -1),
        "next_observation": _next_rows(steps.observation, last),
    }
    rows = ~last
    kept = {key: None if value is None else selected(value, rows) for key, value in kept.items()}
    shown = {
        camera: Images(each.frames, each.before[rows], np.roll(each.before, -1)[rows])
        for camera, each in steps.images.items()
    }
    return steps._replace(
        **kept,
        images=shown,
        lengths=steps.lengths - 1,
        successor=np.ones(int(rows.sum()), bool),
    )
