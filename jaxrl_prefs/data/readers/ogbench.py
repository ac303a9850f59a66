"""Reads OGBench's numpy archives, of single tasks: `observations`, `actions`, `terminals`, and the
task's `rewards` and `masks`.

OGBench's files hold no rewards; its package computes them for a task (`ogbench.relabel_utils`).
That is done here if a task is named and ogbench is installed, and rewards that a file has are
compared with these. The reward of (s, a, s') is computed from s, in all versions that have tasks
(1.1.0 to 1.2.2 give the same numbers). Since 1.2.0 environments return the reward and the success
of s; earlier ones return those of s'.

Of its visual sets, observations are uint8 [N, 64, 64, 3], and the rewards those of the same task
without images (ogbench 1.2.2: `utils.load_dataset`, and the ids in `manipspace` and `locomaze`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import observations
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.data.observations import Observed, parted
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import ogbench_names, spaces, task
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import is_mapped
from jaxrl_prefs.rows import selected

REQUIRED = ("observations", "actions", "terminals")
LABELS = ("rewards", "masks")
# Environments that stay open while `sharing` reads the files of a folder; None elsewhere.
_shared: dict[Task, Any] | None = None


def read(
    path: Path, arrays: Mapping[str, np.ndarray], env: str = "", hints: Hints | None = None
) -> Dataset:
    """Makes a Dataset of an archive's arrays, each [N, ...].

    In OGBench's files an episode of T steps takes T + 1 rows, and `terminals` mark the last, whose
    action had no effect; a step's successor is the next row. Where a file has `next_observations`,
    every row is a step, and `terminals` mark an episode's last. Neither ends the task: that is
    `masks`, 0 where the goal is reached, which also happens inside episodes. Without rewards in
    the file and without `env`, the dataset has none.

    Raises:
      DataError: if arrays are missing, of wrong shapes, or `env` is not their environment.
    """
    container.need(path, arrays, REQUIRED, "OGBench's format")
    known = (*REQUIRED, *LABELS, "next_observations")
    container.check_rows(path, {k: v for k, v in arrays.items() if k in known})
    seen = _seen(path, arrays, "observations")
    observation, action = seen.vector, container.matrix(path, "actions", arrays["actions"])
    container.check_sizes(path, arrays.get(container.SIZES), observation, action)
    last = container.flags(path, "terminals", arrays["terminals"])
    if not last[-1]:
        raise DataError(f"{path}: the last episode has no end (terminals); the file was cut short")
    where = task.named(env) if env else default_task.of(f"ogbench/{path.stem}")
    box = _box(path, where if env else None, (observation.shape[1], action.shape[1]))
    rows, following, lengths = _steps(path, arrays, seen, last)
    reward, mask, notes = _labels(path, arrays, where, bool(env), rows)
    count = int(rows.sum())
    steps = Steps(
        observation=selected(observation, rows),
        action=selected(action, rows),
        reward=None if reward is None else reward[rows],
        terminal=np.zeros(count, bool) if mask is None else ~mask[rows],
        next_observation=selected(following.vector, rows),
        lengths=lengths,
        successor=np.ones(count, bool),
        notes=notes,
        images=_images(path, seen, following, rows),
    )
    references = References(None, "none: OGBench reports success rates")
    return record(str(path), steps, box, where, references, family="ogbench", hints=hints)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Lets the files that are read within it, those of a folder, share one environment."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        opened, _shared = _shared or {}, None
        for each in opened.values():
            each.close()


@contextlib.contextmanager
def _opened(where: Task) -> Iterator[Any]:
    """The environment, closed afterwards unless it is shared."""
    if _shared is not None:
        if where not in _shared:
            _shared[where] = where.make()
        yield _shared[where]
        return
    env = where.make()
    try:
        yield env
    finally:
        env.close()


def _seen(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> Observed:
    """Observations, as vectors or as images."""
    container.check_numbers(f"{path}: {key}", arrays[key].dtype)
    found = parted(f"{path}: {key}", arrays[key])
    if found.frames:
        return found
    return found._replace(vector=container.matrix(path, key, arrays[key]))


def _steps(
    path: Path, arrays: Mapping[str, np.ndarray], seen: Observed, last: np.ndarray
) -> tuple[np.ndarray, Observed, np.ndarray]:
    """Which rows are steps [N], what followed them, and how many steps the episodes have.

    Of images, `following` has none where it is the next row.
    """
    lengths = np.diff(np.flatnonzero(last), prepend=-1)
    if "next_observations" not in arrays:
        after: Any = (
            seen.vector.following(~last)
            if is_mapped(seen.vector)
            else np.roll(seen.vector, -1, axis=0)
        )
        return ~last, Observed(after, {}), lengths - 1
    following = _seen(path, arrays, "next_observations")
    container.check_same_shape(
        path, ("observations", seen.vector), ("next_observations", following.vector)
    )
    return np.ones(len(last), bool), following, lengths


def _images(path: Path, seen: Observed, following: Observed, rows: np.ndarray) -> dict[str, Images]:
    """The images of the steps; frames stay where they are, a step's next one is an index."""
    if following.frames:
        return observations.of_pairs(str(path), seen, following, len(rows))
    found = observations.of_steps(str(path), seen, ~rows)
    return {camera: each.kept(rows) for camera, each in found.items()}


def _check_place(path: Path, where: Task) -> None:
    """Refuses a task of another place than the file's name says."""
    data, asked = ogbench_names.of_path(path), ogbench_names.place_of(where.env_id)
    if data and asked and asked != data.place:
        raise DataError(
            f"{path} belongs to {data.place}, not to {asked}: name one of its own tasks, such as "
            f"{ogbench_names.example(path)}"
        )


def _box(path: Path, where: Task | None, sizes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the actions: -1 to 1, but those of another environment than OGBench's."""
    if where is not None:
        _check_place(path, where)
    if where is None or where.by_success:
        return default_task.box(None, sizes[1])
    with _opened(where) as env:
        _check_sizes(path, where, sizes, env)
        return spaces.bounds(env.action_space, where.env_id)


def _check_sizes(path: Path, where: Task, sizes: tuple[int, int], env: Any) -> None:
    """Refuses an environment of other sizes than those of the observations and the actions."""
    found = tuple((space.shape or (0,))[0] for space in (env.observation_space, env.action_space))
    if found != sizes:
        raise DataError(
            f"{path} has {sizes[0]} observations and {sizes[1]} actions, and {where.env_id} has "
            f"{found[0]} and {found[1]}: name the environment of these data"
        )


def _labels(
    path: Path, arrays: Mapping[str, np.ndarray], where: Task | None, named: bool, rows: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Rewards and masks of all rows [N], and notes; both are None without a task.

    A file's own are taken where no task is named. Where one is, they must be that task's.

    Raises:
      DataError: if they are another task's, or cannot be computed.
    """
    own = None
    if all(name in arrays for name in LABELS):
        own = _columns(path, arrays)
    is_task = where is not None and ogbench_names.is_task(where.env_id)
    if where is None or (own and not (named and is_task)):
        return (*own, ()) if own else (None, None, (_unlabelled(path),))
    if not is_task:
        raise DataError(
            f"{path}: has no rewards and masks, as OGBench's files for goal-conditioned learning, "
            f"and {where.env_id} computes none: name a single task ({ogbench_names.example(path)})"
        )
    if own and "qpos" not in arrays:
        note = f"its own rewards were not compared with those of {where.env_id}: it has no qpos"
        return (*own, (note,))
    found = _columns(path, _relabelled(path, arrays, where))
    if own and not _equal(own, found, rows):
        raise DataError(_of_another_task(path, arrays, where, own, rows))
    return (*found, ())


def _columns(path: Path, arrays: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    reward = container.column(path, "rewards", arrays["rewards"])
    return reward, container.flags(path, "masks", arrays["masks"])


def _equal(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], rows: np.ndarray
) -> bool:
    return all(np.array_equal(a[rows], b[rows]) for a, b in zip(one, other, strict=True))


def _of_another_task(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    where: Task,
    own: tuple[np.ndarray, np.ndarray],
    rows: np.ndarray,
) -> str:
    """Says whose a file's own rewards are, which are not those of the task that was named."""
    followed = ~container.flags(path, "terminals", arrays["terminals"])
    whose = ""
    for name in ogbench_names.tasks_of(where.env_id):
        with contextlib.suppress(DataError):
            found = _columns(path, _relabelled(path, arrays, task.named(name)))
            if _equal(own, found, rows):
                whose = name
                break
            if _equal(own, (np.roll(found[0], -1), np.roll(found[1], -1)), followed):
                return _of_next_states(path, name)
    return (
        f"{path}: its rewards are those of {whose or 'no task of this place in ogbench here'}, not "
        f"of {where.env_id}: "
        + (f"name that task (--env={whose}), or " if whose else "")
        + "take the file without rewards and masks"
    )


def _of_next_states(path: Path, env_id: str) -> str:
    """Says that a file's own rewards are a task's as environments returned them before 1.2.0."""
    name = ogbench_names.single_task(str(path), env_id)
    keep = f", or call it {name}.npz and leave --env out to train on the file's own rewards"
    return (
        f"{path}: its rewards are those of {env_id} in the state after each step, as environments "
        "of ogbench before 1.2 return them; OGBench computes those of its data from the state "
        f"before: take the file without rewards and masks{keep if name else ''}"
    )


def _unlabelled(path: Path) -> str:
    return (
        "goal-conditioned OGBench file, without rewards: name a task to compute them "
        f"({ogbench_names.example(path)}; pip install ogbench)"
    )


def _relabelled(path: Path, arrays: Mapping[str, np.ndarray], where: Task) -> dict[str, Any]:
    """The arrays with the rewards and masks that the package computes."""
    try:
        from ogbench.relabel_utils import relabel_dataset
    except ImportError as fault:
        raise DataError(
            f"{path}: has no rewards, which the package ogbench computes: pip install ogbench"
        ) from fault
    whole: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    judge = where
    if where.env_id.startswith(ogbench_names.VISUAL):  # draws nothing, has the same goals
        judge = task.named(where.env_id.removeprefix(ogbench_names.VISUAL))
    with _opened(judge) as env:
        if "observations" in whole and judge is where:
            sizes = [whole[key].shape[-1] for key in ("observations", "actions")]
            _check_sizes(path, where, (sizes[0], sizes[1]), env)
        try:
            relabel_dataset(judge.env_id, env, whole)
        except KeyError as fault:
            raise DataError(
                f"{path}: missing {fault}, of which the rewards are computed"
            ) from fault
        except Exception as fault:  # the arrays that it looks at may be of any shape
            why = container.first_line(fault)
            raise DataError(f"{path}: ogbench cannot compute its rewards: {why}") from fault
    return whole
