"""Tables in files: text, Parquet, numpy's files and HDF5, alone and in folders."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, read_hints, writers
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError
from tests.data.test_mutants import bytes_of, hdf5, npz
from tests.data.test_tables import (
    ACTIONS,
    BASE,
    BOUNDS,
    ENDS,
    REWARDS,
    STATES,
    assert_same,
    expected,
)
from tests.data.test_written import episodes

HINTS = read_hints(**BOUNDS)
COLUMNS = {key: np.array(value, np.float64) for key, value in {**BASE, **ENDS}.items()}


def write_csv(path: Path, separator: str = ",", number: Callable[[float], str] = str) -> None:
    rows = [
        [*state, *action, reward, a, b]
        for state, action, reward, a, b in zip(
            STATES, ACTIONS, REWARDS, *ENDS.values(), strict=True
        )
    ]
    lines = [["obs.x", "obs.y", "action", "reward", "terminals", "timeouts"]]
    lines += [[number(value) for value in row] for row in rows]
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n")


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({**{key: COLUMNS[key].tolist() for key in COLUMNS}})
    parquet.write_table(table, path, write_page_checksum=True)


def write_npz(path: Path) -> None:
    np.savez_compressed(path, **COLUMNS)  # type: ignore[arg-type]


def write_npy(path: Path) -> None:
    kinds = [("obs_0", "f4"), ("obs_1", "f4"), ("action", "f4"), ("reward", "f4")]
    table = np.zeros(5, [*kinds, ("terminals", "?"), ("timeouts", "?")])
    table["obs_0"], table["obs_1"] = np.array(STATES).T
    table["action"], table["reward"] = np.array(ACTIONS)[:, 0], REWARDS
    for name in ENDS:
        table[name] = ENDS[name]
    np.save(path, table)


def write_arrays(path: Path) -> None:
    path.mkdir()
    for name, array in COLUMNS.items():
        np.save(path / f"{name}.npy", array)


def write_nested(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["obs/x"], file["obs/y"] = np.array(STATES).T
        file["actions"], file["rewards"] = np.array(ACTIONS), REWARDS
        for name in ENDS:
            file[name] = ENDS[name]


def write_groups(path: Path) -> None:
    """A group for each episode, with an observation more than steps."""
    with h5py.File(path, "w") as file:
        for place, rows in enumerate((slice(0, 3), slice(3, 5))):
            group = file.create_group(f"traj_{place}")
            after = [[99.0, 99.0]] if place == 0 else []  # what follows a terminal
            last = rows if place == 0 else slice(3, 4)  # the last state is no step
            for key, name in (("obs/x", 0), ("obs/y", 1)):
                group[key] = np.array([*STATES[rows], *after])[:, name]
            group["actions"], group["rewards"] = ACTIONS[last], REWARDS[last]
            group["terminated"] = np.array(ENDS["terminals"][last], bool)
            group["success"] = np.zeros(last.stop - last.start, bool)


WRITERS: dict[str, Callable[[Path], None]] = {
    "table.csv": write_csv,
    "semicolons.csv": lambda path: write_csv(path, ";", lambda x: str(float(x)).replace(".", ",")),
    "tabs.tsv": lambda path: write_csv(path, "\t"),
    "table.parquet": write_parquet,
    "table.npz": write_npz,
    "table.npy": write_npy,
    "arrays": write_arrays,
    "nested.hdf5": write_nested,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_in_a_file(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    found = data.load(tmp_path / name, hints=HINTS)
    assert_same(found, expected())
    assert found.name == str(tmp_path / name) and found.task is None


def test_a_group_for_each_episode(tmp_path: Path) -> None:
    write_groups(tmp_path / "a.h5")
    found = data.load(tmp_path / "a.h5", hints=HINTS)
    whole = expected()
    np.testing.assert_array_equal(found.observation, whole.observation)
    np.testing.assert_array_equal(found.terminal, whole.terminal)
    np.testing.assert_array_equal(
        found.next_observation[[0, 1, 3]], [*whole.observation[[1, 2]].tolist(), [11, 9]]
    )
    assert found.observation_names == ("obs/x", "obs/y")
    assert found.notes == ("columns that are not used: success",)


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "table.npz", "nested.hdf5"])
def test_a_folder_of_files(name: str, tmp_path: Path) -> None:
    for place in ("a/1", "a/2", "b"):
        (tmp_path / "logs" / place).mkdir(parents=True)
        WRITERS[name](tmp_path / "logs" / place / name)
    (tmp_path / "logs" / "README.md").write_text("what was recorded")
    found = data.load(tmp_path / "logs", hints=HINTS)
    assert found.lengths.tolist() == [3, 2] * 3
    np.testing.assert_array_equal(found.reward, expected().reward.tolist() * 3)


def test_a_folder_of_one_file_keeps_what_was_noted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("obs,action,extra\n0,0.1,5\n1,0.2,6\n2,0.3,7\n")
    found = data.load(tmp_path)
    assert found.name == str(tmp_path)
    assert "columns that are not used: extra" in found.notes


def test_a_folder_of_a_known_format(tmp_path: Path) -> None:
    """OGBench's large sets are a hundred files, with others for validation beside them."""
    for name in ("set-000.npz", "set-001.npz", "set-000-val.npz"):
        writers.ogbench(episodes(), tmp_path / name)
    found = data.load(tmp_path)
    assert found.family == "ogbench" and found.lengths.tolist() == [2, 3] * 2
    assert found.notes == ("1 files for validation (*-val.npz) are left out",)
    np.testing.assert_array_equal(found.continues, episodes().continues.tolist() * 2)


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no dataset: it has no metadata\.json"):
        data.load(tmp_path)
    (tmp_path / "set.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds TFRecords \(RLDS, TFDS\), which are not read"):
        data.load(tmp_path)
    write_csv(tmp_path / "a.csv")
    write_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"several kinds \(1 .csv, 1 .npz\)"):
        data.load(tmp_path)
    (tmp_path / "a.npz").unlink()
    (tmp_path / "b.csv").write_text("obs,action\n1,2\n")
    with pytest.raises(DataError, match=r"has no column"):
        data.load(tmp_path)
    (tmp_path / "b.csv").unlink()
    (tmp_path / "b.csv").symlink_to(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"there is no file .*b\.csv"):
        data.load(tmp_path)


def test_text_with_words_lists_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "run,obs,action,reward,terminal,note\n"
        'one,"[0.0, 1.0]",0.5,1,False,fine\n'
        'one,"[2, 3]",,2,True,"odd, but fine"\n'
        'two,"[4 5]",ERR,3,False,x\n'
        'two,"[6, 7]",-1,4,TRUE,y\n'
    )
    hints = HINTS._replace(episode_key="run")
    with pytest.raises(DataError, match=r"2 bad rows in 2 of 2 episodes; .* rows 1 to 2"):
        data.load(path, hints=hints)
    found = data.load(path, hints=hints._replace(bad_rows="drop", observation_keys=("obs",)))
    np.testing.assert_array_equal(found.observation, [[0, 1], [6, 7]])
    np.testing.assert_array_equal(found.next_observation[0], [2, 3])
    assert not found.continues.any()
    path.write_text("obs,action\n0,0.1\n1,0.2\n2,0.3\n")  # too short for anything but cloning
    assert data.load(path, hints=HINTS).size == 2


def test_text_that_must_not_be_guessed(tmp_path: Path) -> None:
    for one, other in (("1700000000000000001", "1700000000000000002"), ("1e2", "100")):
        for last in ("2", '"2"'):  # read at once, and cell by cell
            rows = "".join(f"{name},{name},1,{last}\n{name},{name},1,2\n" for name in (one, other))
            (tmp_path / "a.csv").write_text("run,episode,obs,action\n" + rows)
            for hints in (HINTS, HINTS._replace(episode_key="RUN")):
                assert data.load(tmp_path / "a.csv", hints=hints).lengths.tolist() == [2, 2]
    table = "obs,action,reward,terminated\n1,0.1,1,0\n2,0.2,1,1\n"
    (tmp_path / "a.csv").write_text(table)
    plain = data.load(tmp_path / "a.csv", hints=HINTS)
    lines = table.splitlines()
    index = [f"{front},{line}" for front, line in zip(["", "0", "1"], lines, strict=True)]
    for text in ("\n".join(index), table.replace("\n", ",,\n")):
        (tmp_path / "a.csv").write_text(text)
        found = data.load(tmp_path / "a.csv", hints=HINTS)
        assert_same(found, plain)
        assert "columns without a name are not used" in found.notes
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "b.csv").write_text(lines[0] + "\n")
    assert_same(data.load(tmp_path, hints=HINTS), plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must name every column"),
        ("a,b\n", "there are no rows"),
        ("obs,action\n1,2\n3\n4,5,6\n", "2 of 3 rows have another number of cells .* in line 3"),
        ("obs,obs\n1,2\n", "two columns are called 'obs'"),
        ("1,2\n3,4\n", "the first line holds numbers"),
        ("obs,,a\n1,2,3\n", "must name every column"),
        ("obs,action\n1,\0\n", "is no text: it holds zero bytes"),
        ('obs,action\n"[1, 2]",1\n"[1]",2\n', "lists of different lengths"),
        ('obs,action\n"1,234",1\n999,2\n', "obs is '1,234' at row 0, whose comma may mean dec"),
        ('obs,action\n"1,234,567.8",1\n', "write numbers without commas"),
        ("obs,action\nx,1\ny,2\n", "obs holds no numbers but text"),
    ],
)
def test_bad_text(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        data.load(tmp_path / "a.csv", hints=HINTS)


def test_robomimic_with_chosen_keys(tmp_path: Path) -> None:
    from tests.data import files

    demo = {
        "actions": np.zeros((3, 7)),
        "rewards": [0.0, 0.0, 1.0],
        "dones": [0, 0, 1],
        "obs": {"joints": np.arange(6.0).reshape(3, 2), "sonar": np.arange(3.0)[:, None]},
    }
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo})
    with pytest.raises(DataError, match=r"missing the observations .*--observation_keys names"):
        data.load(path)
    found = data.load(path, hints=read_hints(observation_keys="sonar,joints"))
    np.testing.assert_array_equal(found.observation, [[0, 0, 1], [1, 2, 3], [2, 4, 5]])
    with pytest.raises(DataError, match="no observations 'radar'; it has joints, sonar"):
        data.load(path, hints=read_hints(observation_keys="radar"))
    with pytest.raises(DataError, match="--reward_key is for tables"):
        data.load(path, hints=read_hints(reward_key="r"))


def test_bounds_and_bad_rows_are_for_every_format(tmp_path: Path) -> None:
    writers.d4rl(episodes(), tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["rewards"][3] = np.nan
    hints = read_hints(bad_rows="drop", action_low=-2, action_high="2")
    found = data.load(tmp_path / "a.hdf5", hints=hints)
    assert found.size == 4 and found.action_high == [2]
    assert "left out" in found.notes[0]


def test_arrays_without_names_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match="without names of columns"):
        data.load(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{}], object))
    with pytest.raises(DataError, match="never unpickled"):
        data.load(tmp_path / "b.npy")


# --- Damaged files --------------------------------------------------------------------------------

MUTANTS = 30  # of each kind


def mutate(path: Path, r: random.Random) -> None:
    if path.is_dir():
        path = r.choice(sorted(path.iterdir()))
    work = [bytes_of]
    if path.suffix == ".hdf5":
        work += [hdf5, hdf5]
    if path.suffix == ".npz":
        work += [npz, npz]
    r.choice(work)(path, r)


@pytest.mark.parametrize(
    "name", ["table.csv", "table.parquet", "table.npz", "table.npy", "arrays", "nested.hdf5"]
)
def test_a_mutant_is_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    place, refused = tmp_path / "work" / name, 0
    for number in range(MUTANTS):
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir()
        (shutil.copytree if (tmp_path / name).is_dir() else shutil.copy)(tmp_path / name, place)
        mutate(place, random.Random(f"{name}/{number}"))
        try:
            found: Dataset = data.load(place, hints=HINTS)
            data.prepare(found, data.Processing(clip_actions=True))
        except (DataError, OSError) as fault:
            assert "\n" not in str(fault), f"mutant {number}"
            refused += 1
        except Exception as fault:
            raise AssertionError(f"mutant {number} of {name}: a traceback") from fault
    assert refused > MUTANTS // 3


def test_parquet_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that declares more than it can hold is refused before anything is allocated."""
    pyarrow, path = pytest.importorskip("pyarrow"), tmp_path / "a.parquet"
    from pyarrow import parquet

    zeros = np.zeros(2**14)
    parquet.write_table(pyarrow.table({"obs": zeros, "action": zeros}), path)
    monkeypatch.setattr(container, "MODEST", 1000)
    monkeypatch.setattr(container, "DENSEST", 10)
    with pytest.raises(DataError, match=r"declares .* GB of numbers, of which the file holds"):
        data.load(path)
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(DataError, match="cannot be read, it was cut short or damaged"):
        data.load(path)


def odd_columns() -> dict[str, Any]:
    pyarrow = pytest.importorskip("pyarrow")
    return {
        "ragged": pyarrow.array([[1.0], [1.0, 2.0], [1.0], [1.0], [1.0]]),
        "maps": pyarrow.array([[("a", 1)]] * 5, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "names": pyarrow.array(["a"] * 5),
        "images": pyarrow.array([{"bytes": b"x", "path": "p"}] * 5),
        "empty": pyarrow.nulls(5),
    }


@pytest.mark.parametrize("kind", ["ragged", "maps", "names", "images", "empty"])
def test_parquet_of_odd_types(kind: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"obs": odd_columns()[kind], "action": [0.0, 0.1, 0.2, 0.3, 0.4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    message = {
        "ragged": "obs holds lists of different lengths: 2 at row 1, 1 before",
        "maps": "obs holds neither numbers nor text",
        "names": "obs holds no numbers but text",
        "images": "obs: the image at row 0 cannot be decoded as PNG or JPEG",
        "empty": "5 bad rows",
    }
    with pytest.raises(DataError, match=message[kind]):
        data.load(tmp_path / "a.parquet", hints=HINTS)
