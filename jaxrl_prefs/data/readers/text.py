"""Reads text files of separated values (.csv, .tsv) as tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrl_prefs.data.columns import EPISODE, Table
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError

SEPARATORS = ",;\t"
WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
THOUSANDS = re.compile(r"[+-]?(?:\d+,\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?(?:[eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


def read(path: Path, episode_key: str = "") -> Table:
    """Reads a file whose first line names the columns.

    Values are separated by commas, semicolons or tabs. An empty cell, and one that is no number in
    a column of numbers, is a NaN; a column without any number is text. A cell may hold a list,
    `[0.1, 0.2]`. Names of episodes, of the column `episode_key` or of a usual name, stay text. A
    comma is a decimal one only where commas do not separate values.

    Raises:
      DataError: if there is no such file, it is no text, rows differ in their number of cells, or a
        comma within a number may be one of thousands.
    """
    container.check_exists(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        names, body, separator = _header(path, text)
        ids = {name for name in names if name.lower() in (*EPISODE, episode_key.lower())} - {""}
        columns = _plain(names, body, separator, ids)
        if columns is None:
            columns = _columns(path, names, body, separator, ids)
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory") from fault
    except (UnicodeDecodeError, csv.Error, OSError) as fault:
        why = container.first_line(fault)
        raise DataError(f"{path} cannot be read as text of separated values: {why}") from fault
    unnamed = columns.pop("", None) is not None
    notes = ("columns without a name are not used",) if unnamed else ()
    return Table(str(path), columns, notes=notes)


def _header(path: Path, text: str) -> tuple[list[str], str, str]:
    """The names of the columns, the lines below them, and what separates values."""
    if "\0" in text:
        raise DataError(f"{path} is no text: it holds zero bytes")
    first, _, body = text.lstrip("\r\n").partition("\n")
    separator = max(SEPARATORS, key=first.count)
    names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    # Other programs write the numbers of rows in front, or end every line with a separator.
    named = names[names[:1] == [""] :]
    while named and not named[-1]:
        named.pop()
    if not named or not all(named):
        raise DataError(f"{path}: the first line must name every column, and is {first[:60]!r}")
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"{path}: two columns are called {twice!r}")
    if all(_number(name) is not None for name in named):
        raise DataError(f"{path}: the first line holds numbers where the names of columns belong")
    return names, body, separator


def _plain(
    names: Sequence[str], body: str, separator: str, ids: set[str]
) -> dict[str, np.ndarray] | None:
    """The columns of a file with numbers in every cell, read at once; None if it is another."""
    if not body.strip():
        return {name: np.zeros(0) for name in names}
    try:
        found = np.loadtxt(io.StringIO(body), delimiter=separator, ndmin=2, comments=None)
    except ValueError:
        return None
    if found.shape[1] != len(names):
        return None
    columns = {name: found[:, place].copy() for place, name in enumerate(names)}
    for name in ids:
        text = np.loadtxt(
            io.StringIO(body), str, None, separator, usecols=names.index(name), ndmin=1
        )
        columns[name] = np.char.strip(text)
    return columns


def _columns(
    path: Path, names: Sequence[str], body: str, separator: str, ids: set[str]
) -> dict[str, np.ndarray]:
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
        name: _column(f"{path}: {name}", cells, separator, name in ids)
        for name, cells in zip(names, whole, strict=True)
    }


def _column(place: str, cells: Sequence[str], separator: str, is_id: bool) -> np.ndarray:
    """Numbers [N], lists of numbers [N, D], or text [N]."""
    stripped = [cell.strip() for cell in cells]
    if any(cell.startswith("[") for cell in stripped):
        return _lists(place, stripped)
    if is_id:
        return np.asarray(stripped)
    if separator == ",":
        row = next((row for row, cell in enumerate(stripped) if THOUSANDS.fullmatch(cell)), None)
        if row is not None:
            raise DataError(
                f"{place} is {stripped[row]!r} at row {row}, whose comma may mean decimals or "
                "thousands: write numbers without commas, as 1234 or 1.234"
            )
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
