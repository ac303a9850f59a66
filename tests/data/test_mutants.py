"""Damaged copies of small datasets of every format: each is refused by name, or changes nothing.

A mutant is made from a seed, so that a failure comes back by its number.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.cli import data as command
from jaxrl_prefs.data import Dataset, writers
from jaxrl_prefs.errors import DataError
from tests.data.test_written import FILES, episodes

MINARI_ID = "mine/base-v0"
MUTANTS = 60  # of each format
FORMS = (*FILES, "minari")
USED = {
    *("observations", "actions", "rewards", "terminals", "terminations", "timeouts", "dones"),
    *("next_observations", "flat", "masks", "obs", "next_obs", "action", "reward", "done"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same recording in every format."""
    folder = tmp_path_factory.mktemp("base")
    for form, (write, name) in FILES.items():
        (folder / form).mkdir()
        write(episodes(), folder / form / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        writers.minari(episodes(), MINARI_ID)
    return folder


def load(form: str, folder: Path) -> Dataset:
    """As the programs do, up to the display."""
    recording = data.load(MINARI_ID if form == "minari" else str(folder / FILES[form][1]))
    data.prepare(recording, data.Processing())
    command.facts(recording)
    return recording


# Of an array: another one. None of these may be taken for the data.
ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "row lost": lambda a: a[:-1],
    "row twice": lambda a: np.concatenate([a, a[-1:]]),
    "scalar": lambda a: np.array(1.0),
    "no rows": lambda a: a[:0],
    "more axes": lambda a: a[..., None, None],
    "complex": lambda a: a.astype(np.complex64),
    "bytes": lambda a: a.astype("S8"),
    "compound": lambda a: np.zeros(a.shape, [("a", "f4"), ("b", "i4")]),
    "nan": lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, np.nan, a),
    "infinity": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.inf, a),
}


def bytes_of(path: Path, r: random.Random) -> bool:
    raw = bytearray(path.read_bytes())
    op = r.choice(("flip", "flips", "cut", "append", "zeros", "empty", "noise"))
    if op in ("flip", "flips"):
        for _ in range(1 if op == "flip" else 64):
            raw[r.randrange(len(raw))] ^= 1 << r.randrange(8)
    elif op == "cut":
        raw = raw[: r.randrange(len(raw))]
    elif op == "append":
        raw += r.randbytes(500)
    elif op == "zeros":
        at = r.randrange(len(raw))
        raw[at : at + 4096] = bytes(len(raw[at : at + 4096]))
    else:
        raw = bytearray(r.randbytes(len(raw)) if op == "noise" else b"")
    path.write_bytes(raw)
    return False


def huge(file: Any, name: str, a: np.ndarray) -> None:
    file.create_dataset(name, (10**12, *a.shape[1:]), a.dtype, chunks=(1024, *a.shape[1:]))


def ragged(file: Any, name: str, a: np.ndarray) -> None:
    file.create_dataset(name, (len(a),), h5py.vlen_dtype(np.float32))[0] = np.ones(2)


def references(file: Any, name: str, a: np.ndarray) -> None:
    file.create_dataset(name, (len(a),), h5py.ref_dtype)


HDF5: dict[str, Callable[[Any, str, np.ndarray], Any]] = {
    "lost": lambda file, name, a: None,
    "group": lambda file, name, a: file.create_group(name),
    "huge": huge,
    "ragged": ragged,
    "references": references,
    "no shape": lambda file, name, a: file.create_dataset(name, data=h5py.Empty("f4")),
    "nowhere": lambda file, name, a: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    "circle": lambda file, name, a: file.__setitem__(name, h5py.SoftLink("/" + name)),
}


def hdf5(path: Path, r: random.Random) -> bool:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda n, x: names.append(n) if isinstance(x, h5py.Dataset) else None)
        name = r.choice([n for n in names if n.split("/")[-1] in USED])
        op = r.choice([*ARRAYS, *HDF5, "attribute"])
        if op == "attribute":
            holder = r.choice([file, file[name].parent])
            key = r.choice([*holder.attrs, "num_samples", "env_args"])
            holder.attrs[key] = r.choice([-1, 10**12, 1.5, "text", np.arange(5), np.nan, "{"])
            return False
        a = file[name][()]
        del file[name]
        if op in ARRAYS:
            file[name] = ARRAYS[op](a)
        else:
            HDF5[op](file, name, a)
        # Files without these are whole: the other arrays say as much.
        return name.split("/")[-1] not in ("timeouts", "next_observations", "next_obs")


def header(text: str) -> bytes:
    line = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line.encode()


HEADERS = {
    "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    "python 2": "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 2L), }",
    "torn": "{'descr': '<f4', 'fortran_order': ",
    "a call": "{'descr': print(1), 'fortran_order': False, 'shape': (3,), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
}


def npz(path: Path, r: random.Random) -> bool:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = r.choice([n for n in arrays if n in USED])
    op = r.choice([*ARRAYS, *HEADERS, "no array", "half", "version"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, a in arrays.items():
            stream = io.BytesIO()
            np.save(stream, ARRAYS[op](a) if key == name and op in ARRAYS else a)
            raw = stream.getvalue()
            if key == name and op in HEADERS:
                raw = header(HEADERS[op]) + raw[128:]
            elif key == name:
                raw = {"no array": b"text", "half": raw[: len(raw) // 2]}.get(op, raw)
                raw = raw[:6] + b"\x09" + raw[7:] if op == "version" else raw
            archive.writestr(f"{key}.npy", raw)
    return True


ODD = [None, -1, 0, 10**9, "3", 1.5, True, [], {}, float("nan"), float("inf")]
ODD_SPACE = [None, 3, -5, "text", [], {}, [1, 2], [10**9], "object", "Dict", [[1]], float("nan")]


def metadata(path: Path, r: random.Random) -> bool:
    about = json.loads(path.read_text())
    key = r.choice(["total_episodes", "ref_min_score", "data_format", "env_spec", "space", "text"])
    if key == "text":
        path.write_bytes(r.choice([b"[]", b"text", b"", b"[" * 100_000, b'{"a": "\xff"}']))
        return True
    if key == "space":
        key = r.choice(["action_space", "observation_space"])
        space = json.loads(about[key])
        space[r.choice(list(space))] = r.choice(ODD_SPACE)
        about[key] = json.dumps(space)
    else:
        about[key] = r.choice(ODD)
    path.write_text(json.dumps(about))
    return key == "total_episodes"


def mutate(form: str, folder: Path, r: random.Random) -> bool:
    """Damages the dataset; returns whether it must be refused, and not only be told apart."""
    if form != "minari":
        path = folder / FILES[form][1]
        return r.choice([bytes_of, *[hdf5 if path.suffix == ".hdf5" else npz] * 3])(path, r)
    place = folder / MINARI_ID / "data"
    op = r.choice(["bytes", "hdf5", "hdf5", "metadata", "metadata", "folder"])
    if op == "folder":
        path = place / r.choice(["metadata.json", "main_data.hdf5"])
        path.unlink()
        r.choice([lambda: None, path.mkdir, lambda: path.symlink_to(path.name)])()
        return True
    work = {"bytes": bytes_of, "hdf5": hdf5, "metadata": metadata}[op]
    return work(place / ("metadata.json" if op == "metadata" else "main_data.hdf5"), r)


def same(found: Dataset, expected: Dataset) -> bool:
    names = ("observation", "action", "reward", "terminal", "next_observation", "continues")
    return all(np.array_equal(getattr(found, n), getattr(expected, n)) for n in names)


@pytest.mark.parametrize("form", FORMS)
def test_a_mutant_is_refused_by_name_or_is_the_same(
    form: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "work"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(base / form, tmp_path / "work")
    whole, refused = load(form, tmp_path / "work"), 0
    for number in range(MUTANTS):
        shutil.rmtree(tmp_path / "work")
        shutil.copytree(base / form, tmp_path / "work")
        must = mutate(form, tmp_path / "work", random.Random(f"{form}/{number}"))
        try:
            found = load(form, tmp_path / "work")
        except (DataError, OSError) as fault:
            assert "\n" not in str(fault), f"mutant {number}"
            refused += 1
        except Exception as fault:
            raise AssertionError(f"mutant {number} of {form}: a traceback") from fault
        else:
            assert not must or same(found, whole), f"mutant {number} of {form} is taken for data"
    assert refused > MUTANTS // 3
