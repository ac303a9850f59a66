"""Figures for Plotly, as JSON: what is drawn, without the colours of the page around it."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.page.parts import Curves, Intervals, Line, Number

# The colours of Okabe and Ito that are visible on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
MOST = 1000  # longer lines are thinned to at most this many points
TALL, LOW, ROW = 400, 200, 34  # pixels of a large plot, of a small one, and of an interval


def javascript() -> str:
    """Plotly's JavaScript.

    Raises:
        ConfigError: if the package plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError(
            "a page needs the package plotly: pip install 'jaxrl_prefs[report]'"
        ) from error
    return str(get_plotlyjs())


def figure(part: Curves | Intervals) -> str:
    """A plot as JSON that may stand inside of an HTML element."""
    built = _curves(part) if isinstance(part, Curves) else _intervals(part)
    return in_html(built)


def in_html(content: Any) -> str:
    """JSON in which no character can end the element around it."""
    text = json.dumps(content, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _curves(part: Curves) -> dict[str, Any]:
    groups = list(part.groups) or list(dict.fromkeys(line.group for line in part.lines))
    traces = []
    for line in part.lines:
        beside = [each for each in part.lines if each.group == line.group]
        traces.append(_trace(line, groups.index(line.group), beside.index(line), len(groups)))
    height = TALL if part.large else LOW
    return {"data": traces, "layout": _layout(part, height, "y")}


def _trace(line: Line, group: int, place: int, groups: int) -> dict[str, Any]:
    """A curve. Of one group, seeds differ by colour; of several, by their dashes."""
    number = place if groups == 1 else group
    every = -(-len(line.x) // MOST) or 1
    name = line.name if groups == 1 else f"{line.group}, {line.name}"
    xs, ys = _finite(line.x[::every]), _finite(line.y[::every])
    return {
        "type": "scatter",
        "mode": "lines" if len(xs) > 1 else "markers",
        "name": plain(name),
        "meta": [plain(line.group), plain(line.name)],  # the switches of the page
        "x": xs,
        "y": ys,
        "line": {
            "color": COLOURS[number % len(COLOURS)],
            "width": 1.8,
            "dash": "solid" if groups == 1 else DASHES[place % len(DASHES)],
        },
        "hovertemplate": "%{y:.4g} at %{x:,}<extra>%{fullData.name}</extra>",
    }


def _intervals(part: Intervals) -> dict[str, Any]:
    values = part.values[::-1]  # Plotly counts from below
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [each.value for each in values],
        "y": [plain(each.name) for each in values],
        "customdata": [[each.low, each.high] for each in values],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [each.high - each.value for each in values],
            "arrayminus": [each.value - each.low for each in values],
        },
        "marker": {"color": COLOURS[0], "size": 9},
        "hovertemplate": "%{x:.4g} (%{customdata[0]:.4g} to %{customdata[1]:.4g})"
        "<extra>%{y}</extra>",
        "showlegend": False,
    }
    layout = _layout(part, 90 + ROW * len(values), "x")
    layout["yaxis"] |= {"type": "category", "automargin": True, "title": {"text": ""}}
    return {"data": [trace], "layout": layout}


def _layout(part: Curves | Intervals, height: int, along: str) -> dict[str, Any]:
    y_title = part.y_title if isinstance(part, Curves) else ""
    is_small = isinstance(part, Curves) and not part.large
    x_title = "" if is_small else plain(part.x_title)
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "automargin": True}
    return {
        "height": height,
        "margin": {"l": 48, "r": 12, "t": 16, "b": 36},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "showlegend": not is_small,  # the page's switches are there
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "font": {"size": 11}},
        "xaxis": {**axis, "title": {"text": x_title, "font": {"size": 12}}},
        "yaxis": {**axis, "title": {"text": plain(y_title), "font": {"size": 12}}},
        "shapes": [_level(value, along) for _, value in part.levels],
        "annotations": [_named(name, value, along) for name, value in part.levels],
    }


def _level(value: float, along: str) -> dict[str, Any]:
    other = "x" if along == "y" else "y"
    return {
        "type": "line",
        f"{along}0": value,
        f"{along}1": value,
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"color": "gray", "width": 1, "dash": "dash"},
    }


def _named(name: str, value: float, along: str) -> dict[str, Any]:
    other = "x" if along == "y" else "y"
    end = {"xanchor": "right", "yanchor": "bottom"} if along == "y" else {"yanchor": "bottom"}
    return {
        "text": plain(name),
        along: value,
        f"{other}ref": "paper",
        other: 1,
        "showarrow": False,
        "font": {"size": 11},
        **end,
    }


def plain(text: str) -> str:
    """A text in which Plotly finds none of its own markup."""
    return html.escape(text, quote=False)


def _finite(values: Sequence[Number]) -> list[Number]:
    return [x if x is not None and math.isfinite(x) else None for x in values]
