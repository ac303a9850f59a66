"""Small dataset files for the tests, written with the formats' own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

ACTIONS = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)


def episode(observations: Any, actions: Any, rewards: Any, *, terminated: bool) -> EpisodeBuffer:
    """One episode; its last step is a termination or a truncation."""
    steps = len(rewards)
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        observations=np.asarray(observations) if isinstance(observations, list) else observations,
        actions=np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, np.float64),
        terminations=last & terminated,
        truncations=last & (not terminated),
    )


def two_episodes() -> list[EpisodeBuffer]:
    """A terminated episode of two steps and a truncated one of three, all values different."""
    return [
        episode([[0, 1], [2, 3], [4, 5]], [[-2], [1]], [1, 2], terminated=True),
        episode(
            [[10, 11], [12, 13], [14, 15], [16, 17]], [[0], [2], [-1]], [3, 4, 5], terminated=False
        ),
    ]


def write_minari(
    root: Path,
    dataset_id: str,
    episodes: list[EpisodeBuffer],
    *,
    observation_space: gymnasium.Space = OBSERVATIONS,
    action_space: gymnasium.Space = ACTIONS,
    env_spec: Any = None,
    **metadata: Any,
) -> Path:
    """Writes a Minari dataset; returns the folder with its `metadata.json`."""
    data = root / dataset_id / "data"
    data.parent.mkdir(parents=True)
    storage = MinariStorage.new(data, observation_space, action_space, env_spec)
    storage.update_metadata({"dataset_id": dataset_id, "minari_version": "0.5.4", **metadata})
    if episodes:
        storage.update_episodes(episodes)
    return data


def write_d4rl(path: Path, **arrays: Any) -> Path:
    """Writes arrays as an HDF5 file."""
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = np.asarray(value)
    return path


def write_robomimic(
    path: Path, demos: dict[str, dict[str, Any]], masks: dict[str, list[str]] | None = None
) -> Path:
    """Writes demonstrations {name: {key: array, "obs": {key: array}}} in Robomimic's layout."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(demo["actions"]) for demo in demos.values())
        data.attrs["env_args"] = '{"env_name": "Lift", "type": 1, "env_kwargs": {}}'
        for name, demo in demos.items():
            group = data.create_group(name)
            group.attrs["num_samples"] = len(demo["actions"])
            for key, value in demo.items():
                parts = value if isinstance(value, dict) else {"": value}
                for part, array in parts.items():
                    group[f"{key}/{part}".rstrip("/")] = np.asarray(array)
        for name, chosen in (masks or {}).items():
            file[f"mask/{name}"] = np.array(chosen, "S")
    return path


def write_npz(path: Path, **arrays: Any) -> Path:
    """Writes a numpy archive."""
    np.savez_compressed(path, **arrays)
    return path


def cut_short(path: Path) -> None:
    """Leaves the first two thirds of a file, as a broken transfer does."""
    content = path.read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])
