"""Which rows of a run are missing: timings.jsonl says what the other files held.

The row of a log point in timings.jsonl is written last. It holds a checksum of the log point's rows
in each of the other files, a checksum of itself, and how many updates it counts, so that a row that
is missing leaves a gap. Rows of earlier versions hold neither checksum; of them only gaps show.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxrl_prefs.runs.workdir import EVALUATIONS, METRICS, TIMINGS, Rows

FILES = (METRICS, EVALUATIONS)


def sealed(row: Mapping[str, Any], rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict:
    """A row of timings.jsonl with its checksums.

    Args:
        row: what it says.
        rows: of the same log point, by the name of their file.
    """
    checksums = {name: zlib.crc32(Rows.text(each).encode()) for name, each in rows.items()}
    content = {**row, "checksums": checksums}
    return {**content, "checksum": _of(content)}


def _of(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _is_whole(row: Mapping[str, Any]) -> bool:
    content = {name: value for name, value in row.items() if name != "checksum"}
    return "checksum" not in row or row["checksum"] == _of(content)


def lost(folder: Path, until: int) -> dict[str, list[int]]:
    """The steps of log points up to `until` whose rows are damaged or missing, by file."""
    timings = [row for row in Rows(folder / TIMINGS) if row["step"] <= until and _is_whole(row)]
    found = {TIMINGS: _gaps(timings, until)}
    for name in FILES:
        here = _checksums(folder / name)
        found[name] = [
            row["step"]
            for row in timings
            if "checksums" in row and here.get(row["step"], 0) != row["checksums"].get(name, 0)
        ]
    return {name: steps for name, steps in found.items() if steps}


def complete(folder: Path, step: int) -> bool:
    """Whether all rows of the log point at `step` are there."""
    written = any(row["step"] == step and _is_whole(row) for row in Rows(folder / TIMINGS))
    return written and not any(step in steps for steps in lost(folder, step).values())


def describe(found: Mapping[str, list[int]]) -> str:
    """Says in a line what `lost` has found.

    >>> describe({"metrics.jsonl": [10, 20]})
    'damaged or missing rows: metrics.jsonl at step 10, 20'
    """
    parts = []
    for name, steps in found.items():
        more = f" and {len(steps) - 5} more" if len(steps) > 5 else ""
        parts.append(f"{name} at step {', '.join(map(str, steps[:5]))}{more}")
    return f"damaged or missing rows: {'; '.join(parts)}"


def _gaps(timings: Iterable[Mapping[str, Any]], until: int) -> list[int]:
    """The last steps of stretches of updates that no row counts."""
    gaps, reached = [], 0
    for row in timings:
        if row["step"] - row["updates"] > reached:
            gaps.append(row["step"] - row["updates"])
        reached = row["step"]
    return [*gaps, until] if reached < until else gaps


def _checksums(path: Path) -> dict[int, int]:
    """CRC-32 of the lines of every step."""
    found: dict[int, int] = {}
    for _, line, row in Rows(path).lines():
        if row is not None:
            found[row["step"]] = zlib.crc32(line, found.get(row["step"], 0))
    return found
