from __future__ import annotations

import fcntl
import io
import json
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari as minari_library
import numpy as np
import pytest
from minari.dataset.minari_storage import MinariStorage

from jaxrl_prefs import data
from jaxrl_prefs.data import Processing, suggestions
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
        (gymnasium.spaces.Box(0, 1, (8, 8, 3), np.float32), "images of float32"),
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


def test_a_local_name_and_those_of_ogbench_are_ordered_by_closeness() -> None:
    mine = "cube-single-plays-v0"
    for name, guesses in (
        ("cube-single-plays-v1", f"'{mine}'"),
        ("cube-single-playy-v0", "'cube-single-play-v0'"),
        ("cube-sinlge-play-v0", "'cube-single-play-v0'"),
        ("puzzle-3x4-play-v0", "'puzzle-3x3-play-v0' or 'puzzle-4x4-play-v0'"),
    ):
        assert f"Did you mean {guesses}? " in suggestions.unknown(name, [mine, "hopper/medium-v0"])


def test_an_absent_set_is_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(dataset_id: str) -> None:
        files.write_minari(Path(minari_library.storage.get_dataset_path()), dataset_id, episodes)

    episodes = files.two_episodes()
    monkeypatch.setattr(minari_library, "download_dataset", fetch)
    assert data.load("far/two-v0").size == 5
    assert (root / "far/two-v0/data/metadata.json").is_file()


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("nonsense", ""),
        ("mine/two", "mine/two-v0"),
        ("mine-two-v2", "mine/two-v0"),
        ("pendulum_mixed", "pendulum-mixed"),
        ("hopper-medium-v2", "mujoco/hopper/medium-v0"),
        ("maze2d-umaze-v1", "maze2d/umaze-v0"),
        ("cube-sinlge-play-v0", "cube-single-play-v0"),
        ("scene-play-singletask-task6-v0", "scene-play-singletask-task1-v0"),
        ("a b-v0", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_answered_by_what_comes_close(root: Path, name: str, guess: str) -> None:
    files.write_minari(root, "mine/two-v0", files.two_episodes())
    with pytest.raises(DataError, match="unknown dataset") as caught:
        data.load(name)
    text = str(caught.value)
    assert f"Did you mean '{guess}'" in text if guess else "Did you mean" not in text
    for kind in ("a LeRobot dataset", "a name of OGBench's", "docs/formats.md"):
        assert kind in text


def test_a_path_beside_another_is_answered_by_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "arm-logs").mkdir()
    with pytest.raises(DataError, match=r"There is .*arm-logs\. A dataset is"):
        data.load(tmp_path / "arm_logs")
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.pkl is a file which is never unpickled. Read are"):
        data.load(tmp_path / "a.pkl")


def changed(folder: Path, **metadata: Any) -> None:
    """Replaces entries of `metadata.json`; None removes one."""
    about = json.loads((folder / "metadata.json").read_text()) | metadata
    about = {key: value for key, value in about.items() if value is not None}
    (folder / "metadata.json").write_text(json.dumps(about))


def replaced(folder: Path, key: str, change: Any) -> None:
    """Stores `change(array)` in place of an array of the second episode."""
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        array = file[f"episode_1/{key}"][()]
        del file[f"episode_1/{key}"]
        file[f"episode_1/{key}"] = change(array)


def test_a_flag_that_is_nan_is_no_terminal(root: Path) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    replaced(folder, "terminations", lambda a: np.where(np.arange(3) == 2, np.nan, a))
    with pytest.raises(DataError, match=r"bad-v0: a terminal flag is nan .*\(episode 1, step 2\)"):
        data.load("mine/bad-v0")


def test_one_number_a_step_may_be_stored_flat_or_as_a_column(root: Path) -> None:
    folder = files.write_minari(root, "mine/two-v0", files.two_episodes())
    before = data.load("mine/two-v0")
    replaced(folder, "actions", lambda a: a[:, 0])
    for key in ("rewards", "terminations"):
        replaced(folder, key, lambda a: a[:, None])
    after = data.load("mine/two-v0")
    for name in ("action", "reward", "terminal", "continues"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("observations", [0, 1])
def test_an_episode_without_steps_is_left_out(root: Path, observations: int) -> None:
    parts = files.two_episodes()
    empty = files.episode(np.zeros((1, 2)), np.zeros((0, 1)), [], terminated=False)
    folder = files.write_minari(root, "mine/two-v0", parts)
    before = data.load("mine/two-v0")
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file.move("episode_1", "episode_2")
        for key in ("actions", "rewards", "terminations", "truncations"):
            file[f"episode_1/{key}"] = getattr(empty, key)
        file["episode_1/observations"] = empty.observations[:observations]
    changed(folder, total_episodes=3)
    after = data.load("mine/two-v0")
    for name in ("observation", "action", "next_observation", "continues", "lengths", "returns"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.notes == ("1 of 3 episodes has no steps: left out",)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("observations", lambda a: a[:, :1], r"episode 1 have shape \(4, 1\), but their space"),
        ("actions", lambda a: np.ones((3, 2)), r"actions of episode 1 have shape \(3, 2\)"),
        ("rewards", lambda a: np.float64(1), r"rewards of episode 1 have shape \(\)"),
        ("actions", lambda a: np.float64(1), "actions of episode 1 are a single value"),
        ("rewards", lambda a: h5py.Empty("f4"), "has no shape"),
        ("rewards", lambda a: np.ones(3, complex), "are not numbers but complex128"),
        ("rewards", lambda a: np.array(["a"] * 3, "S"), "are not numbers"),
    ],
)
def test_arrays_of_other_shapes_and_types_are_named(
    root: Path, key: str, change: Any, message: str
) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    replaced(folder, key, change)
    with pytest.raises(DataError, match=message):
        data.load("mine/bad-v0")


def test_a_declared_size_is_checked_before_it_is_allocated(root: Path) -> None:
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file["episode_1/rewards"]
        file.create_dataset("episode_1/rewards", (10**12,), "f4", chunks=(1024,))
    with pytest.raises(DataError, match=r"rewards declares 4e\+03 GB .* holds 0 bytes"):
        data.load("mine/bad-v0")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"total_episodes": 3}, "tells of 3 episodes, main_data.hdf5 holds 2"),
        ({"total_episodes": 1}, "tells of 1 episodes, main_data.hdf5 holds 2"),
        ({"total_episodes": True}, "total_episodes=True in metadata.json is no number"),
        ({"total_episodes": 2.0}, "total_episodes=2.0 in metadata.json is no number"),
        ({"ref_min_score": [], "ref_max_score": 1}, r"ref_min_score='\[\]' .* is no number"),
        ({"action_space": "{"}, "action_space in metadata.json is damaged"),
        ({"action_space": 3}, "action_space in metadata.json is damaged"),
        ({"data_format": "zarr"}, "data_format='zarr' is none of hdf5, arrow, parquet"),
    ],
)
def test_damaged_entries_of_the_metadata_are_named(
    root: Path, metadata: dict[str, Any], message: str
) -> None:
    changed(files.write_minari(root, "mine/bad-v0", files.two_episodes()), **metadata)
    with pytest.raises(DataError, match=f"mine/bad-v0.*{message}"):
        data.load("mine/bad-v0")


def test_a_space_of_any_size_is_not_allocated(root: Path) -> None:
    space = {"type": "Box", "dtype": "float32", "shape": [10**10], "low": 0.0, "high": 1.0}
    folder = files.write_minari(root, "mine/bad-v0", files.two_episodes())
    changed(folder, observation_space=json.dumps(space))
    with pytest.raises(DataError, match=r"damaged: shape=\[10000000000\] is none of a space"):
        data.load("mine/bad-v0")


def test_equal_references_are_none(root: Path) -> None:
    folder = files.write_minari(root, "mine/two-v0", files.two_episodes())
    changed(folder, ref_min_score=5.0, ref_max_score=5.0)
    recording = data.load("mine/two-v0")
    assert recording.score_kind == "raw return"
    assert "both references are 5" in recording.reference_source


def test_metadata_are_utf_8_in_every_locale(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files.write_minari(root, "mine/two-v0", files.two_episodes())
    path = folder / "metadata.json"
    about = json.loads(path.read_text()) | {"description": "Größe, 大きさ"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(about, ensure_ascii=False).encode())
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "ascii")
    assert data.load("mine/two-v0").size == 5
    assert minari.metadata(folder)["description"] == "Größe, 大きさ"


def test_arrow_needs_its_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(files.write_minari(root, "mine/two-v0", files.two_episodes()), data_format="arrow")
    for name in [name for name in sys.modules if "arrow_storage" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"format arrow, which needs .*pip install pyarrow"):
        data.load("mine/two-v0")


def test_a_locked_file_is_said_to_be_locked(root: Path) -> None:
    path = files.write_minari(root, "mine/two-v0", files.two_episodes()) / "main_data.hdf5"
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as HDF5 does in a process that writes
        with pytest.raises(DataError, match=r"is locked.*HDF5_USE_FILE_LOCKING=FALSE") as caught:
            data.load("mine/two-v0")
    assert "elete" not in str(caught.value)
    assert data.load("mine/two-v0").size == 5


def test_a_set_of_an_older_minari_is_named(root: Path) -> None:
    folder = files.write_minari(root, "mine/two-v0", files.two_episodes())
    before = data.load("mine/two-v0")
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file.attrs.update(json.loads((folder / "metadata.json").read_text()))
    (folder / "metadata.json").unlink()
    with pytest.raises(DataError, match=r"of an older Minari.*convert mine/two-v0 converted/mine"):
        data.load("mine/two-v0")
    found = minari.read(folder, "mine/two-v0")
    np.testing.assert_array_equal(found.observation, before.observation)


@pytest.mark.parametrize("damage", ["lost", "folder", "loop"])
def test_a_damaged_set_is_not_fetched(
    root: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write_minari(root, "mine/two-v0", files.two_episodes()) / "metadata.json"
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(path.name)
    monkeypatch.setattr(minari_library, "download_dataset", lambda name: pytest.fail("fetched"))
    with pytest.raises(DataError, match=r"holds no whole dataset.*metadata.json is no file"):
        data.load("mine/two-v0")


def test_a_silent_server_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(minari, "STALLED", 0.2)
    monkeypatch.setattr(minari_library, "download_dataset", lambda name: over.wait(30))
    with pytest.raises(DataError, match="could not be fetched: the server sent nothing"):
        data.load("far/two-v0")
    over.set()
    assert list(root.iterdir()) == []


def test_another_number_of_steps_is_noted(root: Path) -> None:
    folder = files.write_minari(root, "mine/two-v0", files.two_episodes())
    assert data.load("mine/two-v0").notes == ()
    changed(folder, total_steps=7)
    found = data.load("mine/two-v0").notes
    assert found == ("metadata.json tells of 7 steps, the episodes have 5",)
