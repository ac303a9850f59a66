"""A dataset as it was recorded: raw units, flat arrays, checked once here whatever its source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import arrays, frames, tables
from jaxrl_prefs.data import steps as checks
from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.families import family_of
from jaxrl_prefs.data.hints import Hints, read_hints
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.data.steps import Faults, Steps
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.environments.trust import Claim, Refusal
from jaxrl_prefs.errors import DataError, in_python, restated
from jaxrl_prefs.mapped_rows import is_mapped, row_numbers
from jaxrl_prefs.rows import selected

if TYPE_CHECKING:
    import gymnasium

ROUNDING = checks.ROUNDING
SUCCESS_RATE = "success rate"


class Dataset(NamedTuple):
    """N raw transitions of some episodes, and what is known about where they come from.

    Made by `load_dataset`, `Dataset.from_arrays` and `Dataset.from_episodes`, which check it. Of a
    folder that is too large for the memory, observations and actions are `MappedRows`: indexing
    them reads rows.
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
    has_rewards: bool = True  # False: `reward` is 0 everywhere, as none were recorded
    time: np.ndarray | None = None  # [N] float64, as recorded, for the health report
    observation_names: tuple[str, ...] = ()  # of each dimension, or none
    action_names: tuple[str, ...] = ()
    images: Mapping[str, Images] = {}

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
        bad_rows: str = "error",
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
          observations: what the agent saw before each step: vectors [N, O], images uint8
            [N, H, W, C] (grey also [N, H, W]), or a dict of both, of which all but the images is
            one vector, by sorted keys. Frames are not copied.
          actions: [N, A], in the environment's own units.
          rewards: [N], or [N, 1]; None where none were recorded, which suits methods that clone.
          terminals: [N] of 0 and 1: the episode ended by itself here, so nothing follows.
          timeouts: [N] of 0 and 1: the episode was cut off here, by a time limit. Without it every
            episode must end by a terminal, but for the last.
          action_low: lower end of every action, a number or [A]; None for the smallest recorded.
          action_high: upper end of every action, a number or [A]; None for the largest recorded.
          name: what the dataset is called in reports and in the names of folders.
          next_observations: alike, what the agent saw after each step. Without it, it is the next
            row of the same episode, and the last step of an episode that was cut off is dropped,
            since nobody knows what followed it.
          env: where to evaluate: an id of Gymnasium's, a function that makes an environment, or
            None.
          references: the raw returns that score 0 and 100; without them scores are raw returns.
          bad_rows: of rows with a NaN or an infinity: 'error', or 'drop', which leaves them out and
            cuts the episode there.

        Raises:
          DataError: if arrays differ in length, have another number of axes, hold a NaN or an
            infinity, or if an action lies outside its bounds; the message names array and row.
        """
        parts = (observations, actions, rewards, terminals, timeouts, next_observations)
        steps = arrays.steps_of_arrays(name, *parts)
        return _recorded(name, steps, (action_low, action_high), env, references, bad_rows)

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
        bad_rows: str = "error",
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
          episodes: for an episode of T steps, "observations" [T + 1, O] or [T, O], images, or a
            dict of both, as `from_arrays` takes it; "actions" [T, A] and "rewards" [T], which all
            episodes may lack; optionally "terminals" [T] of 0 and 1, or "terminal", whether the
            episode ended by itself (by default it was cut off). With T observations,
            "next_observations" of T, or the last step of a cut-off episode is dropped.
          action_low: as in `from_arrays`, and so are the others.
          action_high: upper end of every action.
          name: what the dataset is called in reports and in the names of folders.
          env: where to evaluate.
          references: the raw returns that score 0 and 100.
          bad_rows: 'error' or 'drop'.

        Raises:
          DataError: as `from_arrays`, and if an episode lacks an array.
        """
        steps = arrays.steps_of_episodes(name, episodes)
        return _recorded(name, steps, (action_low, action_high), env, references, bad_rows)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        observation_keys: Sequence[str] = (),
        action_keys: Sequence[str] = (),
        reward_key: str = "",
        episode_key: str = "",
        episode_ends: str = "",
        bad_rows: str = "error",
        action_low: Any = None,
        action_high: Any = None,
        name: str = "frame",
        env: Environment = None,
        references: tuple[float, float] | None = None,
    ) -> Dataset:
        """A dataset of a table with named columns: of pandas, polars, Arrow, or a dict of columns.

        >>> frame = {
        ...     "episode": [0, 0, 0, 1, 1],
        ...     "obs.level": [0.2, 0.4, 0.6, 0.9, 0.8],
        ...     "action": [0.5, 1.0, 0.0, -1.0, 0.5],
        ...     "reward": [0.0, 0.0, 1.0, 0.0, 0.0],
        ...     "terminated": [0, 0, 1, 0, 0],
        ... }
        >>> Dataset.from_frame(frame, action_low=-1, action_high=1, name="my-arm")
        Dataset 'my-arm': 4 transitions of 2 episodes, 1 observation, 1 action, no environment

        A column holds a number in each row, or a list of numbers. Columns are found by the names
        that are in use (docs/formats.md lists them), or named here. What was taken, assumed and
        left out stands in `notes`.

        Args:
          frame: the table, a row for each step, in the order of time.
          observation_keys: the columns of the observation, or the first part of their names.
          action_keys: those of the action.
          reward_key: the column of rewards; a table may have none.
          episode_key: the column whose value changes where an episode begins.
          episode_ends: what the last step of every episode is, whatever the columns say:
            'terminal' (the task ended) or 'timeout' (the recording was cut off).
          bad_rows: of rows with a NaN, an infinity or an empty cell: 'error', or 'drop', which
            leaves them out and cuts the episode there.
          action_low: lower end of every action, a number or [A]; None for the smallest recorded.
          action_high: upper end of every action, a number or [A]; None for the largest recorded.
          name: what the dataset is called in reports and in the names of folders.
          env: where to evaluate.
          references: the raw returns that score 0 and 100.

        Raises:
          DataError: if a column is missing or holds something else, and as `from_arrays`.
        """
        with restated():
            hints = read_hints(
                observation_keys=observation_keys,
                action_keys=action_keys,
                reward_key=reward_key,
                episode_key=episode_key,
                episode_ends=episode_ends,
                bad_rows=bad_rows,
                action_low=action_low,
                action_high=action_high,
            )
            table = Table(name, frames.columns(name, frame))
            known = _known(references)
            found = record(name, tables.steps_of(table, hints), None, None, known, hints=hints)
        _tell(found)
        return found if env is None else found.with_env(env)

    def in_memory(self) -> Dataset:
        """The same data with all rows in memory; itself, unless its files are mapped.

        Raises:
          DataError: if they do not fit, with both sizes.
        """
        mapped: dict[str, Any] = {x: y for x, y in self._asdict().items() if is_mapped(y)}
        size = sum(each.nbytes for each in mapped.values())
        container.check_size(f"{self.name}: all rows at once", size, size)
        arrays: dict[str, Any] = {name: np.asarray(each) for name, each in mapped.items()}
        return self._replace(**arrays)

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
        observations = self.shown
        actions = _count(self.action.shape[1], "action")
        place = self.task.env_id if self.task else "no environment"
        return f"Dataset {self.name!r}: {sizes}, {observations}, {actions}, {place}"

    @property
    def shown(self) -> str:
        """What an observation is, in words: the numbers of its vector, and its images."""
        width = self.observation.shape[1]
        words = [_count(width, "observation")] if width or not self.images else []
        for camera, each in self.images.items():
            words.append(f"images {camera!r} of " + "x".join(map(str, each.frames.shape[1:])))
        return " and ".join(words)

    @property
    def size(self) -> int:
        """The number of transitions N."""
        return len(self.reward)

    def score(self, raw_return: np.ndarray | float) -> np.ndarray:
        """A raw return on the 0 to 100 scale of the references; unchanged where there are none."""
        raw = np.asarray(raw_return, np.float64)
        return raw if self.references is None else scaled(raw, self.references)

    @property
    def by_success(self) -> bool:
        """Whether policies are scored by the share of episodes that succeed, and not by returns."""
        return self.family == "ogbench" or (self.task is not None and self.task.by_success)

    @property
    def own_score(self) -> float | None:
        """The mean score of the data's episodes; None where policies are scored by success.

        Such episodes were no attempts at the task, and are longer or shorter than a policy's.
        """
        return None if self.by_success else float(np.mean(self.score(self.returns)))

    @property
    def score_kind(self) -> str:
        """What a score is: 'normalised score', 'raw return' or 'success rate'."""
        if self.by_success:
            return SUCCESS_RATE
        return "raw return" if self.references is None else "normalised score"


# A Gymnasium id, a function that makes an environment, or none.
Environment = str | Callable[[], "gymnasium.Env"] | None


def scaled(raw: np.ndarray, references: tuple[float, float]) -> np.ndarray:
    """Raw returns on the scale where the references score 0 and 100."""
    low, high = references
    return 100.0 * (raw - low) / (high - low)


class References(NamedTuple):
    """The raw returns that score 0 and 100, if known, and where they come from."""

    values: tuple[float, float] | None
    source: str


def record(
    name: str,
    found: Steps,
    box: tuple[np.ndarray, np.ndarray] | None,
    where: Claim | Task | None,
    references: References,
    family: str = "",
    hints: Hints | None = None,
) -> Dataset:
    """Checks the arrays of a source and makes a Dataset of them.

    `where` is the evaluation environment; what a file says about it is a Claim. Without a `family`,
    the names of dataset and environment tell it, a refused one's too. Without a `box`, the bounds
    of the actions are the smallest and largest that were recorded, and a note says so.

    Raises:
      DataError: naming the dataset, the array and the bad rows.
    """
    hints = hints or Hints()
    checks.check_shapes(name, found)
    claim = where if isinstance(where, Claim) else Claim(where)
    faults = checks.faults(found)
    _check_rows(name, found, faults, hints.bad_rows)
    box = hints.box(found.action.shape[1], box)
    taken = box or checks.extent(found.action, faults.rows)
    low, high = checks.check_box(name, found.action, taken)
    outside = checks.outside(checks.small(found.action), low, high, found.lengths, faults.rows)
    notes = _notes(found, faults, None if box else (low, high))
    if faults.rows.any():
        found = checks.without(found, faults.rows)
    references = References(*checks.references(name, *references))
    keep = np.asarray(found.successor, bool)
    # Rows of mapped files are told by numbers: one array of them for all three.
    kept = row_numbers(keep) if is_mapped(found.observation) else keep
    if not keep.any():
        raise DataError(f"{name}: no step has a successor, so there is nothing to learn from")
    lengths = np.asarray(found.lengths, np.int64)
    lengths = lengths[lengths > 0]
    ends = np.cumsum(lengths)
    inside = np.ones(len(keep), bool)
    inside[ends - 1] = False
    # A row whose next row was dropped has a true next observation but no next action.
    continues = inside & np.append(keep[1:], False)
    reward = np.zeros(len(keep)) if found.reward is None else found.reward
    return Dataset(
        name=name,
        family=family or family_of(name, claim.env_id),
        observation=selected(checks.small(found.observation), kept),
        action=selected(checks.small(found.action), kept),
        reward=checks.small(reward)[keep],
        terminal=found.terminal.astype(bool)[keep],
        next_observation=selected(checks.small(found.next_observation), kept),
        continues=continues[keep],
        action_low=low,
        action_high=high,
        task=claim.task,
        references=references.values,
        reference_source=references.source,
        returns=np.add.reduceat(np.asarray(reward, np.float64), ends - lengths),
        lengths=lengths,
        refused=claim.refused,
        named_env=claim.env_id,
        outside=outside,
        notes=notes,
        has_rewards=found.reward is not None,
        time=None if found.time is None else np.asarray(found.time, np.float64)[keep],
        observation_names=found.observation_names,
        action_names=found.action_names,
        images={camera: each.kept(keep).aligned() for camera, each in found.images.items()},
    )


def _check_rows(name: str, found: Steps, faults: Faults, bad_rows: str) -> None:
    if faults.rows.any() and bad_rows != "drop":
        told = checks.described(faults, found.lengths)
        raise DataError(
            f"{name}: {told}. Repair the data, or --bad_rows=drop leaves such rows out and cuts "
            "the episode there"
        )
    if faults.rows.all():
        raise DataError(f"{name}: no row is good: {faults.first}")


def _notes(
    found: Steps, faults: Faults, taken: tuple[np.ndarray, np.ndarray] | None
) -> tuple[str, ...]:
    empty, notes = int((np.asarray(found.lengths) == 0).sum()), list(found.notes)
    if empty:
        notes.append(_left_out(empty, len(found.lengths)))
    if faults.rows.any():
        told = checks.described(faults, found.lengths)
        notes.append(f"left out, with the episode cut there: {told}")
    if found.reward is None:
        notes.append("there are no rewards: only methods that use none can be trained")
    if taken:
        low, high = (np.array2string(each, precision=4, separator=", ") for each in taken)
        notes.append(
            f"action bounds are taken from the data: low {low}, high {high} (--action_low and "
            "--action_high give others)"
        )
    return tuple(" ".join(note.split()) for note in notes)


# --- From arrays ----------------------------------------------------------------------------------


def _recorded(
    name: str,
    steps: Steps,
    bounds: tuple[Any, Any],
    env: Environment,
    references: tuple[float, float] | None,
    bad_rows: str,
) -> Dataset:
    with restated():
        hints = read_hints(bad_rows=bad_rows)
        low, high = (None if each is None else _bound(steps.action, each) for each in bounds)
        if (low is None) != (high is None):
            raise DataError(f"{name}: give both action_low and action_high, or neither")
        box = None if low is None or high is None else (low, high)
        found = record(name, steps, box, None, _known(references), hints=hints)
    _tell(found)
    return found if env is None else found.with_env(env)


def _known(references: tuple[float, float] | None) -> References:
    return References(references, "given with the arrays" if references else "none were given")


def _tell(found: Dataset) -> None:
    """Warns of what was assumed about data that a program handed over."""
    for note in found.notes:
        warnings.warn(f"{found.name}: {in_python(note)}", stacklevel=4)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _bound(action: np.ndarray, bound: Any) -> np.ndarray:
    """A bound of the actions [N, A] as [A], whether it was a number or an array."""
    wide = np.asarray(bound, np.float32)
    return np.full(action.shape[-1:], wide) if wide.ndim == 0 else wide


def _left_out(empty: int, count: int) -> str:
    return f"{empty} of {count} episodes {'has' if empty == 1 else 'have'} no steps: left out"
