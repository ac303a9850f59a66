"""Tables on a screen, and in a pipe.

A terminal gets frames, as wide as it is: columns that do not fit go on below, beside the first
columns again, so that a row stays a row. A pipe or a file gets plain text, one row a line, never
cut: `jaxrl-prefs data list | grep hopper` finds whole names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 100_000  # columns of a screen that never wraps
FRAME = 3  # characters that a column of a framed table takes beside its text


def plain(table: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows as lines of text, the first `left` columns set to the left and the others to the right.

    A cell of several lines makes a row of several lines.

    >>> plain([["dataset", "bc"], ["mine", "1.0"], ["yours", "22.0"]], 1)
    ['dataset    bc', 'mine      1.0', 'yours    22.0']
    """
    rows = [[cell.split("\n") for cell in row] for row in table]
    columns = zip(*rows, strict=True)
    widths = [max(len(line) for cell in column for line in cell) for column in columns]
    lines = []
    for row in rows:
        for place in range(max(map(len, row))):
            cells = [cell[place] if place < len(cell) else "" for cell in row]
            pairs = enumerate(zip(cells, widths, strict=True))
            padded = [x.ljust(width) if n < left else x.rjust(width) for n, (x, width) in pairs]
            lines.append("  ".join(padded).rstrip())
    return lines


def folded(
    table: Sequence[Sequence[str]], width: int, first: int = 1
) -> list[Sequence[Sequence[str]]]:
    """A table as several, each no wider than `width` where its cells allow, one below the other.

    Each begins with the `first` columns, so that every row can be read in each.

    >>> folded([["dataset", "bc", "iql"], ["mine", "1.0", "2.0"]], 20)
    [[['dataset', 'bc'], ['mine', '1.0']], [['dataset', 'iql'], ['mine', '2.0']]]
    """
    widths = [
        FRAME + max(len(line) for row in table for line in row[place].split("\n"))
        for place in range(len(table[0]))
    ]
    lead, groups = sum(widths[:first]) + 1, list[list[int]]()
    for place in range(first, len(widths)):
        if groups and lead + sum(widths[x] for x in (*groups[-1], place)) <= width:
            groups[-1].append(place)
        else:
            groups.append([place])
    kept = list(range(first))
    return [[[row[x] for x in (*kept, *group)] for row in table] for group in groups or [[]]]


def show(
    console: Console,
    title: str,
    table: Sequence[Sequence[str]],
    *,
    left: int = 1,
    first: int = 1,
    caption: str = "",
    sections: Sequence[int] = (),
    header: bool = True,
) -> None:
    """Prints a table.

    Args:
        console: where to.
        title: the line above it; may be empty.
        table: its rows as text, the head first.
        left: so many columns hold words, set to the left.
        first: so many columns are repeated where the table is folded.
        caption: lines below it.
        sections: rows (the head is 0) before which a terminal shows a rule.
        header: whether the first row is a head.
    """
    if not console.is_terminal:
        above, below = ([text] if text else [] for text in (title, caption))
        for text in (*above, *plain(_spelled(console, table), left), *below):
            write(console, text)
        return
    parts = folded(table, console.width, first)
    for place, part in enumerate(parts):
        ends = (title if place == 0 else None, caption if place == len(parts) - 1 else None)
        cells = _spelled(console, part)
        console.print(framed(cells, left, *ends, sections=sections, header=header))


def framed(
    table: Sequence[Sequence[str]],
    left: int,
    title: str | None = None,
    caption: str | None = None,
    sections: Sequence[int] = (),
    header: bool = True,
) -> Table:
    """A table with a frame; the arguments are those of `show`."""
    head, *body = table if header else [[""] * len(table[0]), *table]
    above, below = (Text(text) if text else None for text in (title, caption))
    view = Table(title=above, caption=below, show_header=header)
    for place, name in enumerate(head):
        justify: Literal["left", "right"] = "left" if place < left else "right"
        view.add_column(Text(name), justify=justify, overflow="fold")  # names are to be copied
    for place, row in enumerate(body, 1):
        if place in sections:
            view.add_section()
        view.add_row(*map(Text, row))
    return view


def write(console: Console, text: str) -> None:
    """Prints text as it is: no colours, no markup, never wrapped."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _spelled(console: Console, table: Sequence[Sequence[str]]) -> list[list[str]]:
    """The table in characters that the console has."""
    if not console.options.ascii_only:
        return [list(row) for row in table]
    return [[cell.replace("±", "+-").replace("█", "#") for cell in row] for row in table]
