"""HDF5 that reaches for other files, or makes numbers up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import DataError
from tests.data import files

ROWS = 20
ARRAYS: dict[str, Any] = {
    "observations": np.arange(2.0 * ROWS).reshape(ROWS, 2),
    "actions": np.zeros((ROWS, 1)),
    "rewards": np.arange(1.0, ROWS + 1),
    "terminals": np.zeros(ROWS, bool),
    "timeouts": np.arange(ROWS) % 10 == 9,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The dataset's folder, with a secret beside it and in the folder another file."""
    place = tmp_path / "set"
    place.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.full(ROWS, 7.0).tobytes())
    for path in (tmp_path / "secret.hdf5", place / "part.hdf5"):
        with h5py.File(path, "w") as file:
            file["x"] = np.full(ROWS, 7.0)
            file["short"] = np.full(ROWS - 1, 7.0)
    return place


def raw(file: Any, name: str) -> None:
    secret = str(Path(file.filename).parents[1] / "secret.bin")
    file.create_dataset(name, (ROWS,), "f8", external=[(secret, 0, 8 * ROWS)])


def linked(target: str, inner: str = "x") -> Callable[[Any, str], None]:
    def write(file: Any, name: str) -> None:
        file[name] = h5py.ExternalLink(target, inner)

    return write


def through_a_soft_link(file: Any, name: str) -> None:
    file["way"] = h5py.ExternalLink("../secret.hdf5", "/")
    file[name] = h5py.SoftLink("/way/x")


def absolute(file: Any, name: str) -> None:
    file[name] = h5py.ExternalLink(str(Path(file.filename).parents[1] / "secret.hdf5"), "x")


def soft(target: str) -> Callable[[Any, str], None]:
    def write(file: Any, name: str) -> None:
        file[name] = h5py.SoftLink(target.format(name=name))

    return write


def virtual(
    source: str, inner: str = "x", count: int = ROWS, taken: int = ROWS
) -> Callable[[Any, str], None]:
    """`count` rows are mapped; the source is said to have `taken` rows."""

    def write(file: Any, name: str) -> None:
        layout = h5py.VirtualLayout((ROWS,), "f8")
        layout[:count] = h5py.VirtualSource(source, inner, (taken,))[:count]
        file.create_virtual_dataset(name, layout, fillvalue=0.5)

    return write


def pattern(file: Any, name: str) -> None:
    endless = (h5py.h5s.UNLIMITED,)
    into = h5py.h5s.create_simple((ROWS,), endless)
    into.select_hyperslab((0,), endless, stride=(ROWS,), block=(ROWS,))
    about = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    about.set_virtual(into, b"part-%b.hdf5", b"x", h5py.h5s.create_simple((ROWS,)))
    shape = h5py.h5s.create_simple((ROWS,), endless)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F64LE, shape, about)


def virtual_of_raw(file: Any, name: str) -> None:
    raw(file, "hidden")
    virtual(".", "hidden")(file, name)


HOSTILE: dict[str, tuple[Callable[[Any, str], None], str]] = {
    "raw bytes of a file": (raw, "external storage"),
    "a link out of the folder": (linked("../secret.hdf5"), "outside of the dataset's folder"),
    "an absolute link": (absolute, "outside of the dataset's folder"),
    "a device": (linked("/dev/zero"), "outside of the dataset's folder"),
    "a link through a soft link": (through_a_soft_link, "outside of the dataset's folder"),
    "a missing file": (linked("nowhere.hdf5"), "does not exist"),
    "a missing array": (linked("part.hdf5", "y"), "leads nowhere"),
    "a soft link to nothing": (soft("/nowhere"), "leads nowhere"),
    "a soft link to itself": (soft("/{name}"), "in a circle"),
    "a virtual dataset out of the folder": (virtual("../secret.hdf5"), "outside of the dataset"),
    "a virtual dataset of nothing": (virtual("nowhere.hdf5"), "does not exist"),
    "a virtual dataset without its array": (virtual("part.hdf5", "y"), "lacks its source"),
    "a virtual dataset with holes": (virtual("part.hdf5", count=9), "come from nowhere"),
    "a source that is too short": (virtual("part.hdf5", "short"), "smaller than"),
    "a virtual dataset of raw bytes": (virtual_of_raw, "no numbers of its own"),
    "a virtual dataset of a pattern": (pattern, "a pattern of names"),
}
INSIDE: dict[str, Callable[[Any, str], None]] = {
    "a link": linked("part.hdf5"),
    "a virtual dataset": virtual("part.hdf5"),
}


def d4rl(folder: Path, write: Callable[[Any, str], None]) -> str:
    path = files.write_d4rl(folder / "a.hdf5", **ARRAYS)
    with h5py.File(path, "r+") as file:
        del file["rewards"]
        write(file, "rewards")
    return str(path)


@pytest.mark.parametrize("case", HOSTILE)
def test_numbers_of_other_files_are_refused_by_name(folder: Path, case: str) -> None:
    write, message = HOSTILE[case]
    with pytest.raises(DataError, match=message):
        data.load(d4rl(folder, write))


@pytest.mark.parametrize("case", INSIDE)
def test_numbers_of_a_file_in_the_folder_are_read(folder: Path, case: str) -> None:
    assert data.load(d4rl(folder, INSIDE[case])).returns.tolist() == [70.0, 70.0]


def test_a_link_in_a_linked_file_is_checked_too(folder: Path) -> None:
    with h5py.File(folder / "part.hdf5", "r+") as file:
        file["far"] = h5py.ExternalLink("../secret.hdf5", "x")
    with pytest.raises(DataError, match="outside of the dataset's folder"):
        data.load(d4rl(folder, linked("part.hdf5", "far")))


def test_a_file_that_is_itself_a_link_may_have_links(folder: Path, tmp_path: Path) -> None:
    path = Path(d4rl(folder, soft("/values")))
    with h5py.File(path, "r+") as file:
        file["values"] = np.full(ROWS, 3.0)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "b.hdf5"
    link.symlink_to(path)
    assert data.load(str(link)).returns.tolist() == [30.0, 30.0]


def test_two_files_may_link_to_each_other(folder: Path) -> None:
    with h5py.File(folder / "part.hdf5", "r+") as file:
        file["back"] = h5py.ExternalLink("a.hdf5", "observations")
    assert data.load(d4rl(folder, linked("part.hdf5"))).size == ROWS - 2
    with h5py.File(folder / "part.hdf5", "r+") as file:
        file["round"] = h5py.ExternalLink("a.hdf5", "rewards")
    (folder / "a.hdf5").unlink()
    with pytest.raises(DataError, match="in a circle"):
        data.load(d4rl(folder, linked("part.hdf5", "round")))


@pytest.mark.parametrize("case", ["raw bytes of a file", "a virtual dataset of nothing"])
def test_robomimics_files_are_checked(folder: Path, case: str) -> None:
    write, message = HOSTILE[case]
    demo = {"actions": np.zeros((ROWS, 1)), "dones": np.zeros(ROWS, int)}
    demo |= {"obs": {"flat": np.ones((ROWS, 2))}}  # type: ignore[dict-item]
    path = files.write_robomimic(folder / "a.hdf5", {"demo_0": demo})
    with h5py.File(path, "r+") as file:
        write(file, "data/demo_0/rewards")
    with pytest.raises(DataError, match=message):
        data.load(str(path))


@pytest.mark.parametrize("case", HOSTILE)
def test_minaris_files_are_checked(root: Path, folder: Path, case: str) -> None:
    write, message = HOSTILE[case]
    path = files.write_minari(root, "mine/a-v0", files.two_episodes()) / "main_data.hdf5"
    os.link(folder / "part.hdf5", path.with_name("part.hdf5"))
    for name in ("secret.bin", "secret.hdf5"):
        os.link(folder.parent / name, path.parents[1] / name)
    with h5py.File(path, "r+") as file:
        del file["episode_0/rewards"]
        write(file, "episode_0/rewards")
    with pytest.raises(DataError, match=message):
        data.load("mine/a-v0")


def test_a_pipe_is_no_file(root: Path) -> None:
    path = files.write_minari(root, "mine/a-v0", files.two_episodes()) / "main_data.hdf5"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="there is no file"):
        data.load("mine/a-v0")  # opening it would wait for ever
