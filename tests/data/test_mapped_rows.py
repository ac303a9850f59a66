"""A folder whose rows stay in mapped files gives to the bit what it gives in memory."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_prefs import data, mapped_rows
from jaxrl_prefs.data import Dataset, PreparedDataset, Processing, read_hints
from jaxrl_prefs.data.readers import container, folders
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import MappedRows, is_mapped
from jaxrl_prefs.rows import gathered, on_host
from jaxrl_prefs.runs import fingerprints

SIZES = {"a": 40, "b": 33}  # rows of the parts
HINTS = {"action_low": (-1.0,), "action_high": (1.0,)}
RAW = Processing()
NORMALISED = Processing(normalize_observations=True, reward_scale=0.1, reward_shift=0.5)


def columns(size: int, seed: int) -> dict[str, np.ndarray]:
    """Episodes of twelve steps; every other one ends by a terminal, some of whose actions are 0."""
    rng = np.random.default_rng(seed)
    last = np.arange(size) % 12 == 11
    ended = np.arange(size) // 12 % 2 == 0
    return {
        "observations": rng.normal(3, 2, (size, 3)),
        "actions": rng.uniform(-1, 1, (size, 2)).round(1).astype(np.float32),
        "rewards": rng.normal(size=size),
        "terminals": last & ended,
        "timeouts": last & ~ended,
    }


def write(folder: Path, **replaced: np.ndarray) -> Path:
    """Two parts; `replaced` are columns of the second."""
    for seed, (part, size) in enumerate(SIZES.items()):
        (folder / part).mkdir(parents=True)
        changed = replaced if part == "b" else {}
        for name, array in (columns(size, seed) | changed).items():
            np.save(folder / part / f"{name}.npy", array)
    return folder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_rows, "BLOCK", 7)


@pytest.fixture
def mapped(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is free for rows, as the reader of folders believes."""
    monkeypatch.setattr(folders, "COPIES", float("inf"))


def both(folder: Path, monkeypatch: pytest.MonkeyPatch, **hints: Any) -> tuple[Dataset, Dataset]:
    """A folder read into memory, and mapped."""
    known = read_hints(**HINTS | hints)
    monkeypatch.setattr(mapped_rows, "BLOCK", 7)
    whole = data.load(folder, hints=known)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "COPIES", float("inf"))
        lazy = data.load(folder, hints=known)
    assert isinstance(whole.observation, np.ndarray)
    for each in (lazy.observation, lazy.next_observation, lazy.action):
        assert is_mapped(each)
        assert all(isinstance(part, np.memmap) for part in each.parts)
    return whole, lazy


def assert_same_rows(lazy: Any, whole: Any) -> None:
    """All rows, and some in another order, some of them beyond the last."""
    rows = np.random.default_rng(0).integers(0, len(whole.reward) + 3, (4, 5))
    for asked in (rows, np.arange(len(whole.reward))):
        found, expected = (gathered(each, asked, on_host) for each in (lazy, whole))
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert mine.tobytes() == theirs.tobytes()  # zeros have signs


def assert_same(lazy: PreparedDataset, whole: PreparedDataset) -> None:
    assert_same_rows(lazy.transitions, whole.transitions)
    for mine, theirs in zip(lazy.spec, whole.spec, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert fingerprints.of(lazy) == fingerprints.of(whole)


@pytest.mark.parametrize("processing", [RAW, NORMALISED])
def test_prepared_data(
    processing: Processing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At ends by a terminal, by a time limit, of a part and of the data, too."""
    whole, lazy = both(write(tmp_path / "parts"), monkeypatch)
    assert not whole.continues.all() and whole.terminal.any() and len(whole.lengths) == 7
    assert (whole.lengths == lazy.lengths).all() and (whole.returns == lazy.returns).all()
    assert lazy.notes[1:] == whole.notes and "stay on the disk" in lazy.notes[0]
    prepared = [data.prepare(each, processing) for each in (lazy, whole)]
    assert_same(*prepared)
    assert_same(*(data.split(each, 0.3) for each in prepared))
    held_out = [data.split(each, 0.3).held_out for each in prepared]
    assert_same_rows(*held_out)
    assert_same(*(data.multi_step(data.split(each, 0.3), 3) for each in prepared))
    chunked = [
        data.multi_step(data.split(each, 0.3), 2, data.ActionChunk(3, 1)) for each in prepared
    ]
    assert_same(*chunked)
    assert_same_rows(*(each.held_out for each in chunked))


def test_what_is_recorded_of_next_observations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    found = columns(50, 0)
    for name, array in found.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "next_observations.npy", found["observations"] + 1)
    whole, lazy = both(folder, monkeypatch)
    assert lazy.size == 50
    assert_same(data.prepare(lazy, NORMALISED), data.prepare(whole, NORMALISED))


def test_unpacked_archives_of_ogbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The episodes of the archives themselves: `terminals` end them, `masks` the task."""
    for seed, (part, size) in enumerate(SIZES.items()):
        arrays = columns(size, seed)
        arrays["masks"] = (np.arange(size) % 5 > 0).astype(np.float32)
        arrays["terminals"] |= arrays.pop("timeouts") | (np.arange(size) == size - 1)
        for name in (part, f"{part}-val"):
            (tmp_path / "archives").mkdir(exist_ok=True)
            np.savez_compressed(tmp_path / "archives" / f"{name}.npz", **arrays)  # type: ignore
    for path in (tmp_path / "archives").iterdir():
        with zipfile.ZipFile(path) as file:
            file.extractall(tmp_path / "unpacked" / path.stem)
    packed = data.load(tmp_path / "archives")
    for found in both(tmp_path / "unpacked", monkeypatch, action_low=(), action_high=()):
        assert found.family == "ogbench" and (found.lengths == packed.lengths).all()
        assert_same(data.prepare(found, NORMALISED), data.prepare(packed, NORMALISED))


def test_unpacked_archives_of_which_one_has_next_observations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, (part, size) in enumerate(SIZES.items()):
        arrays = columns(size, seed)
        arrays["terminals"] |= arrays.pop("timeouts") | (np.arange(size) == size - 1)
        arrays["masks"] = np.ones(size)
        if part == "b":
            arrays["next_observations"] = arrays["observations"] + 1
        (tmp_path / part).mkdir()
        for name, array in arrays.items():
            np.save(tmp_path / part / f"{name}.npy", array)
    whole, lazy = both(tmp_path, monkeypatch, action_low=(), action_high=())
    assert_same(data.prepare(lazy, NORMALISED), data.prepare(whole, NORMALISED))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("a", ()),
        ("a", ("rewards",)),
        ("a", ("rewards", "qpos")),
        ("cube-single-play-v0", ("rewards", "qpos")),
    ],
)
def test_what_is_no_archive_of_ogbench_is_a_table(
    name: str, left: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder as in an archive: D4RL has `qpos` and rewards, and `terminals` end the task."""
    arrays = columns(50, 0) | {"qpos": np.zeros((50, 2))}
    ogbench = left == ("rewards",) or (name != "a" and "rewards" in left)
    arrays = {key: array for key, array in arrays.items() if key not in left}
    if ogbench:
        arrays["terminals"][-1] = True
    archive = tmp_path / f"{name}.npz"
    np.savez(archive, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / name)
    packed = data.load(archive, hints=read_hints(**HINTS))
    for found in both(tmp_path / name, monkeypatch):
        assert (found.family == "ogbench") == (packed.family == "ogbench") == ogbench
        assert found.terminal.any() != ogbench and (found.terminal == packed.terminal).all()
        assert (found.lengths == packed.lengths).all()


def test_rows_that_are_stored_column_by_column(mapped: None, tmp_path: Path) -> None:
    turned = np.asfortranarray(columns(33, 1)["observations"])
    folder = write(tmp_path / "parts", observations=turned)
    told = r"b/observations.npy is stored column by column .* save it again with np.ascontiguous"
    with pytest.raises(DataError, match=told):
        data.load(folder)


def test_images_that_are_stored_column_by_column(tmp_path: Path) -> None:
    frames = np.asfortranarray(np.zeros((33, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"image\.npy is stored column by column"):
        data.load(write(tmp_path / "parts", image=frames))


def test_too_many_open_files(mapped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    folder = write(tmp_path / "parts")
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(DataError, match=r"join parts of the dataset, or raise the limit \(ulimit"):
        data.load(folder)


@pytest.mark.parametrize("name", ["step", "time", "episode_id", "rewards", "terminals"])
def test_columns_of_two_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same data, or the same error, as in memory."""
    folder = write(tmp_path / "parts")
    for part, size in SIZES.items():
        np.save(folder / part / f"{name}.npy", np.zeros((size, 2)))
    try:
        whole, lazy = both(folder, monkeypatch)
    except DataError as fault:
        expected = str(fault)
        monkeypatch.setattr(folders, "COPIES", float("inf"))
        with pytest.raises(DataError) as found:
            data.load(folder, hints=read_hints(**HINTS))
        assert str(found.value) == expected
    else:
        assert name == "step"  # no other quantity may have two numbers
        assert_same(data.prepare(lazy, RAW), data.prepare(whole, RAW))


def test_bad_rows_cut_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observations = columns(33, 1)["observations"]
    observations[[5, 11, 20], 1] = np.nan, np.inf, 1e300
    actions = columns(33, 1)["actions"]
    actions[28] = np.nan
    folder = write(tmp_path / "parts", observations=observations, actions=actions)
    whole, lazy = both(folder, monkeypatch, bad_rows="drop")
    assert_same(data.prepare(lazy, RAW), data.prepare(whole, RAW))
    assert [note for note in lazy.notes if "left out, with" in note] == [
        note for note in whole.notes if "left out, with" in note
    ]


def test_a_nan_is_named_with_its_row(mapped: None, tmp_path: Path) -> None:
    observations = columns(33, 1)["observations"]
    observations[30, 2] = np.nan
    folder = write(tmp_path / "parts", observations=observations)
    with pytest.raises(DataError, match=r"a nan in observations at row 70 \(episode 6, step 6\)"):
        data.load(folder, hints=read_hints(**HINTS))


def test_bounds_of_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "parts", actions=3 * columns(33, 1)["actions"])
    whole, lazy = both(folder, monkeypatch, action_low=(), action_high=())
    np.testing.assert_array_equal(lazy.action_low, whole.action_low)
    np.testing.assert_array_equal(lazy.action_high, whole.action_high)
    whole, lazy = both(folder, monkeypatch)
    assert lazy.outside == whole.outside and "lie outside the action space" in lazy.outside


def test_a_part_that_was_cut_short(mapped: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "parts")
    file = folder / "b" / "observations.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"b/observations.npy declares .* copy or write it again"):
        data.load(folder)


def test_parts_of_other_widths(mapped: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "parts", observations=np.zeros((33, 4)))
    told = r"parts/b: column 'observations' holds 4 numbers in a row, and 3 .* in .*parts/a"
    with pytest.raises(DataError, match=told):
        data.load(folder)


def test_parts_of_other_lengths(mapped: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "parts", observations=np.zeros((32, 3)))
    with pytest.raises(DataError, match=r"parts/b.*arrays of different lengths: .*observations 32"):
        data.load(folder)


def test_pickled_objects_are_refused(mapped: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "parts", observations=np.full((33, 3), None))
    with pytest.raises(DataError, match="never unpickled"):
        data.load(folder)


def test_what_takes_all_rows_in_memory_says_so(
    mapped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = data.load(write(tmp_path / "parts"), hints=read_hints(**HINTS))
    assert isinstance(lazy.in_memory().next_observation, np.ndarray)
    monkeypatch.setattr(container, "MODEST", 0)
    monkeypatch.setattr(container, "free_memory", lambda: 0)
    with pytest.raises(DataError, match=r"all rows at once takes .* GB of memory"):
        lazy.in_memory()
    told = "action_chunk=2, with all actions in memory, takes .* train on fewer of the files"
    with pytest.raises(DataError, match=told):
        data.multi_step(data.prepare(lazy, RAW), chunk=data.ActionChunk(2, 1))


def test_columns_side_by_side_are_refused(mapped: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "parts")
    for part in SIZES:
        place = folder / part
        for name in ("obs.arm", "obs.hand"):
            np.save(place / f"{name}.npy", np.load(place / "observations.npy"))
        (place / "observations.npy").unlink()
    with pytest.raises(DataError, match=r"obs.arm, obs.hand .* as one array in one file"):
        data.load(folder)


def test_nothing_is_mapped_where_memory_is_free(tmp_path: Path) -> None:
    found = data.load(write(tmp_path / "parts"), hints=read_hints(**HINTS))
    assert isinstance(found.observation, np.ndarray)
    assert found.in_memory().observation is found.observation


def test_moments_of_many_rows_do_not_stop_growing(
    small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of 32-bit floats does at 2**24 ones."""
    monkeypatch.setattr(mapped_rows, "EXACT_ROWS", 10)
    rows = np.random.default_rng(0).normal(1, 2, (50, 3)).astype(np.float32)
    for each in (rows, MappedRows((rows[:20], rows[20:]))):
        found = mapped_rows.moments(each)
        np.testing.assert_array_equal(found.mean, rows.mean(0, np.float64).astype(np.float32))
        np.testing.assert_array_equal(found.std, rows.std(0, np.float64).astype(np.float32))


def test_indices(small_blocks: None) -> None:
    """As numpy's, of rows of two parts and three types."""
    parts = np.arange(30.0).reshape(10, 3), np.arange(9, dtype=">f4").reshape(3, 3)
    rows, whole = MappedRows(parts), np.concatenate(parts)
    assert rows.dtype == whole.dtype and rows.shape == whole.shape and len(rows) == 13
    assert rows.nbytes == whole.nbytes
    for index in (3, -1, slice(8, 12), slice(None, None, 2), [12, 0, -3], [], whole[:, 0] > 4):
        np.testing.assert_array_equal(rows[index], whole[index])
    np.testing.assert_array_equal(np.asarray(rows, np.float32), whole.astype(np.float32))
    assert len(list(rows)) == 13
    with pytest.raises(IndexError, match="no such row among 13: -14"):
        rows[-14]
    with pytest.raises(IndexError, match=r"bools of shape \(12,\) for 13 rows"):
        rows[np.ones(12, bool)]
    for index in (1.0, (1, 2), (slice(None), 0), None, "a"):
        with pytest.raises(TypeError, match="by numbers, a slice or bools"):
            rows[index]
    with pytest.raises(ValueError, match="only as a copy"):
        np.asarray(rows, copy=False)


def test_parts_in_other_units_are_not_joined() -> None:
    rows = MappedRows((np.zeros((2, 3)),))
    with pytest.raises(ValueError, match="in the same units"):
        mapped_rows.end_to_end([rows, rows.then(np.float32)])
    with pytest.raises(ValueError, match="already those after"):
        rows.following(np.ones(2, bool)).following(np.ones(2, bool))
