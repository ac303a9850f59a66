from __future__ import annotations

import builtins
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from jaxrl_prefs.errors import WorkdirError
from jaxrl_prefs.runs import changes, workdir
from jaxrl_prefs.runs.workdir import Rows

CONFIG = {"run": {"seeds": (0, 1), "gamma": 0.9}, "method": {"eta": 0.5}, "versions": {"jax": "1"}}
COMPARED = ("run", "method")


def make(path: Path) -> Path:
    with workdir.claim(path):
        changes.adopt(path, CONFIG, COMPARED)
    return path


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with workdir.claim(tmp_path / "deep" / "run"):
        with (
            pytest.raises(WorkdirError, match="another process"),
            workdir.claim(tmp_path / "deep" / "run"),
        ):
            pass
        with workdir.claim(tmp_path / "other"):
            pass
    with workdir.claim(tmp_path / "deep" / "run"):
        pass


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", ".result.json.new", "columns/x.npy"])
def test_a_run_writes_to_no_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    other = tmp_path / "profile"
    other.write_text("mine")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    with pytest.raises(WorkdirError, match=f"{link.name} is a link to"):
        make(tmp_path / "run")
    workdir.write_text(tmp_path / "run" / "result.json", "{}")
    assert other.read_text() == "mine"


def test_folders_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "scratch")
    with workdir.claim(tmp_path / "run"):
        pass


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="file/run"), workdir.claim(tmp_path / "file" / "run"):
        pass


def test_the_same_config_is_accepted_again(tmp_path: Path) -> None:
    make(tmp_path)
    other_versions = CONFIG | {"versions": {"jax": "2"}}
    changes.adopt(tmp_path, other_versions, COMPARED)
    assert workdir.read_json(tmp_path / "config.json")["versions"] == {"jax": "1"}


def test_another_config_is_refused_naming_the_fields(tmp_path: Path) -> None:
    make(tmp_path)
    other = {"run": {"seeds": [0, 1], "gamma": 0.8}, "method": {"eta": 0.1, "rho": 1.0}}
    with pytest.raises(WorkdirError) as failure:
        changes.adopt(tmp_path, other, COMPARED)
    message = str(failure.value)
    assert (
        "gamma: 0.9 in the folder, 0.8 requested" in message
        and "eta: 0.5 in the folder, 0.1 requested" in message
    )
    assert "rho: 'nothing' in the folder, 1.0 requested" in message
    assert "seeds" not in message and "--overwrite" in message


def test_the_same_data_at_another_path_are_the_same_run(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "run": {"dataset": "/data/a.hdf5", "seeds": [0]},
        "data": {"name": "/data/a.hdf5", "sha256": "1f", "env": "Pendulum-v1"},
    }
    sections = ("run", "data")
    changes.adopt(tmp_path, config, sections)
    moved: dict[str, Any] = {
        "run": config["run"] | {"dataset": "b.hdf5"},
        "data": config["data"] | {"name": "b.hdf5"},
    }
    changes.adopt(tmp_path, moved, sections)
    other = moved | {"data": moved["data"] | {"sha256": "2e"}}
    with pytest.raises(
        WorkdirError, match=r"dataset: '/data/a.hdf5' in the folder.*sha256: '1f' in the folder"
    ):
        changes.adopt(tmp_path, other, sections)


def test_a_run_may_go_on_without_its_environment_but_in_no_other(tmp_path: Path) -> None:
    def config(env: str, made: str) -> dict[str, Any]:
        return {"run": {"env": env}, "data": {"sha256": "1f", "env": made}}

    changes.adopt(tmp_path, config("", "Pendulum-v1"), ("run", "data"))
    changes.adopt(tmp_path, config("none", ""), ("run", "data"))
    with pytest.raises(WorkdirError, match="env: 'Pendulum-v1' in the folder"):
        changes.adopt(tmp_path, config("Other-v1", "Other-v1"), ("run", "data"))


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    make(tmp_path)
    assert "has no locks" in caplog.text


def test_a_finished_run_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a read-only mount; to root, who runs CI, no folder is closed."""
    make(tmp_path)
    opened = builtins.open

    def closed(path: Any, mode: str = "r", *more: Any, **others: Any) -> Any:
        if mode != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, mode, *more, **others)

    monkeypatch.setattr(builtins, "open", closed)
    with pytest.raises(WorkdirError, match="Read-only"), workdir.claim(tmp_path):
        pass
    monkeypatch.undo()
    workdir.write_json(tmp_path / "result.json", {"policies": {}})
    monkeypatch.setattr(builtins, "open", closed)
    with workdir.claim(tmp_path):
        changes.adopt(tmp_path, CONFIG, COMPARED)


@pytest.mark.parametrize("content", ["", "[]", '{"scores": []}', '{"policies": {}}'])
def test_a_damaged_result_is_none(tmp_path: Path, content: str) -> None:
    assert not workdir.is_finished(tmp_path)
    (tmp_path / "result.json").write_text(content)
    assert workdir.is_finished(tmp_path) == ("policies" in content)


def test_a_folder_of_something_else_is_refused_and_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(WorkdirError, match=r"holds no run \(thesis.tex\)"):
        changes.adopt(tmp_path, CONFIG, COMPARED)
    with pytest.raises(WorkdirError, match="something else"):
        workdir.clear(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_config_is_named(tmp_path: Path, content: str) -> None:
    make(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WorkdirError, match=r"config.json is damaged.*put back a copy"):
        changes.adopt(tmp_path, CONFIG, COMPARED)


def test_a_run_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "run")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "run" / "result.json").write_text("{}")
    (tmp_path / "run" / "link").symlink_to(tmp_path / "precious")
    with workdir.claim(tmp_path / "run"):
        workdir.clear(tmp_path / "run")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == [".lock"]
    assert (tmp_path / "precious" / "file").exists()


def rows_of(path: Path, *steps: int) -> Rows:
    rows = Rows(path / "rows.jsonl")
    rows.append({"step": step, "seed": seed} for step in steps for seed in (0, 1))
    return rows


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, []), (9, []), (10, [10, 10]), (25, [10, 10, 20, 20]), (99, [10, 10, 20, 20, 30, 30])],
)
def test_rows_beyond_a_step_are_cut(tmp_path: Path, step: int, expected: list[int]) -> None:
    rows = rows_of(tmp_path, 10, 20, 30)
    rows.cut(step)
    assert [row["step"] for row in rows] == expected


@pytest.mark.parametrize("torn", range(1, 22))
def test_a_torn_last_row_is_cut_wherever_it_was_torn(tmp_path: Path, torn: int) -> None:
    rows = rows_of(tmp_path, 10, 20)
    whole = rows.path.read_bytes()
    rows.path.write_bytes(whole[:-torn])
    assert [row["step"] for row in rows] == [10, 10, 20]
    rows.cut(20)
    rows.append([{"step": 20, "seed": 1}])
    assert rows.path.read_bytes() == whole


def test_rows_that_were_never_written_are_none(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.cut(3)
    rows.sync()
    assert list(rows) == []


def test_json_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    workdir.write_json(path, {"score": 1})

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        workdir.write_json(path, {"score": 2})
    assert workdir.read_json(path) == {"score": 1}
