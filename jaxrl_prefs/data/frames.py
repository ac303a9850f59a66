"""Columns of tables of pandas, polars and Arrow, and of dicts, as numpy arrays.

None of these packages is imported: a table brings its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxrl_prefs.errors import DataError


def columns(name: str, frame: Any) -> dict[str, np.ndarray]:
    """The columns of a table by name, numbers or text; lists become [N, D].

    Raises:
      DataError: if it is no such table, a name comes twice, or lists differ in length.
    """
    if isinstance(frame, Mapping):
        parts: Iterable[tuple[Any, Any]] = frame.items()
    elif hasattr(frame, "column_names"):  # Arrow
        return arrow(name, frame)
    elif hasattr(frame, "get_columns"):  # polars
        parts = ((each.name, each) for each in frame.get_columns())
    elif hasattr(frame, "iloc") and hasattr(frame, "columns"):  # pandas
        parts = ((key, frame.iloc[:, place]) for place, key in enumerate(frame.columns))
    else:
        raise DataError(
            f"{name}: a table of pandas, polars or Arrow, or a dict of columns, is needed, and got "
            f"{type(frame).__name__}"
        )
    found: dict[str, np.ndarray] = {}
    for key, values in parts:
        label = ".".join(map(str, key)) if isinstance(key, tuple) else str(key)
        if label in found:
            raise DataError(f"{name}: two columns are called {label!r}")
        found[label] = column(f"{name}: {label}", _values(values))
    return found


def _values(values: Any) -> Any:
    if hasattr(values, "to_list") and "list" in str(getattr(values, "dtype", "")).lower():
        return values.to_list()  # polars' lists and arrays
    return values.to_numpy() if hasattr(values, "to_numpy") else values


def column(place: str, values: Any) -> np.ndarray:
    """A column as an array; what is missing is NaN, and text stays text.

    Raises:
      DataError: if rows hold lists of different lengths, or something else than numbers and text.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(len(values), object)
        array[:] = list(values)
    if array.dtype.kind == "O":
        array = _objects(place, array)
    if array.dtype.kind in "Mm":
        return _seconds(array)
    if array.dtype.kind not in "biufUS":
        raise DataError(f"{place} holds neither numbers nor text but {array.dtype}")
    return array


def _objects(place: str, array: np.ndarray) -> np.ndarray:
    """An array of Python's objects as one of numbers or text."""
    if array.ndim > 1:
        raise DataError(f"{place} holds tables of objects")
    present = [each for each in array if each is not None]
    if all(isinstance(each, str | float) for each in present) and any(
        isinstance(each, str) for each in present
    ):
        return np.asarray(["" if each is None else str(each) for each in array])
    missing = float("nan")
    if any(isinstance(each, list | tuple | np.ndarray) for each in present):
        return _lists(place, [missing if each is None else each for each in array])
    try:
        return np.asarray([missing if each is None else each for each in array], np.float64)
    except (TypeError, ValueError):
        kinds = sorted({type(each).__name__ for each in present})
        raise DataError(f"{place} holds neither numbers nor text but {', '.join(kinds)}") from None


def _lists(place: str, rows: list[Any]) -> np.ndarray:
    """Rows of lists as [N, D]; a row that is missing is NaN all over."""
    sizes = [np.shape(row) for row in rows if np.ndim(row)]
    for row, each in enumerate(rows):
        if np.ndim(each) and np.shape(each) != sizes[0]:
            raise DataError(
                f"{place} holds lists of different lengths: {np.shape(each)} at row {row}, "
                f"{sizes[0]} before"
            )
    nothing = np.full(sizes[0], np.nan)
    whole = [each if np.ndim(each) else nothing for each in rows]
    try:
        return np.asarray(
            [
                [np.nan if number is None else number for number in each]
                if isinstance(each, list)
                else each
                for each in whole
            ],
            None if all(isinstance(each, np.ndarray) for each in whole) else np.float64,
        )
    except (TypeError, ValueError):
        raise DataError(f"{place} holds lists of something else than numbers") from None


def _seconds(array: np.ndarray) -> np.ndarray:
    """Dates and durations as seconds; a missing one is NaN."""
    whole = array.astype("M8[us]" if array.dtype.kind == "M" else "m8[us]")
    return np.where(np.isnat(whole), np.nan, whole.astype(np.int64) / 1e6)


# --- Arrow ----------------------------------------------------------------------------------------


def arrow(name: str, table: Any) -> dict[str, np.ndarray]:
    """The columns of an Arrow table, structs by their fields (`obs.x`), images as bytes.

    Raises:
      DataError: as `columns`, and naming a column of another type.
    """
    import pyarrow as pa

    found: dict[str, np.ndarray] = {}
    while any(pa.types.is_struct(field.type) for field in table.schema):
        for field in table.schema:
            if _is_encoded(field.type):
                found[field.name] = _bytes(table.column(field.name))
                table = table.drop_columns([field.name])
        table = table.flatten()
    for label, chunked in zip(table.column_names, table.columns, strict=True):
        if label in found:
            raise DataError(f"{name}: two columns are called {label!r}")
        found[label] = _arrow_column(f"{name}: {label}", chunked)
    return found


def _is_encoded(kind: Any) -> bool:
    """Whether an Arrow type is that of an encoded image: a struct of bytes and a path, or bytes."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_encoded(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _bytes(chunked: Any) -> np.ndarray:
    """Encoded images as an array [N] of bytes; None where there is none."""
    import pyarrow as pa

    if pa.types.is_struct(chunked.type):
        chunked = pa.chunked_array(
            [part.field("bytes") for part in chunked.chunks], chunked.type.field("bytes").type
        )
    found = np.empty(len(chunked), object)
    found[:] = chunked.to_pylist()
    return found


def is_image(kind: Any) -> bool:
    """Whether an Arrow type holds encoded images: bytes, alone or in a struct with a path."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(is_image(kind.field(place).type) for place in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _arrow_column(place: str, chunked: Any) -> np.ndarray:
    import pyarrow as pa

    kind = chunked.type
    if _is_encoded(kind):
        return _bytes(chunked)
    if isinstance(kind, pa.BaseExtensionType):
        chunked = pa.chunked_array([part.storage for part in chunked.chunks], kind.storage_type)
        kind = chunked.type
    if pa.types.is_dictionary(kind):
        chunked = chunked.cast(kind.value_type)
        kind = chunked.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _arrow_lists(place, chunked)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(["" if each is None else each for each in chunked.to_pylist()], "U")
    if pa.types.is_null(kind):
        return np.full(len(chunked), np.nan)
    if pa.types.is_temporal(kind):
        return column(place, chunked.to_numpy())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        if pa.types.is_decimal(kind):
            return np.asarray(chunked.cast(pa.float64()).to_numpy(), np.float64)
        raise DataError(f"{place} holds neither numbers nor text but {kind}")
    if chunked.null_count:
        return np.asarray(chunked.cast(pa.float64()).to_numpy(), np.float64)
    return np.asarray(chunked.to_numpy())


def _arrow_lists(place: str, chunked: Any) -> np.ndarray:
    """Lists of one length, also of lists, as [N, D, ...]."""
    import pyarrow as pa

    whole = chunked.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of several chunks that are too large for one
        whole = pa.concat_arrays(whole.chunks)
    rows = len(whole)
    if pa.types.is_fixed_size_list(whole.type):
        size = whole.type.list_size
        if whole.null_count:
            return column(place, whole.to_pylist())
        values = whole.flatten()
    else:
        if whole.null_count:
            return column(place, whole.to_pylist())
        sizes = np.asarray(whole.value_lengths())
        size = int(sizes[0]) if rows else 0
        if rows and (sizes != size).any():
            row = int(np.argmax(sizes != size))
            raise DataError(
                f"{place} holds lists of different lengths: {sizes[row]} at row {row}, {size} "
                "before"
            )
        values = whole.flatten()
    inner = _arrow_column(place, pa.chunked_array([values]))
    return inner.reshape(rows, size, *inner.shape[1:])
