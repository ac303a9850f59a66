from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from jaxrl_prefs.data import roots
from jaxrl_prefs.errors import DataError


def fill(text: str) -> roots.Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "metadata.json").write_text(text)

    return write


def test_minaris_root_comes_first_and_the_cache_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MINARI_DATASETS_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    cache = tmp_path / ".cache/jaxrl_prefs/minari"
    assert roots.roots() == (tmp_path / ".minari/datasets", cache)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "else"))
    assert roots.roots() == (tmp_path / "sets", tmp_path / "else/jaxrl_prefs/minari")


def test_installed_sets_are_found_by_id(root: Path) -> None:
    assert roots.find("a/b/c-v0") is None
    folder = roots.install("a/b/c-v0", root, fill("{}"))
    assert folder == roots.find("a/b/c-v0") == root / "a/b/c-v0/data"
    assert roots.local_ids() == ["a/b/c-v0"]
    (root / "linked").symlink_to(root / "a", target_is_directory=True)
    assert roots.local_ids() == ["a/b/c-v0", "linked/b/c-v0"]
    assert (root / "a/namespace_metadata.json").read_text() == "{}"
    assert (root / "a/b/namespace_metadata.json").read_text() == "{}"


def test_a_set_in_the_cache_is_found(root: Path) -> None:
    folder = roots.install("a/c-v0", roots.roots()[1], fill("{}"))
    assert roots.find("a/c-v0") == folder
    assert roots.local_ids() == ["a/c-v0"]


def test_a_root_that_cannot_be_written_to_is_passed_over(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert roots.writable_root() == root
    root.chmod(0o555)  # the tests may run as the superuser, who could write all the same
    assert roots.writable_root() == tmp_path / "cache/jaxrl_prefs/minari"
    root.chmod(0o755)
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(blocked / "below"))
    assert roots.writable_root() == tmp_path / "cache/jaxrl_prefs/minari"
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked / "below"))
    with pytest.raises(DataError, match=r"no place for a dataset.*Set MINARI_DATASETS_PATH"):
        roots.writable_root()


def test_a_failed_write_leaves_nothing_behind(root: Path) -> None:
    def fail(folder: Path) -> None:
        fill("{}")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roots.install("a/c-v0", root, fail)
    assert list(root.iterdir()) == []


def test_of_two_writers_the_first_stays(root: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        begun.set()
        assert go_on.wait(10)
        fill("slow")(folder)

    thread = threading.Thread(target=roots.install, args=("a/c-v0", root, slow))
    thread.start()
    assert begun.wait(10)
    roots.install("a/c-v0", root, fill("quick"))
    go_on.set()
    thread.join()
    assert (root / "a/c-v0/data/metadata.json").read_text() == "quick"
    assert [path.name for path in root.iterdir()] == ["a"]


def test_minari_root_is_put_back(root: Path) -> None:
    with roots.minari_root(root / "other"):
        assert os.environ["MINARI_DATASETS_PATH"] == str(root / "other")
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


@pytest.mark.parametrize("named", ["~/sets", "sets"])
def test_a_root_does_not_depend_on_the_working_directory(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", named)
    assert roots.roots()[0] == tmp_path / "sets"
    assert roots.writable_root(named) == tmp_path / "sets"


def test_drafts_of_dead_processes_are_removed(root: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = roots._host()
    stale, own, far = (
        root / f".partial-{host}-{dead.pid}-a",
        root / f".partial-{host}-{os.getpid()}-a",
        root / f".partial-elsewhere-{dead.pid}-a",
    )
    for draft in (stale, own, far):
        (draft / "data").mkdir(parents=True)
    roots.install("a/c-v0", root, fill("{}"))
    assert [draft.exists() for draft in (stale, own, far)] == [False, True, True]


def test_a_full_disk_is_told(root: Path) -> None:
    def full(folder: Path) -> None:
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"a/c-v0 cannot be stored in .*: No space left"):
        roots.install("a/c-v0", root, full)
    assert list(root.iterdir()) == []
