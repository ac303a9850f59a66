"""The folder of a run: one owner at a time, one config, rows that are cut when resuming.

    config.json        algo, configs, data, versions; compared at every start (see changes.py)
    forecast.json      how long updates and evaluations take, measured by the first process
    metrics.jsonl      a row per seed and chunk of updates
    evaluations.jsonl  a row per seed, policy and evaluation
    timings.jsonl      a row per log point, with checksums of its rows in the other files (see
                       ledger.py); apart, so that these never depend on the clock
    checkpoints/       see checkpoints.py
    columns/           what a column-filling phase has filled
    phases/            what phases left that another run can begin with (see warm_start.py)
    init.json          with which state the run began, if another run had trained it
    .added/            a run of seeds that are being added (see seeds_added.py)
    result.json        written last: a folder with it is finished

The rows of a log point are written after its checkpoint, and are on the disk before the next one.
After a kill the rows beyond the restored step are cut, its own are written if they are missing, and
training writes the same ones again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxrl_prefs.errors import WorkdirError

CONFIG, DURATIONS, RESULT, LOCK = "config.json", "forecast.json", "result.json", ".lock"
METRICS, EVALUATIONS, TIMINGS = "metrics.jsonl", "evaluations.jsonl", "timings.jsonl"
CHECKPOINTS, COLUMNS, EVENTS, DISCARDED = "checkpoints", "columns", "tensorboard", ".discarded"
PHASES, INIT = "phases", "init.json"
ADDED, JOINED, COMPLETE = ".added", ".joined", "complete"  # see seeds_added.py


def usual(algo: str, dataset: str) -> str:
    """The name of a run's folder where none is given.

    >>> usual("bdpo", "hopper/medium-v0")
    'bdpo-hopper-medium-v0'
    """
    return f"{algo}-" + re.sub(r"[^\w.-]+", "-", dataset).strip("-.")


NO_ENV = "none"  # the environment of a run that is not evaluated
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Makes the folder and locks it against other processes while the context lasts.

    The lock dies with its process, however that ends. A finished run in a folder that cannot be
    written is only read, and needs no lock. On a file system without locks a warning says so.

    Raises:
        WorkdirError: if the folder cannot be made or written, another process holds it, or a file
            in it is a link.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_own(path)
            lock = stack.enter_context(open(path / LOCK, "w"))
        except OSError as error:
            if error.errno not in READ_ONLY or not is_finished(path):
                raise WorkdirError(f"cannot use --workdir={path}: {error.strerror}") from error
        else:
            _lock(lock, path)
        yield


def _lock(file: Any, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkdirError(f"another process is running in --workdir={path}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logging.getLogger(__name__).warning(
            "the file system of %s has no locks (%s): start no second process there",
            path,
            error.strerror,
        )


def is_finished(path: Path) -> bool:
    """Whether a folder holds a result that can be read; a damaged one is written again."""
    try:
        return "policies" in read_json(path / RESULT)
    except (OSError, WorkdirError):
        return False


def _check_own(path: Path) -> None:
    """Refuses links to files: a run appends to its files and cuts them, wherever a link leads."""
    for folder in (path, path / COLUMNS):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_symlink() and not entry.is_dir():
                raise WorkdirError(
                    f"--workdir={path}: {entry.name} is a link to {os.readlink(entry)}, and a run "
                    "writes to no file outside of its folder; remove the link"
                )


def clear(path: Path) -> None:
    """Removes what an earlier run left.

    The end mark and the checkpoints go first and the config last, so that a kill midway leaves
    nothing from which a run would go on without its rows.

    Raises:
        WorkdirError: if the folder holds files that are not a run's.
    """
    with contextlib.suppress(FileNotFoundError):
        (path / RESULT).unlink()
    if strangers(path) and not (path / CONFIG).exists():
        raise WorkdirError(
            f"--workdir={path} holds files of something else than a run; not cleared"
        )
    if (path / CHECKPOINTS).exists():
        shutil.rmtree(path / DISCARDED, ignore_errors=True)
        (path / CHECKPOINTS).rename(path / DISCARDED)
    for entry in [entry for entry in path.iterdir() if entry.name not in (LOCK, CONFIG)]:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    with contextlib.suppress(FileNotFoundError):
        (path / CONFIG).unlink()


def differences(
    found: Mapping[str, Any], asked: Mapping[str, Any], compared: Iterable[str]
) -> list[tuple[str, str, Any, Any]]:
    """The fields in which two configs differ: (section, name, found, asked).

    Left out are names of the same data, and an environment that is to be played no more.
    """
    found, asked = json.loads(json.dumps([found, asked]))
    free = set[tuple[str, str]]()
    checksum = found.get("data", {}).get("sha256")
    if checksum and checksum == asked.get("data", {}).get("sha256"):
        free |= {("run", "dataset"), ("data", "name")}
    if asked.get("run", {}).get("env") == NO_ENV:
        free |= {("run", "env"), ("data", "env")}
    if found.get("init") and asked.get("init"):
        free |= {("init", "run")}
    return [
        (section, name, there, here)
        for section in compared
        for name, there, here in _differences(found.get(section, {}), asked.get(section, {}))
        if (section, name) not in free
    ]


def usable_env(named: Any) -> str:
    """An environment that a folder names; empty if there is none, or it would import a module."""
    usable = isinstance(named, str) and named != NO_ENV and ":" not in named
    return named if usable else ""


def is_joining(path: Path) -> bool:
    """Whether a process was stopped while it put the files of more seeds in place."""
    return (path / JOINED / COMPLETE).exists()


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file lies in a hidden folder below `folder`, such as that of seeds being added."""
    return any(part.startswith(".") for part in path.relative_to(folder).parent.parts)


def strangers(path: Path) -> list[str]:
    """What a folder holds, but for hidden files."""
    return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = list(dict.fromkeys([*asked, *found]))
    pairs = [(name, found.get(name, "nothing"), asked.get(name, "nothing")) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WorkdirError: if the file is not one.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, "not an object")
    return content


def check_file(path: Path) -> None:
    """Raises WorkdirError for what is there and no file; to open a pipe may take for ever."""
    if path.exists() and not path.is_file():
        raise WorkdirError(f"{path} is not a regular file; remove it, or leave its folder out")


def _damaged(path: Path, fault: str) -> WorkdirError:
    return WorkdirError(
        f"{path} is damaged ({fault}); put back a copy of it, or give another --workdir"
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object so that the file is never seen half done."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is never seen half done."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is never seen half done."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)  # it may be a link
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


class Rows:
    """A file of JSON lines, in ascending order of their field `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def text(rows: Iterable[Mapping[str, Any]]) -> str:
        """The lines that `append` writes."""
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Reads the rows; damaged ones and a torn last one are left out (see ledger.py)."""
        for _, _, row in self.lines():
            if row is not None:
                yield row

    def cut(self, step: int) -> None:
        """Removes the rows beyond `step`, and a row that was being written at a kill."""
        ends = [end for end, _, row in self.lines() if row is not None and row["step"] <= step]
        if self.path.exists():
            os.truncate(self.path, ends[-1] if ends else 0)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows. They survive a kill when this returns, a power cut after `sync`."""
        text = self.text(rows)
        with open(self.path, "a") as file:
            file.write(text)

    def sync(self) -> None:
        """Waits until the rows are on the disk."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())

    def lines(self) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
        """Yields (offset of its end, line, row) for every whole line; a damaged row is None."""
        if not self.path.exists():
            return
        check_file(self.path)
        end = 0
        with open(self.path, "rb") as file:
            for line in file:
                end += len(line)
                if line.endswith(b"\n"):
                    yield end, line, _row(line)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
