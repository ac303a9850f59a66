"""Tables of the documents agree with the records that they are made from."""

from __future__ import annotations

import doctest
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs import plots, tables

FIELDS = ("title", "budget", "protocol", "machine", "versions", "kept")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return dict(tables.tables())


@pytest.mark.parametrize(
    "page", tables.pages(), ids=lambda page: str(page.relative_to(tables.ROOT))
)
def test_a_document_and_its_data_agree(page: Path, made: dict[str, str]) -> None:
    text = page.read_text()
    assert tables.filled(text, made) == text, "run: python docs/tables.py"


def test_a_changed_number_is_found(made: dict[str, str]) -> None:
    text = "<!-- table: overview-pendulum -->\n<!-- end -->\n"
    written = tables.filled(text, made)
    assert "102.0 (101.9 to 102.0)" in written
    assert tables.filled(written, made) == written
    assert tables.filled(written.replace("102.0 (", "103.0 ("), made) == written
    with pytest.raises(ValueError, match="no table"):
        tables.filled(text.replace("overview", "other"), made)


def test_every_table_is_shown_somewhere(made: dict[str, str]) -> None:
    """A table that no document names is a layout that nobody has looked at."""
    named = {
        match[1] for page in tables.pages() for match in tables.MARKED.findall(page.read_text())
    }
    assert named == made.keys()


@pytest.mark.parametrize("name", tables.files())
def test_a_file_says_how_it_was_measured(name: str) -> None:
    source = tables.files()[name]
    if "select" in source:
        return
    missing = [field for field in FIELDS if field not in source and field != "budget"]
    assert not missing
    assert source["records"]
    assert isinstance(source["commands"], list)


def scores(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        own = [value] if "mean" in value else []
        return own + [each for inner in value.values() for each in scores(inner)]
    return [each for inner in value for each in scores(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", tables.files())
def test_means_agree_with_seeds_and_intervals(name: str) -> None:
    for each in scores(tables.files()[name]):
        if "interval" in each:
            low, high = each["interval"]
            assert low <= each["mean"] <= high
        if "seeds" in each:  # both rounded to a tenth
            assert np.mean(each["seeds"]) == pytest.approx(each["mean"], abs=0.11)


def test_a_cell_has_one_record() -> None:
    layout = {"row": "a", "row_title": "a", "column": "b", "columns": [1, 2], "value": "x"}
    records = [{"a": "r", "b": 1, "x": 3.0}, {"a": "r", "b": 2, "x": 4}]
    assert (
        tables.crossed(records, layout) == "| a | 1 | 2 |\n| --- | --- | --- |\n| r | 3.0 | 4 |\n"
    )
    with pytest.raises(ValueError, match="two records"):
        tables.crossed([*records, records[0]], layout)
    with pytest.raises(ValueError, match="no record for the columns"):
        tables.crossed(records[:1], layout)


def test_examples_of_the_generator() -> None:
    assert doctest.testmod(tables).failed == 0


def test_the_parts_are_those_of_the_import_rules() -> None:
    spec = importlib.util.spec_from_file_location(
        "rules", tables.ROOT / "tests" / "test_architecture.py"
    )
    assert spec is not None and spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    sys.modules["rules"] = rules
    spec.loader.exec_module(rules)
    assert tables.floors() == rules.FLOORS


PICTURES = [*plots.plots()]


@pytest.mark.parametrize("name, layout, records", PICTURES, ids=[each[0] for each in PICTURES])
def test_pictures_show_the_records(
    name: str, layout: dict[str, Any], records: list[tables.Record]
) -> None:
    from PIL import Image

    with Image.open(plots.FIGURES / f"{name}.png") as picture:
        shown = picture.info.get(plots.KEY)
    assert shown == plots.digest(layout, records), "run: python -m docs.plots"
    assert len(records) > 1
    assert all(field in records[-1] for _, field in layout["values"])
