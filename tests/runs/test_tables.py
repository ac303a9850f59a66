"""Tables on a terminal and in a pipe."""

from __future__ import annotations

import io

from rich.console import Console

from jaxrl_prefs.runs import tables

TABLE = [
    ["dataset", "algo", "actor\nargmax Q", "behavior"],
    ["a/very/long/name/of/a/dataset-v0", "bc", "1.0 (0.5 to 1.5)", "-20.0 (-21.0 to -19.0)"],
    ["b [bold]/x-v0", "td3_bc", "", "3.0"],
]


def shown(width: int, *, terminal: bool) -> list[str]:
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=terminal, color_system=None)
    tables.show(console, "scores", TABLE, left=2, first=2, caption="of five seeds")
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_a_pipe_gets_one_row_a_line() -> None:
    for width in (20, tables.WIDE):
        assert shown(width, terminal=False) == [
            "scores",
            "dataset                           algo               actor                behavior",
            "                                                  argmax Q",
            "a/very/long/name/of/a/dataset-v0  bc      1.0 (0.5 to 1.5)  -20.0 (-21.0 to -19.0)",
            "b [bold]/x-v0                     td3_bc                                       3.0",
            "of five seeds",
        ]


def test_a_terminal_gets_columns_below_each_other_where_they_do_not_fit() -> None:
    (whole,) = (shown(120, terminal=True),)
    assert sum("dataset" in line and "algo" in line for line in whole) == 1
    narrow = shown(70, terminal=True)
    heads = [line for line in narrow if "dataset" in line and "algo" in line]
    assert ["argmax Q" in line for line in heads] == [True, False]
    assert ["behavior" in line for line in heads] == [False, True]
    assert max(map(len, narrow)) <= 70
    assert sum("b [bold]/x-v0" in line for line in narrow) == 2  # each row in both parts
    # Narrower than a single column: it is folded within, the row stays a row.
    assert max(map(len, shown(40, terminal=True))) <= 40


def test_headless_rows() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=60, force_terminal=True, no_color=True)
    tables.show(console, "", [["family", "x"], ["episodes", "5"]], left=2, header=False)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 4 and "family" in lines[1] and "episodes" in lines[2]
