"""Keeps the columns that a phase fills: on disk row by row, beside the checkpoints.

A checkpoint holds checksums of all rows filled by its step, a number for each block of rows. Rows
that are damaged when a run goes on are filled again: what a row gets depends only on its key.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.method import Method, Phase
from jaxrl_prefs.training.loop import LogPoint

BLOCK = 4096  # rows with one checksum

Span = tuple[int, int]  # [first, end), of rows or of steps


class Found(NamedTuple):
    """What was read, and what of it cannot be used."""

    columns: dict[str, np.ndarray]
    damaged: dict[int, list[Span]]  # by the number of the phase: its steps that must run again
    faults: list[str]  # what is wrong with which file


def write(folder: Path, method: Method, log_point: LogPoint) -> None:
    """Writes the rows that were filled since the last log point, and waits for the disk.

    They must be there before the checkpoint of their step: a resumed run reads all rows up to it.
    Does nothing in a phase that fills no columns.
    """
    phase = next(phase for phase in method.phases if phase.name == log_point.phase)
    first, end = log_point.filled
    for name in phase.columns:
        column = log_point.columns[name]
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.npy"
        mode = "r+" if first and path.exists() else "w+"
        stored = np.lib.format.open_memmap(path, mode, dtype=column.dtype, shape=column.shape)
        rows = (slice(first, end),) if phase.shared else (slice(None), slice(first, end))
        stored[rows] = column[rows]
        stored.flush()
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def rewrite(folder: Path, name: str, column: np.ndarray) -> None:
    """Writes a whole column, so that the file is never seen half done."""
    folder.mkdir(exist_ok=True)
    draft = folder / f".{name}.new"
    draft.unlink(missing_ok=True)  # it may be a link
    with open(draft, "wb") as file:
        np.save(file, column)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / f"{name}.npy")


class Checksums:
    """The checksums of all columns, of which every full block is read once only."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._full: dict[tuple[str, int], int] = {}  # by name and first row

    def __call__(self, columns: Mapping[str, np.ndarray], step: int) -> dict[str, list[int]]:
        """Returns {name: [a CRC-32 for each block of the rows filled by global step `step`]}."""
        found = {}
        for _, phase, done in _begun(self._method, step):
            for name in phase.columns:
                column = _by_row(columns[name], phase)
                end = min(done * phase.batch_size, column.shape[0])
                found[name] = [
                    self._block(name, column, first, min(first + BLOCK, end))
                    for first in range(0, end, BLOCK)
                ]
        return found

    def _block(self, name: str, column: np.ndarray, first: int, end: int) -> int:
        known = self._full.get((name, first))
        if known is None:
            known = _checksum(column[first:end])
            if end - first == BLOCK:
                self._full[name, first] = known
        return known


def read(
    folder: Path,
    method: Method,
    step: int,
    *,
    seeds: int,
    size: int,
    checksums: Mapping[str, list[int]] | None = None,
) -> Found:
    """Reads the columns of every phase that was begun before global step `step`.

    Args:
        folder: holds a file for each column.
        method: whose phases fill them.
        step: of the checkpoint.
        seeds: S, of columns [S, N, ...].
        size: N, rows of the data.
        checksums: those in the checkpoint; None in one of an earlier version, which had none.
    """
    found = Found({}, {}, [])
    for index, phase, done in _begun(method, step):
        lead = (size,) if phase.shared else (seeds, size)
        bad: list[Span] = []
        for name, row in phase.columns.items():
            column, fault = _load(folder / f"{name}.npy", (*lead, *row.shape), row.dtype)
            end = min(done * phase.batch_size, size)
            spans = [(0, end)] if fault else []
            if not fault and checksums is not None:
                spans = _differing(_by_row(column, phase), end, checksums.get(name, []))
                rows = sum(last - first for first, last in spans)
                fault = f"{rows} rows have another checksum" if rows else ""
            if fault:
                found.faults.append(f"{folder.name}/{name}.npy: {fault}")
            found.columns[name] = column
            bad += spans
        if bad:
            batch = phase.batch_size
            steps = [(first // batch, min(-(-end // batch), done)) for first, end in bad]
            found.damaged[index] = _joined(steps)
    return found


def _begun(method: Method, step: int) -> list[tuple[int, Phase, int]]:
    """The phases that fill columns and were begun by `step`: (number, phase, steps done)."""
    begun, start = [], 0
    for index, phase in enumerate(method.phases):
        if start < step and phase.columns:
            begun.append((index, phase, min(step - start, phase.steps)))
        start += phase.steps
    return begun


def _load(path: Path, shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, str]:
    """Returns the column, or zeros and what is wrong with the file."""
    try:
        column = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return np.zeros(shape, dtype), "is missing"
    except (OSError, ValueError, EOFError) as error:
        return np.zeros(shape, dtype), " ".join(str(error).split()) or "cannot be read"
    if column.shape != shape or column.dtype != dtype:
        what = f"holds {column.dtype}{list(column.shape)}, not {np.dtype(dtype)}{list(shape)}"
        return np.zeros(shape, dtype), what
    return column, ""


def _by_row(column: np.ndarray, phase: Phase) -> np.ndarray:
    return column if phase.shared else column.swapaxes(0, 1)


def _differing(column: np.ndarray, end: int, checksums: list[int]) -> list[Span]:
    firsts = range(0, end, BLOCK)
    known = dict(zip(firsts, checksums, strict=False))
    spans = [(first, min(first + BLOCK, end)) for first in firsts]
    return [span for span in spans if _checksum(column[slice(*span)]) != known.get(span[0])]


def _checksum(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).data)


def _joined(spans: list[Span]) -> list[Span]:
    """The same numbers in as few spans as hold them."""
    joined: list[Span] = []
    for first, end in sorted(set(spans)):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined
