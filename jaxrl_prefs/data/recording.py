"""A dataset as it was recorded: raw units, flat arrays, checked once here whatever its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrl_prefs.data.families import family_of
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.environments.trust import Claim, Refusal
from jaxrl_prefs.errors import DataError

if TYPE_CHECKING:
    import gymnasium

ROUNDING = 1e-6  # what differs by less in proportion is equal: its numbers are 32-bit floats
ACTION_SLACK = 1e-3  # how far beyond its box an action may lie, in parts of the box's width


class Dataset(NamedTuple):
    """N raw transitions of some episodes, and what is known about where they come from.

    Made by `load_dataset`, `Dataset.from_arrays` and `Dataset.from_episodes`, which check it.
    """

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
    named_env: str = ""  # id of the environment that the data came with, a refused one's too

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminals: Any,
        timeouts: Any = None,
        *,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        name: str = "arrays",
        next_observations: Any = None,
        env: Environment = None,
        references: tuple[float, float] | None = None,
    ) -> Dataset:
        """A dataset of N steps, the episodes laid end to end.

        >>> observations = [[0.0], [1.0], [2.0], [0.5], [1.5]]
        >>> data = Dataset.from_arrays(
        ...     observations,
        ...     actions=[[0.1], [0.2], [-0.3], [0.0], [1.0]],
        ...     rewards=[0.0, 0.0, 1.0, 0.0, 0.0],
        ...     terminals=[False, False, True, False, False],  # the first episode ends by itself
        ...     timeouts=[False, False, False, False, True],  # the second is cut off
        ...     name="my-arm",
        ... )
        >>> data
        Dataset 'my-arm': 4 transitions of 2 episodes, 1 observation, 1 action, no environment

        Args:
          observations: [N, O], what the agent saw before each step.
          actions: [N, A], in the environment's own units.
          rewards: [N], or [N, 1].
          terminals: [N] of 0 and 1: the episode ended by itself here, so nothing follows.
          timeouts: [N] of 0 and 1: the episode was cut off here, by a time limit. Without it every
            episode must end by a terminal, but for the last.
          action_low: lower end of every action, a number or [A].
          action_high: upper end of every action, a number or [A].
          name: what the dataset is called in reports and in the names of folders.
          next_observations: [N, O], what the agent saw after each step. Without it, it is the next
            row of the same episode, and the last step of an episode that was cut off is dropped,
            since nobody knows what followed it.
          env: where to evaluate: an id of Gymnasium's, a function that makes an environment, or
            None.
          references: the raw returns that score 0 and 100; without them scores are raw returns.

        Raises:
          DataError: if arrays differ in length, have another number of axes, hold a NaN or an
            infinity, or if an action lies outside its bounds; the message names array and row.
        """
        observation, action = np.asarray(observations), np.asarray(actions)
        reward = _column(np.asarray(rewards))
        terminal = _flag_column(name, "terminals", terminals)
        ends = terminal.copy()
        if timeouts is not None:
            timeout = _flag_column(name, "timeouts", timeouts)
            if len(timeout) != len(terminal):
                raise DataError(
                    f"{name}: arrays of different lengths: terminals {len(terminal)}, timeouts "
                    f"{len(timeout)}"
                )
            ends |= timeout
        if not len(ends):
            raise DataError(f"{name}: the dataset has no episodes")
        ends[-1] = True
        if next_observations is not None:
            following, successor = np.asarray(next_observations), np.ones(len(ends), bool)
        elif observation.ndim == 2 and len(observation) == len(ends):
            shifted = np.roll(observation, -1, axis=0)
            following = np.where(ends[:, None], observation, shifted)
            successor = terminal | ~ends  # what stands in after a terminal is never looked at
        else:
            following, successor = observation, ends  # refused below, by name
        steps = Steps(
            observation=observation,
            action=action,
            reward=reward,
            terminal=terminal,
            next_observation=following,
            lengths=np.diff(np.flatnonzero(ends), prepend=-1),
            successor=successor,
        )
        return _recorded(name, steps, action_low, action_high, env, references)

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[Mapping[str, Any]],
        *,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        name: str = "episodes",
        env: Environment = None,
        references: tuple[float, float] | None = None,
    ) -> Dataset:
        """A dataset of episodes, each a dict of arrays.

        >>> episode = {
        ...     "observations": [[0.0], [1.0], [2.0]],  # one more than steps: the last one seen
        ...     "actions": [[0.1], [0.2]],
        ...     "rewards": [0.0, 1.0],
        ... }
        >>> Dataset.from_episodes([episode, episode], name="my-arm")
        Dataset 'my-arm': 4 transitions of 2 episodes, 1 observation, 1 action, no environment

        Args:
          episodes: for an episode of T steps, "observations" [T + 1, O] or [T, O], "actions"
            [T, A] and "rewards" [T]; optionally "terminals" [T] of 0 and 1, or "terminal", whether
            the episode ended by itself (by default it was cut off). With [T, O] observations,
            "next_observations" [T, O] or the last step of a cut-off episode is dropped.
          action_low: as in `from_arrays`, and so are the others.
          action_high: upper end of every action.
          name: what the dataset is called in reports and in the names of folders.
          env: where to evaluate.
          references: the raw returns that score 0 and 100.

        Raises:
          DataError: as `from_arrays`, and if an episode lacks an array.
        """
        if not episodes:
            raise DataError(f"{name}: the dataset has no episodes")
        parts = [_episode(f"{name}, episode {i}", each) for i, each in enumerate(episodes)]
        whole = {key: _joined(name, key, [part[key] for part in parts]) for key in parts[0]}
        lengths = np.asarray([len(part["reward"]) for part in parts])
        steps = Steps(**whole, lengths=lengths)
        return _recorded(name, steps, action_low, action_high, env, references)

    def with_env(self, env: Environment) -> Dataset:
        """The same data, evaluated in another environment.

        Args:
          env: an id of Gymnasium's ('my_module:Mine-v0' imports my_module first), a function that
            makes an environment, or None to train without one.

        Raises:
          DataError: if there is no such environment.
        """
        if env is None:
            return self._replace(task=None, refused=None)
        longest = int(self.lengths.max())
        task = tasks.named(env, longest) if isinstance(env, str) else tasks.made_by(env, longest)
        return self._replace(task=task, refused=None)

    def __repr__(self) -> str:
        """One line: what it is called, how large it is, and where it is evaluated."""
        sizes = f"{_count(self.size, 'transition')} of {_count(len(self.lengths), 'episode')}"
        observations = _count(self.observation.shape[1], "observation")
        actions = _count(self.action.shape[1], "action")
        place = self.task.env_id if self.task else "no environment"
        return f"Dataset {self.name!r}: {sizes}, {observations}, {actions}, {place}"

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


# A Gymnasium id, a function that makes an environment, or none.
Environment = str | Callable[[], "gymnasium.Env"] | None


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
) -> Dataset:
    """Checks the arrays of a source and makes a Dataset of them.

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
    return Dataset(
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
        named_env=found.env_id,
        outside=outside,
        notes=(_left_out(empty, empty + len(lengths)),) if empty else (),
    )


# --- From arrays ----------------------------------------------------------------------------------


def _recorded(
    name: str,
    steps: Steps,
    action_low: Any,
    action_high: Any,
    env: Environment,
    references: tuple[float, float] | None,
) -> Dataset:
    box = _bound(steps.action, action_low), _bound(steps.action, action_high)
    known = References(references, "given with the arrays" if references else "none were given")
    found = record(name, steps, box, None, known)
    return found if env is None else found.with_env(env)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _column(values: np.ndarray) -> np.ndarray:
    """[N, 1] as [N]; anything else as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _flag_column(name: str, key: str, values: Any) -> np.ndarray:
    array = _column(np.asarray(values))
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DataError(f"{name}: {key} must be one axis of 0 and 1, got {_summary(array)}")
    return array.astype(bool)


def _summary(array: np.ndarray) -> str:
    return f"shape {array.shape} of {array.dtype}"


def _bound(action: np.ndarray, bound: Any) -> np.ndarray:
    """A bound of the actions [N, A] as [A], whether it was a number or an array."""
    wide = np.asarray(bound, np.float32)
    return np.full(action.shape[-1:], wide) if wide.ndim == 0 else wide


def _episode(name: str, episode: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """An episode's arrays under the names of `Steps`."""
    if missing := [key for key in ("observations", "actions", "rewards") if key not in episode]:
        raise DataError(f"{name}: lacks {', '.join(missing)}")
    observation, action = (np.asarray(episode[key]) for key in ("observations", "actions"))
    reward = _column(np.asarray(episode["rewards"]))
    steps = len(reward)
    if not steps:
        raise DataError(f"{name}: has no steps")
    terminal = np.zeros(steps, bool)
    if "terminals" in episode:
        terminal = _flag_column(name, "terminals", episode["terminals"])
    elif episode.get("terminal", False):
        terminal[-1] = True
    successor, following = np.ones(steps, bool), episode.get("next_observations")
    if following is None and len(observation) == steps + 1:
        observation, following = observation[:-1], observation[1:]
    elif following is None:
        following = np.concatenate([observation[1:], observation[-1:]])
        successor[-1] = bool(terminal[-1:].all())
    sizes = {
        "observations": len(observation),
        "actions": len(action),
        "terminals": len(terminal),
        "next_observations": len(following),
    }
    for key, size in sizes.items():
        if size != steps:
            raise DataError(f"{name}: {size} {key} for {steps} rewards")
    return {
        "observation": observation,
        "action": action,
        "reward": reward,
        "terminal": terminal,
        "next_observation": np.asarray(following),
        "successor": successor,
    }


def _joined(name: str, key: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(f"{name}: {key}s of episodes have different shapes: {sorted(shapes)}")
    return np.concatenate(parts)


# --- The checks -----------------------------------------------------------------------------------


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
