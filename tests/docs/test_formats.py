"""The examples of docs/formats.md run as they stand, and load what they write."""

from __future__ import annotations

import gc
import re
import warnings
from pathlib import Path

import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, columns

PAGE = (Path(__file__).parents[2] / "docs/formats.md").read_text()
EXAMPLES = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_format_has_an_example() -> None:
    assert len(EXAMPLES) == PAGE.count("```python")
    assert len({title for title, _ in EXAMPLES}) == len(EXAMPLES) >= 10
    assert all(len(code.strip().splitlines()) <= 17 for _, code in EXAMPLES)


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_an_example(title: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pandas", "pyarrow"):
        if f"import {package}" in code or title == "LeRobot":
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author
        exec(code, names)
        found = names.get("same", names.get("data")) or data.load("mine/pendulum-v0")
        names.clear()
        gc.collect()  # Minari's collector leaves a folder for the interpreter to remove
    assert isinstance(found, Dataset) and found.size > 0
    data.prepare(found, data.Processing())


def test_the_page_lists_the_names_that_are_found() -> None:
    table = PAGE.partition("## Tables")[2].partition("An observation or an action is")[0]
    told = set(re.findall(r"`([\w.]+)`", table))
    known = {
        *columns.OBSERVATION,
        *columns.ACTION,
        *columns.REWARD,
        *columns.TERMINAL,
        *columns.TIMEOUT,
        *columns.DONE,
        *columns.EPISODE,
        *columns.FOLLOWING,
        *columns.TIME,
        *columns.STEP,
    }
    assert told - known == {"bc", "ibc"}
    assert {*columns.OBSERVATION, *columns.ACTION, *columns.REWARD} <= told
