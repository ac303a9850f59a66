"""Reads Minari datasets: all their episodes at once, straight from the HDF5 groups."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import images, layout, roots
from jaxrl_prefs.data.hints import Hints
from jaxrl_prefs.data.observations import nothing
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Dataset, References, record
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.environments import spaces, task, trust
from jaxrl_prefs.environments.trust import Claim
from jaxrl_prefs.errors import DataError

SPACES = ("observation_space", "action_space")
HDF5 = "hdf5"  # the format of most sets; of the others, Minari itself reads the files
FORMATS = (HDF5, "arrow", "parquet")
FILE = "main_data.hdf5"
LARGEST_SPACE = 10**6  # numbers in one observation or action
LAYOUT, REWARDS = "jaxrl_prefs_layout", "jaxrl_prefs_rewards"  # of sets that we wrote
STALLED = 120.0  # seconds without a new byte after which a download is given up


class Stored(NamedTuple):
    """What the metadata say about a set's files; the part of Minari's own storage that is used."""

    data_path: Path
    total_episodes: int
    observation_space: Any
    action_space: Any


def download(dataset_id: str) -> Path:
    """Fetches a dataset from Minari's server; returns the folder with its `metadata.json`.

    It appears in one step when it is complete. A server that sends nothing for two minutes is
    given up.

    Raises:
      DataError: if the server cannot be reached or does not have it, with the command to get it.
    """
    import minari

    root = roots.writable_root()

    def write(folder: Path) -> None:
        draft = folder.parent
        with roots.minari_root(draft), _hushed():
            _watched(lambda: minari.download_dataset(dataset_id), draft)
        (draft / dataset_id / "data").rename(folder)

    print(f"{dataset_id} is not on this machine: asking Minari's server")
    try:
        return roots.install(dataset_id, root, write)
    except Exception as fault:  # each cloud client raises its own errors
        places = " or ".join(map(str, roots.roots()))
        raise DataError(
            f"dataset {dataset_id!r} is not on this machine ({places}) and could not be fetched: "
            f"{container.first_line(fault)}. Where there is a network: minari download {dataset_id}"
        ) from fault


def _watched(work: Callable[[], Any], folder: Path) -> None:
    """Runs `work` as long as the folder grows now and then.

    Raises:
      TimeoutError: if it did not for `STALLED` seconds. The work may go on until the process ends.
      Exception: what `work` raises.
    """
    faults: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as fault:  # handed to the waiting thread
            faults.append(fault)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    size, since = 0, time.monotonic()
    while worker.is_alive():
        worker.join(0.5)
        now = _size(folder)
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since > STALLED:
            raise TimeoutError(f"the server sent nothing for {STALLED:.0f} seconds")
    if faults:
        raise faults[0]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files come and go
            total += path.stat().st_size
    return total


def check_absent(dataset_id: str) -> None:
    """Refuses to fetch a dataset that is on this machine, but cannot be read as it is.

    Raises:
      DataError: saying what is wrong with the dataset's folder.
    """
    for root in roots.roots():
        folder = root / dataset_id
        data = folder / "data"
        if is_older(data):
            raise DataError(
                f"{dataset_id}: {data} is of an older Minari (before 0.5), which kept the metadata "
                f"in {FILE}. To convert it: python -m experiments.data convert {dataset_id} "
                f"converted/{dataset_id}"
            )
        if folder.is_symlink() or (folder.exists() and any(folder.iterdir())):
            raise DataError(
                f"{dataset_id}: {folder} holds no whole dataset, {data / 'metadata.json'} is no "
                "file. It is not fetched as long as this folder is there: repair it, or give it "
                "another name"
            )


def is_older(data: Path) -> bool:
    """Whether the folder holds a set of Minari 0.4, which had no `metadata.json`."""
    if (data / "metadata.json").exists() or not (data / FILE).is_file():
        return False
    try:
        with container.hdf5(data / FILE) as file:
            return "total_episodes" in file.attrs
    except DataError:
        return False


def metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the dataset in `folder`, as Minari stores them; UTF-8 in every locale.

    Raises:
      DataError: if they cannot be read.
    """
    if is_older(folder):
        with container.hdf5(folder / FILE) as file:
            found = {name: file.attrs[name] for name in file.attrs}
        return {name: x.item() if isinstance(x, np.generic) else x for name, x in found.items()}
    return container.json_mapping(folder / "metadata.json")


def read(
    folder: Path,
    dataset_id: str,
    env: str = "",
    *,
    trust_env: bool = False,
    hints: Hints | None = None,
) -> Dataset:
    """Reads the dataset in `folder`, which holds `metadata.json`.

    Minari stores T + 1 observations for T actions, so every step has a successor: the last step of
    a truncated episode is kept, with its true next observation. An `env` replaces the environment
    that the dataset names; `trust_env` as in `data.load`.

    Raises:
      DataError: if the dataset is damaged or of a kind that is not supported.
    """
    try:
        about = metadata(folder)
        count = _episodes(about)
        references = _references(about)
        form = about.get("data_format", HDF5)
        found = _spaces(about, lambda: _claim(about, env, dataset_id, 1, trust_env))
    except DataError as fault:
        raise DataError(f"{dataset_id}: {fault}") from fault
    box = spaces.bounds(found[1], dataset_id)
    _check_observations(found[0], f"{dataset_id}: observations")
    if not count:
        raise DataError(f"{dataset_id}: the dataset has no episodes")
    stored = Stored(folder, count, *found)
    if form == HDF5:
        steps = _hdf5_steps(stored, dataset_id)
    else:
        steps = _api_steps(_storage(dataset_id, form, stored), dataset_id)
    recording = record(
        dataset_id,
        _known(about, steps),
        box,
        _claim(about, env, dataset_id, max(1, int(steps.lengths.max())), trust_env),
        references,
        hints=hints,
    )
    return recording._replace(notes=recording.notes + _missing_steps(about, steps))


def _known(about: dict[str, Any], steps: Steps) -> Steps:
    """The steps with the names of their dimensions, and without rewards if none were recorded.

    Only sets that we wrote say so; another set of the same sizes may have taken their metadata.
    """
    if about.get(REWARDS) is False:
        steps = steps._replace(reward=None)
    if about.get(LAYOUT) is None:
        return steps
    told = layout.from_json(about[LAYOUT], "jaxrl_prefs_layout in metadata.json")
    sizes = steps.observation.shape[1], steps.action.shape[1]
    if (told.observation_dim, told.action_dim) != sizes:
        raise DataError(f"jaxrl_prefs_layout in metadata.json is of other sizes than {sizes}")
    return steps._replace(observation_names=told.observation_names, action_names=told.action_names)


def _missing_steps(about: dict[str, Any], steps: Steps) -> tuple[str, ...]:
    """A note where the metadata tell of another number of steps than there are."""
    told, found = about.get("total_steps"), len(steps.action)
    if told is None or told == found:
        return ()
    return (f"metadata.json tells of {str(told)[:20]} steps, the episodes have {found}",)


def _episodes(about: dict[str, Any]) -> int:
    count = about.get("total_episodes")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise DataError(f"total_episodes={count!r} in metadata.json is no number of episodes")
    return count


def _spaces(about: dict[str, Any], named: Callable[[], Claim]) -> tuple[Any, Any]:
    """Spaces of observations and actions. Minari itself would make the environment of a set that
    lacks them, with whatever code its metadata name; here the environment passes the same check as
    for evaluation.
    """
    missing = [key for key in SPACES if about.get(key) is None]
    told = {key: _space(about[key], key) for key in SPACES if key not in missing}
    if missing:
        found = named()
        if found.task is None:
            why = f" ({found.refused})" if found.refused else ""
            raise DataError(
                f"metadata.json lacks {' and '.join(missing)}, and there is no environment to take "
                f"them from{why}"
            )
        env = found.task.bare()
        told |= {key: getattr(env, key) for key in missing}
        env.close()
    return told["observation_space"], told["action_space"]


def _space(text: Any, key: str) -> Any:
    from minari.serialization import deserialize_space

    try:
        _check_space(json.loads(text))
        with warnings.catch_warnings():  # Gymnasium warns of what is refused later, by name
            warnings.simplefilter("ignore")
            return deserialize_space(text)
    except Exception as fault:  # Gymnasium's constructors raise errors of any kind
        why = container.first_line(fault)
        raise DataError(f"{key} in metadata.json is damaged: {why}") from fault


def _check_space(content: Any) -> None:
    """Refuses shapes that Gymnasium would allocate, whatever their size."""
    if not isinstance(content, dict):
        raise DataError("it holds no mapping")
    parts = content.get("subspaces", ())
    for part in parts.values() if isinstance(parts, dict) else parts:
        _check_space(part)
    shape = content.get("shape", [])
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or math.prod(shape) > LARGEST_SPACE:
        raise DataError(f"shape={str(shape)[:40]} is none of a space")
    if np.dtype(content.get("dtype", "float32")).kind not in "biufU":
        raise DataError(f"dtype={content['dtype']} is none of numbers")


def _storage(dataset_id: str, form: Any, stored: Stored) -> Any:
    """Minari's own reader of a format."""
    from minari.dataset._storages import get_minari_storage

    if form not in FORMATS:
        raise DataError(f"{dataset_id}: data_format={form!r} is none of {', '.join(FORMATS)}")
    try:
        return get_minari_storage(form)(
            stored.data_path, stored.observation_space, stored.action_space
        )
    except ImportError as fault:
        raise DataError(
            f"{dataset_id} is stored in the format {form}, which needs a package that is missing "
            f"({container.first_line(fault)}): pip install pyarrow"
        ) from fault
    except Exception as fault:
        why = container.first_line(fault)
        raise DataError(f"{dataset_id}: {stored.data_path} cannot be read: {why}") from fault


def _claim(
    metadata: dict[str, Any], env: str, dataset_id: str, longest: int, trust_env: bool
) -> Claim:
    """The environment to evaluate in: the user's, or the one that the metadata name."""
    if env:
        return Claim(task.named(env, longest))
    key = "eval_env_spec" if metadata.get("eval_env_spec") else "env_spec"
    spec, own = metadata.get(key), metadata.get("env_spec")
    if not spec:
        return Claim(default_task.of(dataset_id, longest))
    found = trust.claim(spec, f"{key} in metadata.json", longest, trust_env=trust_env)
    if found.task is None:
        return found
    told, before = (_told(each) for each in (spec, own or spec))
    other = tuple(f"{name}={x}" for name, x in before.items() if (name, x) not in told.items())
    return Claim(found.task._replace(recorded_with=other))


def _told(spec: Any) -> dict[str, Any]:
    kwargs = trust.parsed(spec).get("kwargs", {})
    return kwargs if isinstance(kwargs, dict) else {}


def _references(about: dict[str, Any]) -> References:
    values = []
    for key in ("ref_min_score", "ref_max_score"):
        value = about.get(key)
        if value is None:
            return References(None, "none in the dataset's metadata")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{key}={str(value)[:40]!r} in metadata.json is no number")
        values.append(value if isinstance(value, float) else float(f"{value}"))
    return References((values[0], values[1]), "the dataset's metadata")


def _hdf5_steps(stored: Any, name: str) -> Steps:
    """Follows the layout of Minari's HDF5 files: `episode_<i>/<key>[/<key of a dict>...]`.

    Of `stored`, the fields of `Stored` are used.
    """
    count, path = stored.total_episodes, stored.data_path / FILE
    with container.hdf5(path) as file:
        found = sum(key.startswith("episode_") for key in file)
        if found != count:
            raise DataError(
                f"{name}: metadata.json tells of {count} episodes, {FILE} holds {found}: episodes "
                "are missing from the dataset, or were added without a note"
            )

        def column(key: str) -> list[np.ndarray]:
            return [_array(path, file, f"episode_{i}/{key}", name) for i in range(count)]

        reward, terminal = column("rewards"), column("terminations")
        action = dict(_columns(column, stored.action_space, "actions"))
        parts = dict(_columns(column, stored.observation_space, "observations"))
    return _steps(name, stored, (parts, action), reward, terminal)


def _array(whole: Path, file: Any, path: str, name: str) -> np.ndarray:
    """Reads one array; the low-level calls of h5py take half the time of `file[path][()]`."""
    from h5py import h5d

    try:
        stored = h5d.open(file.id, path.encode())
    except Exception as fault:  # of whatever kind: there is no array of this name
        raise DataError(f"{name}: {path} is missing from the dataset, or no array") from fault
    return container.numbers(whole, stored, path)


def _check_observations(space: Any, name: str) -> None:
    """As `spaces.check_observations`, of spaces that may hold images.

    Raises:
      DataError: naming the part of the space that is at fault.
    """
    for leaf, place in _leaf_spaces(space, name):
        if _is_camera(leaf):
            continue
        shape, dtype = getattr(leaf, "shape", None) or (), getattr(leaf, "dtype", None)
        if len(shape) == 3 and dtype != np.uint8:
            raise DataError(
                f"{place}: observations are images of {dtype} ({leaf}): record them as uint8 of "
                "0 to 255, channels last"
            )
        spaces.check_observations(leaf, place)


def _is_camera(space: Any) -> bool:
    """Whether a space is that of images: uint8 [H, W, C], or grey [H, W]."""
    return len(getattr(space, "shape", None) or ()) in (2, 3) and space.dtype == np.uint8


def _camera(path: str) -> str:
    """What a camera is called, by the path of its arrays."""
    return path.partition("/")[2] or images.ALONE


def _leaf_spaces(space: Any, path: str) -> Iterator[tuple[Any, str]]:
    """The spaces of arrays, with their paths in Minari's files."""
    parts = _parts(space, path)
    if parts is None:
        yield space, path
        return
    for part, below in parts:
        yield from _leaf_spaces(part, below)


def _parts(space: Any, path: str) -> Iterator[tuple[Any, str]] | None:
    """The spaces inside a space with their paths in Minari's files, or None for an array."""
    spaces = getattr(space, "spaces", None)
    if spaces is None:
        return None
    if isinstance(spaces, dict):
        return ((part, f"{path}/{key}") for key, part in spaces.items())
    return ((part, f"{path}/_index_{i}") for i, part in enumerate(spaces))


def _columns(column: Any, space: Any, path: str) -> Iterator[tuple[str, list[np.ndarray]]]:
    parts = _parts(space, path)
    if parts is None:
        yield path, column(path)
        return
    for part, below in parts:
        yield from _columns(column, part, below)


def _nest(whole: dict[str, np.ndarray], space: Any, path: str) -> Any:
    """The arrays in the structure of their space, so that `flatten` decides their order."""
    parts = _parts(space, path)
    if parts is None:
        return whole[path]
    values = [_nest(whole, part, below) for part, below in parts]
    return dict(zip(space.spaces, values, strict=True)) if hasattr(space, "keys") else tuple(values)


def _api_steps(storage: Any, name: str) -> Steps:
    """Reads other storage formats through Minari itself."""
    try:
        episodes = list(storage.get_episodes(range(storage.total_episodes)))
        read = {
            key: [_leaves(episode[key], space, key) for episode in episodes]
            for key, space in (
                ("observations", storage.observation_space),
                ("actions", storage.action_space),
            )
        }
        parts, action = (
            {path: [leaves[path] for leaves in of_episodes] for path in of_episodes[0]}
            for of_episodes in read.values()
        )
        reward, terminal = (
            [np.asarray(episode[key]) for episode in episodes]
            for key in ("rewards", "terminations")
        )
    except Exception as fault:  # a foreign file may be wrong in any way
        why = container.first_line(fault)
        raise DataError(f"{name}: {storage.data_path} cannot be read: {why}") from fault
    return _steps(name, storage, (parts, action), reward, terminal)


def _leaves(value: Any, space: Any, path: str) -> dict[str, np.ndarray]:
    """The arrays of a value that has the structure of a space, by their path in Minari's files."""
    parts = _parts(space, path)
    if parts is None:
        return {path: np.asarray(value)}
    keys = space.spaces if isinstance(space.spaces, dict) else range(len(space.spaces))
    found: dict[str, np.ndarray] = {}
    for key, (part, below) in zip(keys, parts, strict=True):
        found |= _leaves(value[key], part, below)
    return found


def _steps(
    name: str,
    stored: Any,
    parts: tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]],
    reward: list[np.ndarray],
    terminal: list[np.ndarray],
) -> Steps:
    """Lays episodes end to end; `parts` are the arrays of observations and of actions."""
    reward = [_row(name, "rewards", i, rows) for i, rows in enumerate(reward)]
    terminal = [_row(name, "terminations", i, rows) for i, rows in enumerate(terminal)]
    lengths = np.array([len(rows) for rows in reward])
    # T + 1 observations for T steps; of an episode without steps, the first may be there or not.
    first = next(iter(parts[0].values()))
    lone = (lengths == 0) & np.array([rows.ndim > 0 and not len(rows) for rows in first])
    counts = lengths + 1 - lone
    _check_lengths(name, "terminations", terminal, lengths)
    observation, action = (
        _flat(name, arrays, space, key, expected)
        for arrays, space, key, expected in (
            (parts[0], stored.observation_space, "observations", counts),
            (parts[1], stored.action_space, "actions", lengths),
        )
    )
    ends, full = np.cumsum(counts), counts > 0
    shown = {
        _camera(path): images.with_last(_frames(name, parts[0][path], leaf, path), counts)
        for leaf, path in _leaf_spaces(stored.observation_space, "observations")
        if _is_camera(leaf)
    }
    return Steps(
        observation=np.delete(observation, ends[full] - 1, axis=0),
        action=action,
        reward=np.concatenate(reward),
        terminal=np.concatenate(terminal),
        next_observation=np.delete(observation, (ends - counts)[full], axis=0),
        lengths=lengths,
        successor=np.ones(int(lengths.sum()), bool),
        images=shown,
    )


def _row(name: str, key: str, episode: int, rows: np.ndarray) -> np.ndarray:
    """One number per step, [T]; also stored as [T, 1]."""
    if rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    if rows.ndim != 1:
        raise DataError(
            f"{name}: {key} of episode {episode} have shape {rows.shape}, expected one per step"
        )
    return rows


def _flat(
    name: str, parts: dict[str, list[np.ndarray]], space: Any, key: str, lengths: np.ndarray
) -> np.ndarray:
    """The arrays of all episodes as vectors [rows, D], in the order of `spaces.flatten`.

    Images are left out.
    """
    whole = {}
    for (path, part), (inner, _) in zip(parts.items(), _leaf_spaces(space, key), strict=True):
        _check_lengths(name, path, part, lengths)
        if key == "observations" and _is_camera(inner):
            whole[path] = nothing(int(lengths.sum()))
            continue
        leaf = inner.shape
        size = math.prod(leaf)
        for episode, rows in enumerate(part):
            if len(rows) and math.prod(rows.shape[1:]) != size:
                raise DataError(
                    f"{name}: {path} of episode {episode} have shape {rows.shape}, but their space "
                    f"has the shape {leaf}"
                )
        whole[path] = np.concatenate([rows.reshape(len(rows), *leaf) for rows in part])
    return spaces.flatten(_nest(whole, space, key), lead=1)


def _frames(name: str, parts: list[np.ndarray], space: Any, path: str) -> np.ndarray:
    """The frames of all episodes [M, H, W, C]."""
    for episode, rows in enumerate(parts):
        if len(rows) and (rows.shape[1:] != space.shape or rows.dtype != space.dtype):
            raise DataError(
                f"{name}: {path} of episode {episode} are {rows.dtype} of shape {rows.shape}, but "
                f"their space has {space.dtype} of shape {space.shape}: store images of one size"
            )
    whole = np.concatenate([rows.reshape(len(rows), *space.shape) for rows in parts])
    return images.with_channels(whole)


def _check_lengths(name: str, key: str, part: list[np.ndarray], expected: np.ndarray) -> None:
    for episode, (rows, length) in enumerate(zip(part, expected, strict=True)):
        if rows.ndim == 0:
            raise DataError(f"{name}: {key} of episode {episode} are a single value")
        if len(rows) != length:
            raise DataError(
                f"{name}: arrays of different lengths: episode {episode} has {len(rows)} {key}, "
                f"expected {length}"
            )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keeps cloud clients from logging every try; what comes of them is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
