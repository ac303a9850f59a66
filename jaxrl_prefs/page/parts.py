"""What a page is made of. Every text is plain: it is escaped where it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Number = float | None  # None: not known, and not drawn


class Words(NamedTuple):
    """A paragraph."""

    text: str


class Rows(NamedTuple):
    """A table, its head first."""

    rows: Sequence[Sequence[str]]
    text_columns: int = 1  # leading columns, left-aligned
    notes: Sequence[str] = ()
    marked: frozenset[int] = frozenset()  # rows that call for a look, counted from the head, 0


class Line(NamedTuple):
    """One curve: of one seed, say."""

    group: str  # what curves of one colour have in common
    name: str  # what tells it from the others of its group
    x: Sequence[Number]
    y: Sequence[Number]


class Curves(NamedTuple):
    """Lines over the updates."""

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    levels: Sequence[tuple[str, float]] = ()  # horizontal lines, by name
    large: bool = False
    groups: Sequence[str] = ()  # of the page, in the order of their colours; empty: of `lines`


class Interval(NamedTuple):
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float


class Intervals(NamedTuple):
    """Values with their intervals, one below the other."""

    title: str
    x_title: str
    values: Sequence[Interval]
    levels: Sequence[tuple[str, float]] = ()


class Media(NamedTuple):
    """A picture or a video, put into the page."""

    kind: str  # of KINDS
    content: bytes
    caption: str


KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}

Part = Words | Rows | Curves | Intervals | Media


class Section(NamedTuple):
    """A headed part of the page."""

    title: str
    parts: Sequence[Part]
    folded: bool = False  # shown when asked for
