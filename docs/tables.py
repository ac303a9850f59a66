"""Writes the tables of the documents from the records in docs/results/.

    python docs/tables.py            # rewrites what stands between the markers
    python docs/tables.py --check    # changes nothing; exit status 1 if a table is not up to date

A document names a table between two comments:

    <!-- table: td3-family -->
    ...
    <!-- end -->

A file of docs/results/ holds `records` (one a measurement) and `tables`, each with one of two
layouts: `columns`, a list of [heading, field], shows every record as a row; `row`, `column` and
`columns` place the `value` of a record in the cell of its row and column. `select` takes records
out of other files instead of having its own.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
MARKED = re.compile(r"(<!-- table: ([-\w]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Record = Mapping[str, Any]


def pages() -> list[Path]:
    """The documents that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def files() -> dict[str, dict[str, Any]]:
    """Every file of results by its name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def shown(value: Any, *, signed: bool = False) -> str:
    """One cell: a score with its interval or seeds, a list, a number or a word.

    >>> shown({"mean": 38.0, "interval": [35.4, 42.2]})
    '38.0 (35.4 to 42.2)'
    >>> shown({"mean": 1.7, "interval": [-1.8, 6.3]}, signed=True)
    '+1.7 (-1.8 to 6.3)'
    >>> shown({"seeds": [47.1, 47.5]})
    '47.1, 47.5'
    >>> shown(50000), shown(0.0002), shown(None), shown("bdpo")
    ('50,000', '0.0002', '', 'bdpo')
    """
    if value is None:
        return ""
    if isinstance(value, dict) and "range" in value:
        return " to ".join(map(_number, value["range"]))
    if isinstance(value, dict):
        seeds = ", ".join(map(_score, value.get("seeds", ())))
        if "mean" not in value:
            return seeds
        sign = "+" if signed and value["mean"] >= 0 else ""
        inner = " to ".join(map(_score, value["interval"])) if "interval" in value else seeds
        return f"{sign}{_score(value['mean'])}" + (f" ({inner})" if inner else "")
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return value if isinstance(value, str) else _number(value)


def _score(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else repr(value)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without columns that are empty in every row."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [
        [head[i] for i in kept],
        ["---"] * len(kept),
        *([row[i] for i in kept] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def listed(records: Sequence[Record], layout: Mapping[str, Any]) -> str:
    """Every record as a row."""
    head = [heading for heading, _ in layout["columns"]]
    return markdown(head, [[shown(r.get(key)) for _, key in layout["columns"]] for r in records])


def crossed(records: Sequence[Record], layout: Mapping[str, Any]) -> str:
    """Rows by one field, columns by another. Variants (`settings`, `run`) are left out.

    Raises:
        ValueError: if two records claim one cell, or a column has no record.
    """
    row, column, value = layout["row"], layout["column"], layout["value"]
    cells: dict[tuple[Any, Any], Any] = {}
    for record in records:
        if "settings" in record or "run" in record or value not in record:
            continue
        place = (record[row], record[column])
        if place in cells:
            raise ValueError(f"two records for {place}")
        cells[place] = record[value]
    columns = [c if isinstance(c, list) else [c, str(c)] for c in layout["columns"]]
    if missing := [key for key, _ in columns if key not in {place[1] for place in cells}]:
        raise ValueError(f"no record for the columns {missing}")
    signed = layout.get("signed", False)
    rows = [
        [shown(key), *(shown(cells.get((key, each)), signed=signed) for each, _ in columns)]
        for key in dict.fromkeys(place[0] for place in cells)
    ]
    return markdown([layout["row_title"], *(heading for _, heading in columns)], rows)


def selected(source: Mapping[str, Any], known: Mapping[str, dict[str, Any]]) -> list[Record]:
    """The records of a file: its own, or those that its `select` takes from others.

    Raises:
        ValueError: if a selection does not find exactly one record.
    """
    if "select" not in source:
        return list(source["records"])
    found: list[Record] = []
    for each in source["select"]:
        hits = [
            record
            for record in known[each["from"]]["records"]
            if all(record.get(key) == value for key, value in each["where"].items())
        ]
        if len(hits) != 1:
            raise ValueError(f"{each} finds {len(hits)} records, not one")
        found.append({**hits[0], **each["set"]})
    return found


def runs(known: Mapping[str, dict[str, Any]]) -> str:
    """What was measured, a line for each file."""
    head = ["record", "what", "seeds", "time"]
    sources = [(name, source) for name, source in known.items() if "records" in source]
    return markdown(
        head,
        [
            [f"`{name}.json`", source["title"], shown(source.get("seeds")), source.get("time", "")]
            for name, source in sources
        ],
    )


def floors() -> dict[str, set[str]]:
    """Who may import whom, read off tests/test_architecture.py without running it."""
    for node in ast.parse((ROOT / "tests" / "test_architecture.py").read_text()).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        if isinstance(node.target, ast.Name) and node.target.id == "FLOORS":
            names = [ast.literal_eval(key) for key in node.value.keys if key is not None]
            return dict(zip(names, map(_names, node.value.values), strict=True))
    raise ValueError("tests/test_architecture.py has no FLOORS")


def _names(value: ast.expr) -> set[str]:
    """Every text in an expression such as {"ops", *("types", "nets")}."""
    return {str(each.value) for each in ast.walk(value) if isinstance(each, ast.Constant)}


def parts() -> str:
    """The parts of the package: what each is, by its docstring, and what it may import."""
    rows = []
    for name, below in floors().items():
        path = ROOT / "jaxrl_prefs" / name
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        about = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        allowed = ", ".join(f"`{each}`" for each in sorted(below)) or "nothing of ours"
        rows.append([f"`{name}`", about, allowed])
    return markdown(["part", "what it is", "may import"], rows)


def tables() -> Iterator[tuple[str, str]]:
    """Every table by its name."""
    known = files()
    yield "runs", runs(known)
    yield "parts", parts()
    for source in known.values():
        for name, layout in source.get("tables", {}).items():
            records = selected(source, known)
            yield name, (crossed if "row" in layout else listed)(records, layout)


def filled(text: str, made: Mapping[str, str]) -> str:
    """The text of a document with its tables put in.

    Raises:
        ValueError: if it names a table that there is not.
    """
    names = {match[1] for match in MARKED.findall(text)}
    if unknown := names - made.keys():
        raise ValueError(f"no table {sorted(unknown)}; there are {', '.join(sorted(made))}")
    return MARKED.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n{found[3]}", text)


def main(argv: Sequence[str]) -> int:
    """Writes or checks all tables; returns the exit status."""
    made, old = dict(tables()), []
    for page in pages():
        text = page.read_text()
        if (new := filled(text, made)) != text:
            old.append(str(page.relative_to(ROOT)))
            if "--check" not in argv:
                page.write_text(new)
    if old:
        print(("not up to date: " if "--check" in argv else "written: ") + ", ".join(old))
    return 1 if old and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
