"""Where Minari datasets lie on this machine, and how a new one is put there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxrl_prefs.errors import DataError

DRAFT = ".partial-"  # followed by machine, process and a random part
DEEPEST = 5  # parts of an id; the published ones have two or three


def roots() -> tuple[Path, Path]:
    """The folders that are searched: Minari's own, then this library's cache."""
    minari = os.environ.get("MINARI_DATASETS_PATH")
    return (
        absolute(minari) if minari else Path.home() / ".minari" / "datasets",
        cache() / "minari",
    )


def absolute(folder: str) -> Path:
    """A folder that the user names, independent of the working directory; `~` is the home."""
    return Path(folder).expanduser().absolute()


def cache() -> Path:
    """This library's own folder, which holds nothing that came from elsewhere but `minari`."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (absolute(folder) if folder else Path.home() / ".cache") / "jaxrl_prefs"


def find(dataset_id: str) -> Path | None:
    """The folder with the dataset's `metadata.json`, or None where there is none."""
    for root in roots():
        data = root / dataset_id / "data"
        if (data / "metadata.json").is_file():
            return data
    return None


def place(folder: Path) -> Path:
    """The root of a dataset whose `data` folder is given."""
    return next((root for root in roots() if folder.is_relative_to(root)), folder.parents[1])


def local_ids() -> list[str]:
    """The ids of all datasets on this machine, sorted; folders that are links are entered."""
    found = {
        path.parent.parent.relative_to(root).as_posix()
        for root in roots()
        for depth in range(1, DEEPEST + 1)  # "**" would pass links by
        for path in root.glob("*/" * depth + "data/metadata.json")
    }
    return sorted(name for name in found if not name.startswith("."))


def writable_root(chosen: str = "") -> Path:
    """The first of `roots()` that can be written to, made if it does not exist.

    A folder without write permission for anybody is not written to, not even by the superuser. A
    `chosen` folder is the only candidate.

    Raises:
      DataError: if none can.
    """
    faults = []
    for root in (absolute(chosen),) if chosen else roots():
        try:
            root.mkdir(parents=True, exist_ok=True)
            if not root.stat().st_mode & 0o222:
                raise PermissionError(errno.EACCES, "Read-only folder")
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=root):
                return root
        except OSError as fault:
            faults.append(f"{root}: {fault.strerror}")
    raise DataError(
        "there is no place for a dataset: " + "; ".join(faults) + ". Set MINARI_DATASETS_PATH to "
        "a folder that can be written to"
    )


@contextlib.contextmanager
def minari_root(root: Path) -> Iterator[None]:
    """Makes Minari's own functions use `root` for a while."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def install(dataset_id: str, root: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write(folder)` fill a new folder, and then gives it the dataset's name in one step.

    Whoever is killed midway leaves a hidden folder behind and no half dataset; the next call
    removes it. Where two processes do the same at once, the first one's dataset stays.

    Returns the folder with the dataset's `metadata.json`.

    Raises:
      DataError: if the disk is full.
    """
    target = root / dataset_id
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    draft = Path(tempfile.mkdtemp(prefix=f"{DRAFT}{_host()}-{os.getpid()}-", dir=root))
    try:
        write(draft / "data")
        _make_namespaces(target.parent, root)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not (target / "data" / "metadata.json").is_file():
                raise
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"{dataset_id} cannot be stored in {root}: {fault.strerror}") from fault
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / "data"


def check_space(dataset_id: str, root: Path, size: int) -> None:
    """Refuses to write `size` bytes where there is no room for them.

    Raises:
      DataError: with both sizes.
    """
    free = shutil.disk_usage(root).free
    if size > free:
        raise DataError(
            f"{dataset_id} takes {size / 1e6:,.0f} MB, and {root} has {free / 1e6:,.0f} MB left: "
            "make room, or set MINARI_DATASETS_PATH to a folder on another disk"
        )


def _sweep(root: Path) -> None:
    """Removes the drafts of processes of this machine that are dead."""
    for draft in root.glob(f"{DRAFT}{_host()}-*"):
        process = draft.name.removeprefix(f"{DRAFT}{_host()}-").partition("-")[0]
        if process.isdecimal() and not _lives(int(process)):
            shutil.rmtree(draft, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _host() -> str:
    """This machine's name, without what separates the parts of a draft's name."""
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def _make_namespaces(folder: Path, root: Path) -> None:
    """Marks every folder between a dataset and the root as a Minari namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    while folder != root:
        mark = folder / "namespace_metadata.json"
        if not mark.exists():
            mark.write_text("{}")
        folder = folder.parent
