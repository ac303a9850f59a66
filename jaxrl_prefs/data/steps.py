"""Episodes laid end to end, as a source hands them over, and the checks that they pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import images
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import blocks, is_mapped
from jaxrl_prefs.rows import selected

ACTION_SLACK = 1e-3  # how far beyond its box an action may lie, in parts of the box's width
SHOWN = 12  # places of bad rows in a message
ROUNDING = 1e-6  # what differs by less in proportion is equal: its numbers are 32-bit floats


class Steps(NamedTuple):
    """What a source hands over: episodes laid end to end, before any check."""

    observation: np.ndarray  # [N, O]
    action: np.ndarray  # [N, A]
    reward: np.ndarray | None  # [N]; None where none were recorded
    terminal: np.ndarray  # [N]
    next_observation: np.ndarray  # [N, O]; anything where `successor` is False
    lengths: np.ndarray  # [episodes], adding up to N; an episode of 0 steps is left out
    successor: np.ndarray  # [N] bool; rows without a successor are dropped
    time: np.ndarray | None = None  # [N], in any unit
    observation_names: tuple[str, ...] = ()  # O names, or none
    action_names: tuple[str, ...] = ()  # A names, or none
    notes: tuple[str, ...] = ()  # what was assumed or left out
    images: Mapping[str, Images] = {}


class Faults(NamedTuple):
    """The rows that no method can take."""

    rows: np.ndarray  # [N] bool
    first: str  # what is wrong in the first of them, and where


def check_shapes(name: str, steps: Steps) -> None:
    """Refuses arrays of different lengths, of another number of axes, or of no numbers.

    Raises:
      DataError: naming the array.
    """
    if len(steps.lengths) == 0:
        raise DataError(f"{name}: the dataset has no episodes")
    arrays: dict[str, tuple[np.ndarray, int]] = {
        "observations": (steps.observation, 2),
        "actions": (steps.action, 2),
        **({} if steps.reward is None else {"rewards": (steps.reward, 1)}),
        "terminals": (steps.terminal, 1),
    }
    rows = {key: len(value) for key, (value, _) in arrays.items()}
    rows["next observations"] = len(steps.next_observation)
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise DataError(f"{name}: arrays of different lengths: {found}")
    if not len(steps.action):
        raise DataError(f"{name}: the dataset has no episodes with steps")
    for key, (value, rank) in arrays.items():
        if value.ndim != rank:
            raise DataError(f"{name}: {key} have shape {value.shape}, expected {rank} axes")
        if value.dtype.kind not in "biuf":
            raise DataError(f"{name}: {key} are not numbers but {value.dtype}")
    for camera, each in steps.images.items():
        images.check(name, camera, each, len(steps.action))
    if steps.next_observation.shape != steps.observation.shape:
        raise DataError(
            f"{name}: observations have shape {steps.observation.shape}, but next observations "
            f"{steps.next_observation.shape}"
        )


def small(value: Any) -> Any:
    """32-bit floats; what is too large for them becomes infinite."""
    if is_mapped(value):
        return value.then(small)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(value, np.float32)


def faults(steps: Steps) -> Faults:
    """Rows with a NaN, an infinity, a number too large for 32 bits, or a flag that is not 0 or 1.

    A next observation counts where a successor is needed.
    """
    arrays = [
        ("observations", steps.observation),
        ("actions", steps.action),
        *([] if steps.reward is None else [("rewards", steps.reward)]),
        ("next observations", steps.next_observation),
    ]
    bad, first = np.zeros(len(steps.action), bool), ""
    for key, value in arrays:
        for start, part in blocks(value):
            rows = slice(start, start + len(part))
            good = np.isfinite(small(part)).reshape(len(part), -1)
            if key == "next observations":
                good |= ~np.asarray(steps.successor[rows], bool)[:, None]
            if not good.all():
                first = first or _value_fault(key, part, good, start, steps.lengths)
                bad[rows] |= ~good.all(-1)
        if key == "rewards" or (key == "actions" and steps.reward is None):
            flags = np.asarray(steps.terminal)
            flags = (flags == 0) | (flags == 1)
            if not flags.all():
                row = int(np.argmin(flags))
                told = f"a terminal flag is {steps.terminal[row]} at {place(row, steps.lengths)}"
                first = first or f"{told}, expected 0 or 1"
                bad |= ~flags
    return Faults(bad, first)


def _value_fault(
    key: str, value: np.ndarray, good: np.ndarray, start: int, lengths: np.ndarray
) -> str:
    """What is wrong in the first bad row of a block that begins at row `start`."""
    row = int(np.argmin(good.all(-1)))
    bad = np.asarray(value[row]).reshape(-1)[~good[row]][0]
    fault = f"{bad:g} is too large for 32-bit floats" if np.isfinite(bad) else f"a {bad}"
    return f"{fault} in {key} at {place(start + row, lengths)}"


def described(found: Faults, lengths: np.ndarray) -> str:
    """Counts and locates bad rows, in ranges."""
    if found.rows.sum() == 1:
        return found.first
    edges = np.flatnonzero(np.diff(np.r_[0, found.rows.astype(np.int8), 0]))
    ranges = [
        f"{a}" if b - a == 1 else f"{a} to {b - 1}"
        for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]
    more = f" and {len(ranges) - SHOWN:,} more places" if len(ranges) > SHOWN else ""
    episodes = np.unique(np.searchsorted(np.cumsum(lengths), np.flatnonzero(found.rows), "right"))
    return (
        f"{int(found.rows.sum()):,} bad rows in {len(episodes):,} of {len(lengths):,} episodes; "
        f"the first: {found.first}; rows {', '.join(ranges[:SHOWN])}{more}"
    )


def without(steps: Steps, bad: np.ndarray) -> Steps:
    """The steps less the bad rows; the episode is cut there, so that no gap is bridged."""
    rows = np.flatnonzero(~bad)
    episode = np.repeat(np.arange(len(steps.lengths)), steps.lengths)[rows]
    begins = np.r_[True, (np.diff(rows) > 1) | (np.diff(episode) > 0)]
    pieces = np.diff(np.append(np.flatnonzero(begins), len(rows)))
    empty = np.zeros(int((np.asarray(steps.lengths) == 0).sum()), int)
    kept: dict[str, Any] = {
        name: None if value is None else selected(value, rows)
        for name, value in steps._asdict().items()
        if name in (*Steps._fields[:5], "successor", "time")
    }
    shown = {camera: each.kept(rows) for camera, each in steps.images.items()}
    return steps._replace(**kept, lengths=np.concatenate([pieces, empty]), images=shown)


def place(row: int, lengths: np.ndarray) -> str:
    """A row by its number, its episode and its step."""
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"row {row} (episode {episode}, step {row - int(ends[episode] - lengths[episode])})"


def check_box(
    name: str, action: np.ndarray, box: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The bounds as 32-bit floats [A].

    Raises:
      DataError: if they are not finite, not ascending, or not one for each action.
    """
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in box)
    bounded = np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()
    if not (bounded and (low < high).any()):  # entries of equal bounds are constants
        raise DataError(
            f"{name}: the action space is not a bounded box (low {low}, high {high}); only "
            "continuous actions between finite bounds are supported. If these are the bounds of "
            "recorded actions, give those of the machine: --action_low=... --action_high=..."
        )
    if low.shape != action.shape[1:]:
        raise DataError(
            f"{name}: actions have {action.shape[1]} dimensions, the action space {low.size}"
        )
    return low, high


def extent(action: Any, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest of each action, two arrays [A]; `bad` rows are passed by."""
    found = []
    for start, part in blocks(action):
        if len(good := part[~bad[start : start + len(part)]]):
            found.append((good.min(0), good.max(0)))
    lows, highs = zip(*found, strict=True)
    return np.min(lows, 0), np.max(highs, 0)


def outside(
    action: Any, low: np.ndarray, high: np.ndarray, lengths: np.ndarray, bad: np.ndarray
) -> str:
    """Which actions lie outside of the box; empty if none does. `bad` rows are passed by."""
    slack = ACTION_SLACK * (high - low) + np.float32(1e-6) * (np.abs(low) * (low == high))
    out = ~bad
    for start, part in blocks(action):
        within = (part >= low - slack) & (part <= high + slack)
        out[start : start + len(part)] &= ~within.all(-1)
    if not out.any():
        return ""
    row = int(np.argmax(out))
    return (
        f"{int(out.sum())} of {len(out)} actions, the first is the action {action[row]} at "
        f"{place(row, lengths)}, lie outside the action space (low {low}, high {high})"
    )


def references(
    name: str, values: tuple[float, float] | None, source: str
) -> tuple[tuple[float, float] | None, str]:
    """Checks the raw returns that score 0 and 100; None in their place where they are equal.

    Raises:
      DataError: if they are not two ascending numbers.
    """
    if values is None:
        return values, source
    low, high = values
    if np.isfinite([low, high]).all() and abs(high - low) <= ROUNDING * max(abs(low), abs(high)):
        return None, f"none: both references are {low:g} ({source}), so returns stay raw"
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(
            f"{name}: reference returns {low} (scores 0) and {high} (scores 100) are not two "
            f"ascending numbers: correct or remove them ({source})"
        )
    return values, source
