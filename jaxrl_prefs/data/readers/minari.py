"""Reads Minari datasets: all their episodes at once, straight from the HDF5 groups."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.data import roots
from jaxrl_prefs.data.readers import container, default_task
from jaxrl_prefs.data.recording import Recording, References, Steps, record
from jaxrl_prefs.environments import spaces, task, trust
from jaxrl_prefs.environments.trust import Claim
from jaxrl_prefs.errors import DataError

SPACES = ("observation_space", "action_space")


def download(dataset_id: str) -> Path:
    """Fetches a dataset from Minari's server; returns the folder with its `metadata.json`.

    Raises:
      DataError: if the server cannot be reached or does not have it, with the command to get it.
    """
    import minari

    root = roots.writable_root()
    try:
        with roots.minari_root(root), _hushed():
            minari.download_dataset(dataset_id)
    except Exception as fault:  # each cloud client raises its own errors
        places = " or ".join(map(str, roots.roots()))
        raise DataError(
            f"dataset {dataset_id!r} is not on this machine ({places}) and could not be fetched: "
            f"{_first_line(fault)}. Where there is a network: minari download {dataset_id}"
        ) from fault
    return root / dataset_id / "data"


def read(folder: Path, dataset_id: str, env: str = "", *, trust_env: bool = False) -> Recording:
    """Reads the dataset in `folder`, which holds `metadata.json`.

    Minari stores T + 1 observations for T actions, so every step has a successor: the last step of
    a truncated episode is kept, with its true next observation. An `env` replaces the environment
    that the dataset names; `trust_env` as in `data.load`.

    Raises:
      DataError: if the dataset is damaged or of a kind that is not supported.
    """
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        if not isinstance(metadata, dict):
            raise ValueError("metadata.json holds no mapping")
        storage = _storage(
            folder, metadata, lambda: _claim(metadata, env, dataset_id, 1, trust_env)
        )
    except DataError as fault:
        raise DataError(f"{dataset_id}: {fault}") from fault
    except Exception as fault:  # a foreign file may be wrong in any way
        raise DataError(f"{dataset_id}: {folder} is damaged: {_first_line(fault)}") from fault
    box = spaces.bounds(storage.action_space, dataset_id)
    spaces.check_observations(storage.observation_space, f"{dataset_id}: observations")
    if not metadata.get("total_episodes"):
        raise DataError(f"{dataset_id}: the dataset has no episodes")
    try:
        read_steps = _hdf5_steps if metadata.get("data_format", "hdf5") == "hdf5" else _api_steps
        steps = read_steps(storage, dataset_id)
    except container.DAMAGES as fault:
        raise DataError(
            f"{dataset_id}: {folder} cannot be read, it may be cut short: {_first_line(fault)}\n"
            f"Delete {folder.parent} and get the dataset again"
        ) from fault
    return record(
        dataset_id,
        steps,
        box,
        _claim(metadata, env, dataset_id, int(steps.lengths.max()), trust_env),
        _references(metadata),
    )


def _storage(folder: Path, metadata: dict[str, Any], named: Callable[[], Claim]) -> Any:
    """Opens a dataset. Minari itself would make the environment of one that lacks its spaces, with
    whatever code its metadata name; here the environment passes the same check as for evaluation.
    """
    from minari.dataset.minari_storage import MinariStorage

    missing = [key for key in SPACES if key not in metadata]
    if not missing:
        return MinariStorage.read(folder)
    from minari.dataset._storages import get_minari_storage
    from minari.serialization import deserialize_space

    found = named()
    if found.task is None:
        why = f" ({found.refused})" if found.refused else ""
        raise DataError(
            f"metadata.json lacks {' and '.join(missing)}, and there is no environment to take "
            f"them from{why}"
        )
    env = found.task.bare()
    found_spaces = [
        getattr(env, key) if key in missing else deserialize_space(metadata[key]) for key in SPACES
    ]
    env.close()
    return get_minari_storage(metadata["data_format"])(folder, *found_spaces)


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


def _references(metadata: dict[str, Any]) -> References:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        return References(None, "none in the dataset's metadata")
    return References((float(low), float(high)), "the dataset's metadata")


def _hdf5_steps(storage: Any, name: str) -> Steps:
    """Follows the layout of Minari's HDF5 files: `episode_<i>/<key>[/<key of a dict>...]`."""
    import h5py

    count, path = storage.total_episodes, storage.data_path / "main_data.hdf5"
    container.check_exists(path)
    with h5py.File(path, "r") as file:
        container.check_links(path, file)

        def column(key: str) -> list[np.ndarray]:
            return [_array(path, file, f"episode_{i}/{key}", name) for i in range(count)]

        action, reward, terminal = map(column, ("actions", "rewards", "terminations"))
        parts = dict(_columns(column, storage.observation_space, "observations"))
    for key, part in parts.items():
        _check_episodes(name, key, part, [len(rows) + 1 for rows in reward])
    _check_episodes(name, "actions", action, [len(rows) for rows in reward])
    _check_episodes(name, "terminations", terminal, [len(rows) for rows in reward])
    whole = {key: np.concatenate(part) for key, part in parts.items()}
    observation = spaces.flatten(_nest(whole, storage.observation_space, "observations"), lead=1)
    return _steps(observation, action, reward, terminal)


def _array(whole: Path, file: Any, path: str, name: str) -> np.ndarray:
    """Reads one array; the low-level calls of h5py take half the time of `file[path][()]`."""
    from h5py import h5d, h5s

    try:
        stored = h5d.open(file.id, path.encode())
    except (KeyError, ValueError) as fault:
        raise DataError(f"{name}: {path} is missing from the dataset") from fault
    container.check_stored(whole, stored, path)
    array = np.empty(stored.shape, stored.dtype)
    if array.size:
        stored.read(h5s.ALL, h5s.ALL, array)
    return array


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


def _check_episodes(name: str, key: str, part: list[np.ndarray], expected: list[int]) -> None:
    for episode, (rows, length) in enumerate(zip(part, expected, strict=True)):
        if len(rows) != length:
            raise DataError(
                f"{name}: arrays of different lengths: episode {episode} has {len(rows)} {key}, "
                f"expected {length}"
            )


def _api_steps(storage: Any, name: str) -> Steps:
    """Reads other storage formats through Minari itself."""
    episodes = list(storage.get_episodes(range(storage.total_episodes)))
    reward = [np.asarray(episode["rewards"]) for episode in episodes]
    part = [spaces.flatten(episode["observations"], lead=1) for episode in episodes]
    action = [spaces.flatten(episode["actions"], lead=1) for episode in episodes]
    terminal = [np.asarray(episode["terminations"]) for episode in episodes]
    _check_episodes(name, "observations", part, [len(rows) + 1 for rows in reward])
    _check_episodes(name, "actions", action, [len(rows) for rows in reward])
    _check_episodes(name, "terminations", terminal, [len(rows) for rows in reward])
    return _steps(np.concatenate(part), action, reward, terminal)


def _steps(
    observation: np.ndarray,  # [steps + episodes, O]
    action: list[np.ndarray],
    reward: list[np.ndarray],
    terminal: list[np.ndarray],
) -> Steps:
    lengths = np.array([len(rows) for rows in reward])
    ends = np.cumsum(lengths + 1)
    return Steps(
        observation=np.delete(observation, ends - 1, axis=0),
        action=np.concatenate(action),
        reward=np.concatenate(reward),
        terminal=np.concatenate(terminal),
        next_observation=np.delete(observation, ends - lengths - 1, axis=0),
        lengths=lengths,
        successor=np.ones(int(lengths.sum()), bool),
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


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]
