"""A dataset as it was recorded: raw units, flat arrays, checked once here whatever its source."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrl_prefs.data.families import family_of
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.environments.trust import Claim, Refusal
from jaxrl_prefs.errors import DataError

ROUNDING = 1e-6  # what differs by less in proportion is equal: its numbers are 32-bit floats
ACTION_SLACK = 1e-3  # how far beyond its box an action may lie, in parts of the box's width


class Recording(NamedTuple):
    """N raw transitions of some episodes, and what is known about where they come from."""

    name: str  # dataset id or path
    family: str  # decides the defaults of processing, see families.py
    observation: np.ndarray  # [N, O] float32
    action: np.ndarray  # [N, A] float32, in the environment's units
    reward: np.ndarray  # [N] float32
    terminal: np.ndarray  # [N] bool, the episode ended here by itself, not by a time limit
    next_observation: np.ndarray  # [N, O] float32
    continues: np.ndarray  # [N] bool, row i + 1 is the next step of the same episode
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]
    task: Task | None  # where to evaluate; None trains, but cannot be evaluated
    references: tuple[float, float] | None  # the raw returns that score 0 and 100
    reference_source: str  # where the references come from, or why there are none
    returns: np.ndarray  # [episodes] sum of raw rewards, of steps without a successor too
    lengths: np.ndarray  # [episodes] steps, those without a successor too
    # Why `task` is None although the data name an environment; see environments/trust.py.
    refused: Refusal | None = None
    # Which actions lie outside of their box; `prepare` refuses these unless it is to clip them.
    outside: str = ""
    notes: tuple[str, ...] = ()  # what was left out, for the user to know

    @property
    def size(self) -> int:
        """The number of transitions N."""
        return len(self.reward)

    def score(self, raw_return: np.ndarray | float) -> np.ndarray:
        """A raw return on the 0 to 100 scale of the references; unchanged where there are none."""
        raw = np.asarray(raw_return, np.float64)
        return raw if self.references is None else scaled(raw, self.references)

    @property
    def score_kind(self) -> str:
        """What `score` returns: 'normalised score' or 'raw return'."""
        return "raw return" if self.references is None else "normalised score"


def scaled(raw: np.ndarray, references: tuple[float, float]) -> np.ndarray:
    """Raw returns on the scale where the references score 0 and 100."""
    low, high = references
    return 100.0 * (raw - low) / (high - low)


class Steps(NamedTuple):
    """What a source hands over: episodes laid end to end, before any check."""

    observation: np.ndarray  # [N, O]
    action: np.ndarray  # [N, A]
    reward: np.ndarray  # [N]
    terminal: np.ndarray  # [N]
    next_observation: np.ndarray  # [N, O]; anything where `successor` is False
    lengths: np.ndarray  # [episodes], adding up to N; an episode of 0 steps is left out
    successor: np.ndarray  # [N] bool; rows without a successor are dropped


class References(NamedTuple):
    """The raw returns that score 0 and 100, if known, and where they come from."""

    values: tuple[float, float] | None
    source: str


def record(
    name: str,
    steps: Steps,
    box: tuple[np.ndarray, np.ndarray],
    where: Claim | Task | None,
    references: References,
    family: str = "",
) -> Recording:
    """Checks the arrays of a source and makes a Recording of them.

    `where` is the evaluation environment; what a file says about it is a Claim. Without a `family`,
    the names of dataset and environment tell it, a refused one's too.

    Raises:
      DataError: naming the dataset, the array and the first bad row.
    """
    _check_lengths(name, steps)
    observation, action, reward = (
        _finite(name, key, value, steps.lengths)
        for key, value in (
            ("observations", steps.observation),
            ("actions", steps.action),
            ("rewards", steps.reward),
        )
    )
    found = where if isinstance(where, Claim) else Claim(where)
    low, high = _check_box(name, action, box)
    outside = _outside(action, low, high, steps.lengths)
    terminal = _flags(name, steps)
    references = _checked_references(name, references)
    keep = np.asarray(steps.successor, bool)
    if not keep.any():
        raise DataError(f"{name}: no step has a successor, so there is nothing to learn from")
    following = np.where(keep[:, None], steps.next_observation, 0.0)
    following = _finite(name, "next observations", following, steps.lengths)
    lengths = np.asarray(steps.lengths, np.int64)
    empty, lengths = int((lengths == 0).sum()), lengths[lengths > 0]
    ends = np.cumsum(lengths)
    inside = np.ones(len(keep), bool)
    inside[ends - 1] = False
    # A row whose next row was dropped has a true next observation but no next action.
    continues = inside & np.append(keep[1:], False)
    return Recording(
        name=name,
        family=family or family_of(name, found.env_id),
        observation=observation[keep],
        action=action[keep],
        reward=reward[keep],
        terminal=terminal[keep],
        next_observation=following[keep],
        continues=continues[keep],
        action_low=low,
        action_high=high,
        task=found.task,
        references=references.values,
        reference_source=references.source,
        returns=np.add.reduceat(np.asarray(steps.reward, np.float64), ends - lengths),
        lengths=lengths,
        refused=found.refused,
        outside=outside,
        notes=(_left_out(empty, empty + len(lengths)),) if empty else (),
    )


def _check_lengths(name: str, steps: Steps) -> None:
    if len(steps.lengths) == 0:
        raise DataError(f"{name}: the dataset has no episodes")
    rows = {
        "observations": len(steps.observation),
        "actions": len(steps.action),
        "rewards": len(steps.reward),
        "terminals": len(steps.terminal),
        "next observations": len(steps.next_observation),
    }
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise DataError(f"{name}: arrays of different lengths: {found}")
    if not len(steps.reward):
        raise DataError(f"{name}: the dataset has no episodes with steps")
    for key, value, rank in (
        ("observations", steps.observation, 2),
        ("actions", steps.action, 2),
        ("rewards", steps.reward, 1),
        ("terminals", steps.terminal, 1),
    ):
        if value.ndim != rank:
            raise DataError(f"{name}: {key} have shape {value.shape}, expected {rank} axes")
        if value.dtype.kind not in "biuf":
            raise DataError(f"{name}: {key} are not numbers but {value.dtype}")
    if steps.next_observation.shape != steps.observation.shape:
        raise DataError(
            f"{name}: observations have shape {steps.observation.shape}, but next observations "
            f"{steps.next_observation.shape}"
        )


def _left_out(empty: int, count: int) -> str:
    return f"{empty} of {count} episodes {'has' if empty == 1 else 'have'} no steps: left out"


def _finite(name: str, key: str, value: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        small = np.asarray(value, np.float32)
    good = np.isfinite(small)
    if not good.all():
        row = int(np.argmin(good.reshape(len(good), -1).all(-1)))
        bad = np.asarray(value[row]).reshape(-1)[~good[row].reshape(-1)][0]
        fault = f"{bad:g} is too large for 32-bit floats" if np.isfinite(bad) else f"a {bad}"
        raise DataError(f"{name}: {fault} in {key} at {_place(row, lengths)}: repair or drop it")
    return small


def _place(row: int, lengths: np.ndarray) -> str:
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"row {row} (episode {episode}, step {row - int(ends[episode] - lengths[episode])})"


def _check_box(
    name: str, action: np.ndarray, box: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in box)
    bounded = np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()
    if not (bounded and (low < high).any()):  # entries of equal bounds are constants
        raise DataError(
            f"{name}: the action space is not a bounded box (low {low}, high {high}); only "
            "continuous actions between finite bounds are supported"
        )
    if low.shape != action.shape[1:]:
        raise DataError(
            f"{name}: actions have {action.shape[1]} dimensions, the action space {low.size}"
        )
    return low, high


def _outside(action: np.ndarray, low: np.ndarray, high: np.ndarray, lengths: np.ndarray) -> str:
    """Which actions lie outside of the box; empty if none does."""
    slack = ACTION_SLACK * (high - low) + np.float32(1e-6) * (np.abs(low) * (low == high))
    bad = ~((action >= low - slack) & (action <= high + slack)).all(-1)
    if not bad.any():
        return ""
    row = int(np.argmax(bad))
    return (
        f"{int(bad.sum())} of {len(bad)} actions, the first is the action {action[row]} at "
        f"{_place(row, lengths)}, lie outside the action space (low {low}, high {high})"
    )


def _flags(name: str, steps: Steps) -> np.ndarray:
    """The terminals as booleans; NaN too would count as true."""
    terminal = np.asarray(steps.terminal)
    good = np.isin(terminal, (0, 1))
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{name}: a terminal flag is {terminal[row]} at {_place(row, steps.lengths)}, expected "
            "0 or 1"
        )
    return terminal.astype(bool)


def _checked_references(name: str, references: References) -> References:
    if references.values is None:
        return references
    low, high = references.values
    if np.isfinite([low, high]).all() and abs(high - low) <= ROUNDING * max(abs(low), abs(high)):
        return References(
            None, f"none: both references are {low:g} ({references.source}), so returns stay raw"
        )
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(
            f"{name}: reference returns {low} (scores 0) and {high} (scores 100) are not two "
            f"ascending numbers: correct or remove them ({references.source})"
        )
    return references
