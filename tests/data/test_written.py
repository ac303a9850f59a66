"""What is written in a format and loaded again is what it was."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, roots, writers
from jaxrl_prefs.data.recording import References, Steps, record
from jaxrl_prefs.environments import task
from jaxrl_prefs.errors import DataError

ARRAYS = ("observation", "action", "reward", "terminal", "next_observation", "continues")
FILES: dict[str, tuple[Callable[[Dataset, Path], None], str]] = {
    "d4rl": (writers.d4rl, "a.hdf5"),
    "robomimic": (writers.robomimic, "a.hdf5"),
    "ogbench": (writers.ogbench, "a.npz"),
    "neorl2": (writers.neorl2, "a.npz"),
}


def episodes(bound: float = 1.0) -> Dataset:
    """An episode that terminated after two steps, one cut off after three."""
    observation = np.float32([[0, 1], [2, 3], [10, 11], [12, 13], [14, 15]])
    following = np.float32([[2, 3], [4, 5], [12, 13], [14, 15], [16, 17]])
    steps = Steps(
        observation=observation,
        action=np.float32([[-1], [0.5], [0], [1], [-0.5]]),
        reward=np.float32([1, 2, 3, 4, 5]),
        terminal=np.array([False, True, False, False, False]),
        next_observation=following,
        lengths=np.array([2, 3]),
        successor=np.ones(5, bool),
    )
    box = np.float32([-bound]), np.float32([bound])
    where = task.named("MountainCarContinuous-v0")._replace(max_episode_steps=7)
    return record("set", steps, box, where, References((-1.0, 9.0), "a test"))


def assert_same(found: Dataset, expected: Dataset) -> None:
    for name in (*ARRAYS, "returns", "lengths", "action_low", "action_high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


@pytest.mark.parametrize("form", FILES)
def test_files(form: str, tmp_path: Path) -> None:
    write, name = FILES[form]
    write(episodes(), tmp_path / name)
    assert_same(data.load(str(tmp_path / name)), episodes())


@pytest.mark.parametrize("form", FILES)
def test_other_boxes_are_refused(form: str, tmp_path: Path) -> None:
    write, name = FILES[form]
    with pytest.raises(DataError, match=r"actions lie in \[-2, 2\], but this format takes"):
        write(episodes(bound=2), tmp_path / name)


@pytest.mark.parametrize("form", FILES)
def test_files_are_not_overwritten(form: str, tmp_path: Path) -> None:
    write, name = FILES[form]
    (tmp_path / name).write_text("mine")
    with pytest.raises(OSError, match="exist"):
        write(episodes(), tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.usefixtures("root")
def test_minari() -> None:
    writers.minari(episodes(bound=2), "mine/set-v0")
    found = data.load("mine/set-v0")
    assert_same(found, episodes(bound=2))
    assert found.references == (-1.0, 9.0)
    assert found.task is not None
    assert found.task.env_id == "MountainCarContinuous-v0"
    assert found.task.max_episode_steps == 7
    with pytest.raises(DataError, match="already on this machine"):
        writers.minari(episodes(), "mine/set-v0")


@pytest.mark.usefixtures("root")
def test_terminals_inside_an_episode(tmp_path: Path) -> None:
    passed = episodes()._replace(terminal=np.array([False, True, False, True, False]))
    writers.ogbench(passed, tmp_path / "a.npz")
    assert_same(data.load(str(tmp_path / "a.npz")), passed)
    writers.minari(passed, "mine/passed-v0")
    assert_same(data.load("mine/passed-v0"), passed)
    with pytest.raises(DataError, match="1 terminals lie inside episodes"):
        writers.neorl2(passed, tmp_path / "b.npz")


def test_a_successor_that_is_not_the_next_observation(root: Path) -> None:
    jumped = episodes()
    jumped.next_observation[2] += 1
    with pytest.raises(DataError, match="successors differ from the next step's observation"):
        writers.minari(jumped, "mine/jumped-v0")
    assert not (root / "mine").exists()


def flipped(path: Path) -> Iterator[Path]:
    """The file with one bit of a number changed, for every reward in turn."""
    raw, wanted = path.read_bytes(), np.float32(episodes().reward).tobytes()
    wide = np.float64(episodes().reward).tobytes()
    found = [raw.find(each) for each in (wanted, wide) if each in raw]
    assert found, "the rewards are not stored as they are"
    for byte in range(found[0], found[0] + len(wanted), 3):
        path.write_bytes(raw[:byte] + bytes([raw[byte] ^ 1]) + raw[byte + 1 :])
        yield path
    path.write_bytes(raw)


@pytest.mark.usefixtures("root")
def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    """Of the formats that store numbers uncompressed; the others have their archive's checksum."""
    whole = episodes()._replace(continues=np.array([True, True, True, True, False]))
    whole = whole._replace(terminal=np.zeros(5, bool))
    whole.next_observation[1] = whole.observation[2]
    writers.minari(whole, "mine/set-v0")
    writers.robomimic(whole, tmp_path / "a.hdf5")
    folder = roots.find("mine/set-v0")
    assert folder is not None
    for path, name in ((folder / "main_data.hdf5", "mine/set-v0"), (tmp_path / "a.hdf5", "")):
        assert data.load(name or str(path)).size == 5
        for damaged in flipped(path):
            with pytest.raises(DataError, match=r"main_data|a\.hdf5"):
                data.load(name or str(damaged))


@pytest.mark.parametrize("form", FILES)
def test_a_lost_column_is_found(form: str, tmp_path: Path) -> None:
    write, name = FILES[form]
    write(episodes(), tmp_path / name)
    if name.endswith(".npz"):
        with np.load(tmp_path / name) as archive:
            arrays = dict(archive)
        for key in ("observations", "next_observations", "obs", "next_obs"):
            if key in arrays:
                arrays[key] = arrays[key][:, :1]
        np.savez(tmp_path / name, **arrays)
    else:
        with h5py.File(tmp_path / name, "r+") as file:
            flat = form == "robomimic"
            places = [f"data/demo_{i}/{k}/flat" for i in (0, 1) for k in ("obs", "next_obs")]
            for key in places if flat else ["observations", "next_observations"]:
                array = file[key][()]
                del file[key]
                file[key] = array[:, :1]
    with pytest.raises(DataError, match=r"have \[1, 1\] numbers, but the file says \[2"):
        data.load(str(tmp_path / name))


@pytest.mark.parametrize("form", FILES)
def test_a_full_disk_leaves_nothing_behind(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write, name = FILES[form]
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(np, "savez_compressed", lambda file, **_: full(file.write(b"half")))
    with pytest.raises(OSError, match="No space left"):
        write(episodes(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match=r"mine/set-v0 takes .* MB, and .* has 0 MB left"):
        writers.minari(episodes(), "mine/set-v0")
    assert list(root.iterdir()) == []
