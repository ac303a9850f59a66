from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari as minari_library
import numpy as np
import pytest
from minari.dataset.minari_storage import MinariStorage

from jaxrl_prefs import data
from jaxrl_prefs.data import Processing
from jaxrl_prefs.data.readers import minari
from jaxrl_prefs.errors import DataError
from tests.data import files

GOALS = gymnasium.spaces.Dict(
    {
        "observation": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "achieved": gymnasium.spaces.Tuple(
            (
                gymnasium.spaces.Box(-9, 9, (1,), np.float64),
                gymnasium.spaces.Box(-9, 9, (), np.float32),
            )
        ),
    }
)


def goal_episode(start: float, steps: int) -> Any:
    count = start + np.arange(steps + 1.0)
    observations = {
        "observation": np.stack([count, count + 0.1, count + 0.2], axis=1),
        "achieved": (count[:, None] + 0.3, count + 0.4),
    }
    return files.episode(observations, np.zeros((steps, 1)), np.ones(steps), terminated=False)


def test_transitions_of_two_episodes(root: Path) -> None:
    files.write_minari(root, "mine/two-v0", files.two_episodes())
    recording = data.load("mine/two-v0")
    t = data.prepare(recording, Processing(gamma=0.9)).transitions
    assert t.observation.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13], [14, 15]]
    assert t.next_observation.tolist() == [[2, 3], [4, 5], [12, 13], [14, 15], [16, 17]]
    assert t.reward.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(t.discount, np.float32([0.9, 0, 0.9, 0.9, 0.9]))
    assert t.has_next_action.tolist() == [1, 0, 1, 1, 0]
    assert recording.action.tolist() == [[-2], [1], [0], [2], [-1]]
    assert recording.returns.tolist() == [3, 12]
    assert (recording.task, recording.references) == (None, None)


def test_ids_without_a_namespace(root: Path) -> None:
    files.write_minari(root, "two-v0", files.two_episodes())
    assert data.load("two-v0").size == 5


def test_dict_observations_are_flattened_by_key(root: Path) -> None:
    episodes = [goal_episode(0, 2), goal_episode(10, 1)]
    files.write_minari(root, "mine/goals-v0", episodes, observation_space=GOALS)
    recording = data.load("mine/goals-v0")
    order = np.array([0.3, 0.4, 0.0, 0.1, 0.2])  # achieved (0, 1), observation
    np.testing.assert_allclose(recording.observation, np.array([[0], [1], [10]]) + order, rtol=1e-6)
    np.testing.assert_allclose(
        recording.next_observation, np.array([[1], [2], [11]]) + order, rtol=1e-6
    )


def test_the_direct_reader_agrees_with_minari(root: Path) -> None:
    episodes = [goal_episode(0, 2), goal_episode(10, 1), goal_episode(20, 4)]
    folder = files.write_minari(root, "mine/goals-v0", episodes, observation_space=GOALS)
    storage = MinariStorage.read(folder)
    direct, through_minari = (
        read(storage, "mine/goals-v0") for read in (minari._hdf5_steps, minari._api_steps)
    )
    for ours, theirs in zip(direct, through_minari, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_references_and_evaluation_environment_come_from_the_metadata(root: Path) -> None:
    spec = gymnasium.spec("Pendulum-v1")
    evaluation = json.loads(spec.to_json()) | {"max_episode_steps": 77, "autoreset": False}
    files.write_minari(
        root,
        "mine/two-v0",
        files.two_episodes(),
        env_spec=spec,
        eval_env_spec=json.dumps(evaluation),
        ref_min_score=2.0,
        ref_max_score=12.0,
    )
    recording = data.load("mine/two-v0")
    assert recording.references == (2.0, 12.0)
    assert recording.reference_source == "the dataset's metadata"
    assert recording.score(recording.returns).tolist() == [10.0, 100.0]
    assert recording.task is not None
    assert recording.task.max_episode_steps == 77
    env = recording.task.make()
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(77)].index(True) == 76


def test_what_the_recorded_environment_was_told_and_the_evaluation_is_not(root: Path) -> None:
    spec = gymnasium.spec("Pendulum-v1")
    told = {"g": 9.81, "render_mode": None}
    own = gymnasium.envs.registration.EnvSpec.from_json(
        json.dumps(json.loads(spec.to_json()) | {"kwargs": told | {"g": 1.6}})
    )
    evaluation = json.dumps(json.loads(spec.to_json()) | {"kwargs": told})
    for name, more, expected in (
        ("mine/moon-v0", {"eval_env_spec": evaluation}, ("g=1.6",)),
        ("mine/same-v0", {}, ()),  # the recorded one serves
    ):
        files.write_minari(root, name, files.two_episodes(), env_spec=own, **more)
        task = data.load(name).task
        assert task is not None and task.recorded_with == expected


def test_env_replaces_the_recorded_environment(root: Path) -> None:
    files.write_minari(root, "mine/two-v0", files.two_episodes())
    recording = data.load("mine/two-v0", env="Pendulum-v1")
    assert recording.task is not None
    assert recording.task.env_id == "Pendulum-v1"


def rewards(value: float) -> list[Any]:
    return [files.episode([[0, 1], [2, 3]], [[0]], [value], terminated=False)]


def actions(value: float) -> list[Any]:
    return [files.episode([[0, 1], [2, 3]], [[value]], [0], terminated=False)]


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (rewards(np.nan), r"mine/bad-v0: a nan in rewards at row 0"),
        (rewards(np.inf), "a inf in rewards at row 0"),
        (actions(3.0), r"1 of 1 actions.* the action \[3\.\] at row 0 .* outside the action space"),
        ([], "mine/bad-v0: the dataset has no episodes"),
    ],
)
def test_bad_values_are_refused(root: Path, episodes: list[Any], message: str) -> None:
    files.write_minari(root, "mine/bad-v0", episodes)
    with pytest.raises(DataError, match=message):
        data.prepare(data.load("mine/bad-v0"), Processing())


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3),
        gymnasium.spaces.MultiDiscrete([3]),
        gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        gymnasium.spaces.Box(-1, 1, (1, 1), np.float32),
    ],
    ids=["discrete", "multi-discrete", "unbounded", "two axes"],
)
def test_other_action_spaces_are_refused(root: Path, space: gymnasium.Space) -> None:
    files.write_minari(root, "mine/bad-v0", files.two_episodes(), action_space=space)
    with pytest.raises(DataError, match=r"action space .* (continuous|finite)"):
        data.load("mine/bad-v0")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8), "images"),
        (gymnasium.spaces.Dict({"camera": gymnasium.spaces.Text(4)}), "observations/camera"),
    ],
)
def test_other_observation_spaces_are_refused(
    root: Path, space: gymnasium.Space, message: str
) -> None:
    files.write_minari(root, "mine/bad-v0", [], observation_space=space)
    with pytest.raises(DataError, match=message):
        data.load("mine/bad-v0")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminations"])
def test_a_missing_array_is_named(root: Path, key: str) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file[f"episode_1/{key}"]
    with pytest.raises(DataError, match=f"mine/bad-v0: episode_1/{key} is missing"):
        data.load("mine/bad-v0")


@pytest.mark.parametrize("key", ["observations", "actions", "terminations"])
def test_an_array_of_another_length_is_named(root: Path, key: str) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file[f"episode_1/{key}"].resize(2, axis=0)
    with pytest.raises(DataError, match=rf"different lengths: episode 1 has 2 .*{key}, expected"):
        data.load("mine/bad-v0")


def test_a_file_that_was_cut_short_is_refused(root: Path) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    files.cut_short(folder / "main_data.hdf5")
    with pytest.raises(DataError, match="cannot be read, it is not HDF5 or was cut short"):
        data.load("mine/bad-v0")


def test_damaged_metadata_is_refused(root: Path) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    files.cut_short(folder / "metadata.json")
    with pytest.raises(DataError, match=r"mine/bad-v0: .* is damaged"):
        data.load("mine/bad-v0")


def test_offline_and_absent_names_the_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(dataset_id: str) -> None:
        raise ConnectionError("no route to host\nand forty more lines")

    monkeypatch.setattr(minari_library, "download_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        data.load("mujoco/hopper/medium-v0")
    message = str(caught.value)
    assert "no route to host. " in message
    assert "forty" not in message
    assert str(root) in message
    assert message.endswith("minari download mujoco/hopper/medium-v0")


def test_an_absent_set_is_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(dataset_id: str) -> None:
        files.write_minari(Path(minari_library.storage.get_dataset_path()), dataset_id, episodes)

    episodes = files.two_episodes()
    monkeypatch.setattr(minari_library, "download_dataset", fetch)
    assert data.load("far/two-v0").size == 5
    assert (root / "far/two-v0/data/metadata.json").is_file()


@pytest.mark.parametrize("name", ["nonsense", "hopper", "mine/two", "a b-v0", ""])
def test_an_unknown_name_lists_the_known_ones(root: Path, name: str) -> None:
    files.write_minari(root, "mine/two-v0", files.two_episodes())
    with pytest.raises(DataError, match=r"unknown dataset .*pendulum-mixed.*mine/two-v0"):
        data.load(name)
