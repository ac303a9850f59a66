"""Archives and Robomimic's files: what is damaged, incomplete or dangerous is refused by name."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Processing
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError
from tests.data import files


class Trap:
    """An object that makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.path,))


OGBENCH: dict[str, Any] = {  # two episodes, of two steps and of one
    "observations": np.float32([[0], [1], [2], [10], [11]]),
    "actions": np.float32([[0.1], [0.2], [0.9], [0.3], [0.9]]),
    "terminals": np.float32([0, 0, 1, 0, 1]),
    "rewards": np.float32([-1, 0, -1, -1, -1]),
    "masks": np.float32([1, 0, 1, 1, 1]),
}
NEORL2: dict[str, Any] = {  # terminated after two steps, cut off after one
    "obs": np.float32([[0], [1], [10]]),
    "action": np.float32([[0.1], [0.2], [0.3]]),
    "reward": np.float32([1, 2, 3]),
    "next_obs": np.float32([[1], [2], [11]]),
    "done": np.array([False, True, True]),
    "truncated": np.array([False, False, True]),
}
DEMO: dict[str, Any] = {
    "actions": np.float32([[0.1], [0.2], [0.3]]),
    "rewards": np.float32([0, 1, 1]),
    "dones": np.array([0, 1, 1]),
    "obs": {key: np.zeros((3, 2)) for key in ("robot0_eef_pos", "robot0_eef_quat")}
    | {"robot0_gripper_qpos": np.zeros((3, 1)), "object": np.arange(3.0)[:, None]},
    "next_obs": {key: np.zeros((3, 2)) for key in ("robot0_eef_pos", "robot0_eef_quat")}
    | {"robot0_gripper_qpos": np.zeros((3, 1)), "object": 1 + np.arange(3.0)[:, None]},
}
FAILURE = DEMO | {"rewards": np.zeros(3), "dones": np.zeros(3, int)}


def test_ogbench_masks_end_the_task_and_terminals_the_episode(tmp_path: Path) -> None:
    recording = data.load(str(files.write_npz(tmp_path / "a.npz", **OGBENCH)))
    t = data.prepare(recording, Processing(gamma=0.9)).transitions
    assert t.next_observation[:, 0].tolist() == [1, 2, 11]
    assert t.action[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    np.testing.assert_array_equal(t.discount, np.float32([0.9, 0, 0.9]))
    assert t.has_next_action.tolist() == [1, 0, 0]
    assert recording.returns.tolist() == [-1, -1]


def test_neorl2_tells_done_from_truncated(tmp_path: Path) -> None:
    recording = data.load(str(files.write_npz(tmp_path / "a.npz", **NEORL2)))
    assert recording.terminal.tolist() == [False, True, False]
    assert recording.lengths.tolist() == [2, 1]
    assert recording.references is None


def test_robomimic_success(tmp_path: Path) -> None:
    demos = {"demo_0": DEMO, "demo_1": FAILURE}
    recording = data.load(str(files.write_robomimic(tmp_path / "a.hdf5", demos)))
    assert recording.returns.tolist() == [1, 0]  # success, though it is seen twice
    assert recording.score(recording.returns).mean() == 50
    assert recording.terminal.tolist() == [False, True, True, False, False, False]
    t = data.prepare(recording, data.defaults(recording.family)).transitions
    assert t.reward.tolist() == [-1, 0, 0, -1, -1, -1]
    assert t.observation[:3, -1].tolist() == [0, 1, 2]
    assert t.has_next_action.tolist() == [1, 1, 0, 1, 1, 0]


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.prepare(data.load(str(path)), Processing())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": None}, "missing terminals; OGBench's format has"),
        ({"terminals": np.zeros(5)}, "the last episode has no end"),
        ({"rewards": np.zeros(4)}, "different lengths: observations 5, actions 5"),
        ({"masks": np.full(5, 0.5)}, "masks hold other values than 0 and 1"),
        ({"actions": np.arange(5)}, "discrete actions and images are not supported"),
        ({"actions": np.full((5, 1), 1.5)}, "outside the action space"),
        ({"rewards": np.full(5, np.nan)}, "a nan in rewards at row 0"),
    ],
)
def test_bad_ogbench_files(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {k: v for k, v in (OGBENCH | changes).items() if v is not None}
    refused(files.write_npz(tmp_path / "a.npz", **arrays), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_obs": None, "truncated": None}, "done is the only flag, and does not say"),
        ({"next_obs": np.zeros((3, 2))}, "observations have shape|operands"),
        ({"done": np.array([0, 2, 0])}, "done hold other values than 0 and 1"),
        ({"index": np.array([0, 3])}, "index must hold numbers of rows below 3"),
        ({"action": np.full((3, 1), -1.5)}, "outside the action space"),
        ({"obs": np.full((3, 1), np.inf)}, "a inf in observations at row 0"),
        ({key: value[:0] for key, value in NEORL2.items()}, "no episodes"),
    ],
)
def test_bad_neorl2_files(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {k: v for k, v in (NEORL2 | changes).items() if v is not None}
    refused(files.write_npz(tmp_path / "a.npz", **arrays), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "demo_0: missing rewards; Robomimic's format has"),
        ({"dones": np.array([0, 0])}, "different lengths: actions 3, rewards 3, dones 2"),
        ({"obs": {"agentview_image": np.zeros((3, 4, 4, 3))}}, "missing the observations robot0_"),
        ({"actions": np.full((3, 1), 1.5)}, "outside the action space"),
        ({"rewards": np.full(3, np.nan)}, "a nan in rewards"),
        ({"dones": np.full(3, 2)}, "dones hold other values than 0 and 1"),
        ({key: {k: v[:2] for k, v in DEMO[key].items()} for key in ("obs",)}, "obs 2, next_obs 3"),
    ],
)
def test_bad_demonstrations(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    demo = {k: v for k, v in (DEMO | changes).items() if v is not None}
    refused(files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo}), message)


def test_an_empty_demonstration(tmp_path: Path) -> None:
    empty = {
        k: {n: x[:0] for n, x in v.items()} if isinstance(v, dict) else v[:0]
        for k, v in DEMO.items()
    }
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO, "demo_1": empty})
    recording = data.load(str(path))
    assert recording.lengths.tolist() == [3]
    assert recording.notes == ("1 of 2 episodes has no steps: left out",)
    refused(files.write_robomimic(tmp_path / "b.hdf5", {"demo_0": empty}), "no episodes")


def test_an_empty_episode_of_ogbench(tmp_path: Path) -> None:
    changed = OGBENCH | {"terminals": np.float32([1, 0, 1, 0, 1])}
    recording = data.load(str(files.write_npz(tmp_path / "a.npz", **changed)))
    assert recording.lengths.tolist() == [1, 1]
    assert recording.notes == ("1 of 3 episodes has no steps: left out",)


def test_no_demonstrations(tmp_path: Path) -> None:
    refused(files.write_robomimic(tmp_path / "a.hdf5", {}), "no episodes")


def test_a_demonstration_shorter_than_it_says(tmp_path: Path) -> None:
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO})
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["num_samples"] = 4
    refused(path, "has 3 steps, but says 4")


def test_masks(tmp_path: Path) -> None:
    masks = {"train": ["demo_1"], "lost": ["demo_7"]}
    demos = {"demo_0": DEMO, "demo_1": FAILURE}
    path = files.write_robomimic(tmp_path / "a.hdf5", demos, masks)
    assert data.load(f"{path}#train").returns.tolist() == [0]
    with pytest.raises(DataError, match="no mask 'valid'; it has lost, train"):
        data.load(f"{path}#valid")
    with pytest.raises(DataError, match="lists demo_7, which is not in the file"):
        data.load(f"{path}#lost")
    other = files.write_npz(tmp_path / "a.npz", **OGBENCH)
    with pytest.raises(DataError, match="only Robomimic's files have masks"):
        data.load(f"{other}#train")


@pytest.mark.parametrize("disguise", ["pickle", "object array", "one object array"])
def test_nothing_is_unpickled(disguise: str, tmp_path: Path) -> None:
    path, sign = tmp_path / "a.npz", tmp_path / "sprung"
    traps = np.array([Trap(sign)], object)
    if disguise == "pickle":
        path.write_bytes(pickle.dumps(Trap(sign)))
    elif disguise == "object array":
        np.savez(path, **(OGBENCH | {"rewards": traps}))
    else:
        with path.open("wb") as file:
            np.save(file, traps)
    refused(path, "archive; objects are never unpickled|not an archive")
    assert not sign.exists()
    pickle.loads(pickle.dumps(Trap(sign)))
    assert sign.exists()  # the trap works


def test_a_pickle_with_an_hdf5_ending(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(tmp_path / "a.hdf5", "not HDF5 or was cut short")
    assert not (tmp_path / "sprung").exists()


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = files.write_npz(tmp_path / "a.npz", **OGBENCH)
    files.cut_short(path)
    refused(path, "cut short or damaged|no numpy archive")
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    refused(tmp_path / "b.npz", "one array, not an archive")
    refused(tmp_path / "c.npz", "there is no file")


def test_a_cut_robomimic_file(tmp_path: Path) -> None:
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO})
    files.cut_short(path)
    refused(path, "not HDF5 or was cut short")


def archive(path: Path, **members: bytes) -> Path:
    """An archive with some members in raw bytes, the others from OGBENCH."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in OGBENCH.items():
            stream = io.BytesIO()
            np.save(stream, array)
            file.writestr(f"{name}.npy", members.get(name, stream.getvalue()))
    return path


def header(text: str) -> bytes:
    line = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line.encode()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"text", "rewards is no array: its header is damaged"),
        (header("{'descr': '<f4', 'fortran_order': ") + bytes(20), "its header is damaged"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (3L,)}"), "header is damaged"),
        (
            header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**12},)}}") + bytes(20),
            "rewards declares 4000000000000 bytes, but 20 are there",
        ),
    ],
)
def test_damaged_headers_are_named(tmp_path: Path, member: bytes, message: str) -> None:
    refused(archive(tmp_path / "a.npz", rewards=member), message)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000,)}")
    path = archive(tmp_path / "a.npz", rewards=start + bytes(800_000))
    refused(path, "different lengths")  # it is small, and read
    monkeypatch.setattr(container, "MODEST", 1000)
    monkeypatch.setattr(container, "free_memory", lambda: 700_000)
    refused(path, r"rewards takes 0\.0008 GB of memory, and 0\.0007 GB are free")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"x takes 1e\+06 GB of memory"):
        container.check_size("x", 10**15, 10**13)
    with pytest.raises(DataError, match="x declares 1 GB of numbers, of which the file holds 9"):
        container.check_size("x", 10**9, 9)


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("rewards.npy", b"")
    refused(path, "holds two arrays of the name 'rewards'")


def test_names_of_files(tmp_path: Path) -> None:
    """Endings in capitals; a # in a folder's name is no mask."""
    (tmp_path / "run #1").mkdir()
    upper = files.write_npz(tmp_path / "run #1" / "a.npz", **OGBENCH)
    upper = upper.rename(upper.with_suffix(".NPZ"))
    assert data.load(str(upper)).size == 3
    demos, masks = {"demo_0": DEMO, "demo_1": FAILURE}, {"train": ["demo_1"]}
    path = files.write_robomimic(tmp_path / "run #1" / "A.HDF5", demos, masks)
    assert data.load(str(path)).lengths.tolist() == [3, 3]
    assert data.load(f"{path}#train").returns.tolist() == [0]


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_vectors_of_one_number_may_be_stored_flat(tmp_path: Path, name: str) -> None:
    flat = OGBENCH | {name: OGBENCH[name][:, 0]}
    found = data.load(str(files.write_npz(tmp_path / "a.npz", **flat)))
    whole = data.load(str(files.write_npz(tmp_path / "b.npz", **OGBENCH)))
    for mine, theirs in ((found.action, whole.action), (found.observation, whole.observation)):
        np.testing.assert_array_equal(mine, theirs)


def test_ragged_demonstrations(tmp_path: Path) -> None:
    wide = DEMO | {"actions": np.zeros((3, 2))}
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO, "demo_1": wide})
    refused(path, "demo_1 has actions of 2 numbers, the first one of 1")


@pytest.mark.parametrize("said", ["text", np.arange(3), np.nan])
def test_a_number_of_steps_that_is_none(tmp_path: Path, said: Any) -> None:
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO})
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["num_samples"] = said
    refused(path, "has 3 steps, but says")


def test_a_changed_byte_in_an_archive(tmp_path: Path) -> None:
    """Stored without compression; the archive's checksum tells."""
    path = tmp_path / "a.npz"
    np.savez(path, **OGBENCH)
    raw, rewards = path.read_bytes(), OGBENCH["rewards"].tobytes()
    at = raw.index(rewards)
    for byte in range(at, at + len(rewards)):
        path.write_bytes(raw[:byte] + bytes([raw[byte] ^ 4]) + raw[byte + 1 :])
        refused(path, "Bad CRC-32 for file 'rewards.npy'")
