"""Reads text files of separated values (.csv, .tsv) as tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError

SEPARATORS = ",;\t"
WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


def read(path: Path) -> Table:
    """Reads a file whose first line names the columns.

    Values are separated by commas, semicolons or tabs. An empty cell, and one that is no number in
    a column of numbers, is a NaN; a column without any number is text. A cell may hold a list,
    `[0.1, 0.2]`.

    Raises:
      DataError: if there is no such file, it is no text, or rows differ in their number of cells.
    """
    container.check_exists(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        names, body, separator = _header(path, text)
        columns = _plain(names, body, separator)
        if columns is None:
            columns = _columns(path, names, body, separator)
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory") from fault
    except (UnicodeDecodeError, csv.Error, OSError) as fault:
        why = container.first_line(fault)
        raise DataError(f"{path} cannot be read as text of separated values: {why}") from fault
    return Table(str(path), columns)


def _header(path: Path, text: str) -> tuple[list[str], str, str]:
    """The names of the columns, the lines below them, and what separates values."""
    if "\0" in text:
        raise DataError(f"{path} is no text: it holds zero bytes")
    first, _, body = text.lstrip("\r\n").partition("\n")
    separator = max(SEPARATORS, key=first.count)
    names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    if not names or not all(names):
        raise DataError(f"{path}: the first line must name every column, and is {first[:60]!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are called {twice!r}")
    if all(_number(name) is not None for name in names):
        raise DataError(f"{path}: the first line holds numbers where the names of columns belong")
    if not body.strip():
        raise DataError(f"{path}: the dataset has no episodes: there are no rows")
    return names, body, separator


def _plain(names: Sequence[str], body: str, separator: str) -> dict[str, np.ndarray] | None:
    """The columns of a file with numbers in every cell, read at once; None if it is another."""
    try:
        found = np.loadtxt(io.StringIO(body), delimiter=separator, ndmin=2, comments=None)
    except ValueError:
        return None
    if found.shape[1] != len(names):
        return None
    return {name: found[:, place].copy() for place, name in enumerate(names)}


def _columns(path: Path, names: Sequence[str], body: str, separator: str) -> dict[str, np.ndarray]:
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator)
    rows, odd = [], []
    for row in reader:
        if not row:
            continue
        if len(row) != len(names):
            odd.append((reader.line_num + 1, len(row)))
        rows.append(row)
    if odd:
        line, cells = odd[0]
        raise DataError(
            f"{path}: {len(odd):,} of {len(rows):,} rows have another number of cells than the "
            f"{len(names)} columns; the first has {cells}, in line {line}"
        )
    whole = zip(*rows, strict=True)
    return {
        name: _column(f"{path}: {name}", cells) for name, cells in zip(names, whole, strict=True)
    }


def _column(place: str, cells: Sequence[str]) -> np.ndarray:
    """Numbers [N], lists of numbers [N, D], or text [N]."""
    stripped = [cell.strip() for cell in cells]
    if any(cell.startswith("[") for cell in stripped):
        return _lists(place, stripped)
    numbers = [_number(cell) for cell in stripped]
    if all(number is None for number in numbers) and any(stripped):
        return np.asarray(stripped)
    return np.asarray([np.nan if number is None else number for number in numbers])


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        if DECIMAL_COMMA.fullmatch(cell):
            return float(cell.replace(",", "."))
        return WORDS.get(cell.lower())


def _lists(place: str, cells: Sequence[str]) -> np.ndarray:
    rows = [
        [_number(part) for part in re.split(r"[,\s]+", cell[1:-1].strip()) if part]
        if cell.startswith("[") and cell.endswith("]")
        else []
        for cell in cells
    ]
    size = max(map(len, rows))
    for row, numbers in enumerate(rows):
        if len(numbers) not in (0, size):
            raise DataError(
                f"{place} holds lists of different lengths: {len(numbers)} at row {row}, elsewhere "
                f"{size}"
            )
    lost = [None] * size
    return np.asarray([numbers or lost for numbers in rows], np.float64)
