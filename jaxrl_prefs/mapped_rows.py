"""Rows of arrays that are too large for memory: they stay in mapped files until they are drawn.

    rows = MappedRows((np.load("a.npy", mmap_mode="r"), np.load("b.npy", mmap_mode="r")))
    rows.kept(good).then(normalise).take([5, 99])  # reads two rows of the files

What would be copies of an array in memory (the rows that are kept, their successors, other units)
are here an index, a flag for each row and a function. They give the same bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

BLOCK = 2**16  # rows that a pass over all of them reads at a time: a few MB, which caches hold
EXACT_ROWS = 2**24  # as many ones have an exact sum in 32-bit floats
LARGEST_INT32 = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MappedRows:
    """Rows [N, D] of arrays laid end to end. To JAX it is one leaf, like the array it stands for.

    Indexing and `np.asarray` read rows into memory; `kept`, `following` and `then` read nothing.
    """

    parts: tuple[np.ndarray, ...]  # [M, D] each, of any type of numbers
    where: np.ndarray | None = None  # [N], which of their rows; None for all in order
    ahead: np.ndarray | None = None  # [N] bool, whether the row after it is meant
    only_ahead: bool = False  # zeros where `ahead` is False
    maps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()  # of gathered rows, to float32

    @property
    def shape(self) -> tuple[int, int]:
        """[N, D]."""
        count = sum(map(len, self.parts)) if self.where is None else len(self.where)
        return count, self.parts[0].shape[1]

    @property
    def ndim(self) -> int:
        """Two axes."""
        return 2

    @property
    def size(self) -> int:
        """N * D."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of the rows that `take` gives."""
        return np.dtype(np.float32) if self.maps else np.result_type(*self.parts)

    @property
    def nbytes(self) -> int:
        """What the rows would take in memory."""
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        """Its size: the rows themselves would be read."""
        return f"MappedRows({self.shape[0]:,} x {self.shape[1]}, {len(self.parts)} files)"

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def take(self, rows: Any) -> np.ndarray:
        """Reads rows [...]: [..., D]. A number beyond the last row means that one."""
        asked = np.asarray(rows)
        flat = np.clip(asked.reshape(-1), 0, len(self) - 1)
        source = flat if self.where is None else self.where[flat]
        goes_on = None if self.ahead is None else self.ahead[flat]
        found = self._read(source if goes_on is None else source + goes_on)
        for each in self.maps:
            found = each(found)
        if self.only_ahead and goes_on is not None:
            found = found * goes_on[:, None]
        return found.reshape(*asked.shape, found.shape[-1])

    def _read(self, source: np.ndarray) -> np.ndarray:
        """Rows of the arrays laid end to end."""
        if len(self.parts) == 1:
            return np.asarray(np.take(self.parts[0], source, axis=0))
        if (source[1:] < source[:-1]).any():
            order, back = ascending(source)
            return self._read(source[order])[back]
        starts = np.cumsum([0, *map(len, self.parts)])
        bounds = np.searchsorted(source, starts)
        found = np.empty((len(source), self.shape[1]), np.result_type(*self.parts))
        for part, start, first, stop in zip(
            self.parts, starts[:-1], bounds[:-1], bounds[1:], strict=True
        ):
            if stop > first:
                found[first:stop] = np.take(part, source[first:stop] - start, axis=0)
        return found

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Reads a row, a slice, or rows by number or bool, as of an array.

        Raises:
            IndexError: for a number that no row has, and bools of another shape than [N].
            TypeError: for any other index, also one of both axes.
        """
        if isinstance(rows, slice):
            return self.take(np.arange(*rows.indices(len(self))))
        chosen, count = (
            np.asarray(rows, int if isinstance(rows, list) and not rows else None),
            len(self),
        )
        if isinstance(rows, tuple) or chosen.dtype.kind not in "bui":
            raise TypeError(
                "rows of mapped files are taken by numbers, a slice or bools, not by "
                f"{type(rows).__name__} {rows!r}"
            )
        if chosen.dtype == bool:
            if chosen.shape != (count,):
                raise IndexError(f"bools of shape {chosen.shape} for {count:,} rows")
            return self.take(np.flatnonzero(chosen))
        if ((chosen < -count) | (chosen >= count)).any():
            raise IndexError(f"no such row among {count:,}: {rows}")
        return self.take(chosen % count)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory.

        Raises:
            ValueError: if no copy is allowed.
        """
        if copy is False:
            raise ValueError("rows of mapped files are in memory only as a copy")
        whole = np.empty(self.shape, dtype or self.dtype)
        for start, block in blocks(self):
            whole[start : start + len(block)] = block
        return whole

    def kept(self, rows: np.ndarray) -> MappedRows:
        """The rows `rows`, numbers or bool [N]."""
        chosen = row_numbers(rows) if rows.dtype == bool else rows
        where = chosen if self.where is None else self.where[chosen]
        kind = _of_numbers(sum(map(len, self.parts)))
        return dataclasses.replace(
            self,
            where=where.astype(kind, copy=False),
            ahead=None if self.ahead is None else self.ahead[chosen],
        )

    def numbers(self) -> np.ndarray:
        """Which rows of the arrays laid end to end these are, [N]."""
        return np.arange(len(self)) if self.where is None else self.where

    def following(self, ahead: np.ndarray, *, only: bool = False) -> MappedRows:
        """The row after each one in the files where `ahead` [N] is True, and itself elsewhere.

        `only` gives zeros elsewhere.

        Raises:
            ValueError: for rows that are already the ones after others.
        """
        if self.ahead is not None:
            raise ValueError("these rows are already those after others")
        return dataclasses.replace(self, ahead=ahead, only_ahead=only)

    def then(self, function: Callable[[np.ndarray], np.ndarray]) -> MappedRows:
        """The rows in other units; `function` takes [B, D] to as many float32."""
        return dataclasses.replace(self, maps=(*self.maps, function))


def is_mapped(rows: Any) -> TypeGuard[MappedRows]:
    """Whether what stands for an array [N, D] is in mapped files."""
    return isinstance(rows, MappedRows)


def blocks(rows: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of an array or of mapped files, some at a time, each with its first row's number."""
    for start in range(0, len(rows), BLOCK):
        yield start, rows[start : start + BLOCK]


def ascending(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts row numbers [n], in which files are read fastest, and the way back."""
    order = np.argsort(rows)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return order, back


def end_to_end(arrays: Sequence[Any]) -> Any:
    """Arrays [M, ...] one after the other; those in mapped files stay there.

    Raises:
        ValueError: for mapped rows that are not all in the same units.
    """
    if len(arrays) == 1:
        return arrays[0]
    if not all(is_mapped(each) for each in arrays):
        return np.concatenate(arrays)
    first, parts = arrays[0], tuple(part for each in arrays for part in each.parts)
    if any((each.maps, each.only_ahead) != (first.maps, first.only_ahead) for each in arrays):
        raise ValueError("parts in mapped files must be in the same units")
    where = ahead = None
    if any(each.where is not None for each in arrays):
        begins = np.cumsum([0, *(sum(map(len, each.parts)) for each in arrays)])
        kind = _of_numbers(int(begins[-1]))
        where = np.concatenate(
            [
                (each.numbers() + begin).astype(kind)
                for each, begin in zip(arrays, begins[:-1], strict=True)
            ]
        )
    if any(each.ahead is not None for each in arrays):
        # A part that has its successors in files of their own means those rows themselves.
        ahead = np.concatenate(
            [np.zeros(len(each), bool) if each.ahead is None else each.ahead for each in arrays]
        )
    return dataclasses.replace(first, parts=parts, where=where, ahead=ahead)


def row_numbers(keep: np.ndarray) -> np.ndarray:
    """The numbers of the rows `keep` [N] bool, for several arrays to share."""
    return np.arange(len(keep), dtype=_of_numbers(len(keep)))[keep]


def _of_numbers(rows: int) -> type[np.integer]:
    """The smaller type that can number so many rows."""
    return np.int32 if rows <= LARGEST_INT32 else np.int64


# --- Moments --------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Of rows [N, D]."""

    mean: np.ndarray  # [D]
    std: np.ndarray  # [D]


def moments(rows: Any, dtype: Any = None) -> Moments:
    """Mean and standard deviation of the rows of an array or of mapped files, computed as `dtype`.

    Both get the same bits where D > 1. By default the rows' own type is taken, but 64-bit floats
    beyond `EXACT_ROWS`, where a sum of 32-bit floats stops growing; the results are rounded to it.
    """
    if len(rows) > EXACT_ROWS and dtype is None:
        whole = rows if is_mapped(rows) else MappedRows((rows,))
        return Moments(*(each.astype(rows.dtype) for each in moments(whole, np.float64)))
    if not is_mapped(rows):
        return Moments(rows.mean(0, dtype=dtype), rows.std(0, dtype=dtype))
    mean = _averaged(rows, lambda block: block, dtype)
    return Moments(mean, np.sqrt(_averaged(rows, lambda block: np.square(block - mean), dtype)))


def _averaged(
    rows: MappedRows, of: Callable[[np.ndarray], np.ndarray], dtype: Any = None
) -> np.ndarray:
    """Adds one row after the other, as numpy does along the first of two axes."""
    room = np.zeros((BLOCK + 1, rows.shape[1]), dtype or rows.dtype)  # the sum, and a block
    for start, block in blocks(rows):
        end = 1 + len(block)
        room[1:end] = of(block.astype(room.dtype, copy=False))
        room[0] = np.add.reduce(room[0 if start else 1 : end], axis=0)
    return (room[0] / np.intp(len(rows))).astype(room.dtype)
