"""Keeps the columns that a phase fills: on disk row by row, beside the checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaxrl_prefs.method import Method
from jaxrl_prefs.training.loop import LogPoint


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


def read(folder: Path, method: Method, step: int) -> dict[str, np.ndarray]:
    """Reads the columns of every phase that was begun before global step `step`."""
    begun, start = [], 0
    for phase in method.phases:
        if start < step:
            begun += list(phase.columns)
        start += phase.steps
    return {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in begun}
