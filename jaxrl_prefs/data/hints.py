"""What the user says about data that do not say it: columns, ends of episodes, bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.errors import DataError

ENDS = ("terminal", "timeout")
BAD_ROWS = ("error", "drop")
COLUMNS = ("observation_keys", "action_keys", "reward_key", "episode_key", "episode_ends")


class Hints(NamedTuple):
    """How to read a dataset; the defaults leave everything to the data. Made by `read_hints`."""

    observation_keys: tuple[str, ...] = ()  # columns, in the order of the policy's input
    action_keys: tuple[str, ...] = ()
    reward_key: str = ""
    episode_key: str = ""  # the column whose value changes where an episode begins
    episode_ends: str = ""  # what the last step of an episode is: 'terminal' or 'timeout'
    bad_rows: str = "error"  # of NaN and infinities: 'error', or 'drop' and cut the episode there
    action_low: tuple[float, ...] = ()  # a number for all actions, or one for each
    action_high: tuple[float, ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not at their defaults, for JSON."""
        told = zip(self._fields, self, Hints(), strict=True)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value, usual in told
            if value != usual
        }

    def check_fixed(self, place: Any, form: str, *allowed: str) -> None:
        """Refuses hints about columns for a format whose columns have fixed names.

        Raises:
          DataError: naming the first such hint that is not among `allowed`.
        """
        for name in COLUMNS:
            if getattr(self, name) and name not in allowed:
                raise DataError(
                    f"{place}: --{name} is for tables with columns of any name; this is a dataset "
                    f"of {form}, whose arrays have fixed names and meanings"
                )

    def box(
        self, size: int, otherwise: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The action bounds [A] that the user gives; where one is not given, `otherwise`.

        Raises:
          DataError: if their number is neither 1 nor A, or only one is known.
        """
        if not self.action_low and not self.action_high:
            return otherwise
        bounds = []
        for place, name in enumerate(("action_low", "action_high")):
            values = getattr(self, name)
            if not values and otherwise is None:
                raise DataError(f"--{name} is missing: give both bounds of the actions, or neither")
            if len(values) not in (0, 1, size):
                raise DataError(f"--{name} has {len(values)} numbers, and there are {size} actions")
            wide = np.float32(values) if values else np.asarray(otherwise)[place]
            bounds.append(np.broadcast_to(wide, (size,)).astype(np.float32))
        return bounds[0], bounds[1]


def read_hints(**values: Any) -> Hints:
    """Hints from Python or from text: a list of names may be one text with commas.

    Raises:
      DataError: for a value that a hint does not take.
    """
    read: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name in ("observation_keys", "action_keys"):
            read[name] = _names(name, value)
        elif name in ("action_low", "action_high"):
            read[name] = _numbers(name, value)
        else:
            read[name] = str(value)
    found = Hints(**read)
    for name, choices in (("episode_ends", ("", *ENDS)), ("bad_rows", BAD_ROWS)):
        if getattr(found, name) not in choices:
            told = " or ".join(each for each in choices if each)
            raise DataError(f"--{name} takes {told}, and got {getattr(found, name)!r}")
    return found


def hints_from_json(content: Any, place: str) -> Hints:
    """Hints from what `Hints.given` was written as; without any, the defaults.

    Raises:
      DataError: naming `place`, if they are damaged.
    """
    try:
        return read_hints(**(content or {}))
    except (TypeError, DataError) as error:
        raise DataError(
            f"{place} is damaged: what it says of reading the data ('hints')"
        ) from error


def _names(name: str, value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence):
        raise DataError(f"--{name} takes names of columns, and got {value!r}")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    try:
        found = tuple(float(part) for part in np.reshape(np.asarray(parts, np.float64), -1))
    except (TypeError, ValueError):
        raise DataError(
            f"--{name} takes a number, or one for each action, and got {value!r}"
        ) from None
    if not all(map(math.isfinite, found)):
        raise DataError(f"--{name} must be finite, and is {value!r}")
    return found
