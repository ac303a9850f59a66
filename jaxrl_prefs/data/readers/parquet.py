"""Reads Parquet files as tables. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl_prefs.data import frames
from jaxrl_prefs.data.columns import Table, begins
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError


def read(path: Path, keys: Sequence[str] = (), only: Sequence[str] = ()) -> Table:
    """Reads all columns of numbers and text, and those of images that `keys` may mean.

    Without keys, all images are read; they stay encoded. Of the others, the names are kept. `only`
    names the columns to read, in place of all.

    Sizes are checked before anything is allocated, and checksums where the file has them.

    Raises:
      DataError: if there is no such file, it is no whole Parquet file, it lacks a column of `only`,
        or pyarrow is missing.
    """
    container.check_exists(path)
    pq = package()
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            images = [
                field.name
                for field in schema
                if frames.is_image(field.type) and not _wanted(field.name, keys)
            ]
            names = [field.name for field in schema if field.name not in images]
            if only:
                if missing := [name for name in only if name not in names]:
                    raise DataError(f"{path} lacks the column {missing[0]}")
                names = [name for name in names if name in only]
            declared = 8 * file.metadata.num_rows * max(1, file.metadata.num_columns)
            container.check_size(f"{path}: its table", declared, path.stat().st_size)
            found = file.read(columns=names if images or only else None)
            if found.column_names != names or found.num_rows != file.metadata.num_rows:
                raise DataError(f"{path} is damaged: it holds other columns or rows than it says")
            columns = frames.arrow(str(path), found)
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory") from fault
    except Exception as fault:  # pyarrow raises errors of any kind on a damaged file
        why = container.first_line(fault)
        raise DataError(f"{path} cannot be read, it was cut short or damaged: {why}") from fault
    return Table(str(path), columns, images=tuple(images))


def _wanted(name: str, keys: Sequence[str]) -> bool:
    meant = (begins(name, key) or begins(key, name) for key in keys)
    return not keys or any(meant)


def package() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
      DataError: naming what to install.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as fault:
        raise DataError(
            "Parquet files and LeRobot's datasets need the package pyarrow: "
            "pip install 'jaxrl_prefs[parquet]'"
        ) from fault
    return pq
