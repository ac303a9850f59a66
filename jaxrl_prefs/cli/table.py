"""One table from many runs.

    jaxrl-prefs table runs/compare --against=bc

Reads every result.json below the folders. A row is a dataset, a column the method of runs in their
usual folders (`runs/bc-pen-human-v0`), else the folder's name; a cell that nobody ran stays blank.
`--published` sets what papers printed beside ours, `--iqm` adds the interquartile mean over all
datasets with its stratified bootstrap interval. Scores are the last iterate's; `--last=10` takes
each seed's mean over its last ten evaluations, as TD3+BC's paper does. Of several policies the
headline is shown; `--policies` gives each a column, `arq/implicit`. Writes table.md, table.csv and
table.png beside the first folder's runs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import aggregate, figures, interval_plot, published, statistics, tables
from jaxrl_prefs.runs.workdir import EVALUATIONS, RESULT, Rows, read_json, usual, write_text

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
commandline.share(FLAGS, against="", last=1, policies=False)
flags.DEFINE_boolean("published", False, "also show what papers printed", **_OWN)
flags.DEFINE_boolean("iqm", False, "also show the interquartile mean over datasets", **_OWN)
commandline.share(FLAGS, help=False)

INTERVAL = "95 % bootstrap interval over seeds"

Cell = tuple[str, str]  # (dataset, column)


class Grid(NamedTuple):
    """Results by dataset and column, both in the order in which they were found."""

    datasets: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[Cell, Mapping[str, Any]]  # the contents of result.json
    last: int = 1  # how many evaluations a seed's score is the mean of


def collect(folders: Sequence[Path], columns: Sequence[str] = (), last: int = 1) -> Grid:
    """Reads the finished runs below `folders`.

    A column is named by the run's own folder, or by its method if that is called as usual.

    Args:
        folders: searched at any depth.
        columns: these first, in this order; others follow by name.
        last: a seed's score is its mean over so many evaluations, the last ones.

    Raises:
        ConfigError: if two runs claim the same cell, or one has fewer evaluations.
    """
    cells: dict[Cell, Mapping[str, Any]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob(RESULT)):
        result, column = finished(path.parent, last), path.parent.name
        if column == usual(result["algo"], result["dataset"]):
            column = result["algo"]
        cell = (result["dataset"], column)
        if cell in cells:
            raise ConfigError(f"two runs called {column!r} on {cell[0]}: one is {path.parent}")
        cells[cell] = result
    found = sorted({column for _, column in cells})
    first = [column for column in columns if column in found]
    return Grid(
        tuple(dict.fromkeys(dataset for dataset, _ in cells)),
        tuple(first + [column for column in found if column not in first]),
        cells,
        last,
    )


def finished(folder: Path, last: int = 1) -> dict[str, Any]:
    """A finished run's result.json, its scores means over the `last` evaluations.

    Raises:
        ConfigError: if there were fewer.
    """
    result: dict[str, Any] = read_json(folder / RESULT)
    played = result["policies"] or any(point["policies"] for point in result.get("points", ()))
    if last == 1 or not played:
        return result
    try:
        return statistics.late(result, Rows(folder / EVALUATIONS), last)
    except ValueError as error:
        raise ConfigError(f"--last: {folder} has {error}") from error


def by_policy(grid: Grid) -> Grid:
    """The grid with a column per policy: `arq/implicit`.

    A column of one policy keeps its name, and so does a run that was not evaluated.
    """
    several = {column for (_, column), result in grid.cells.items() if len(result["policies"]) > 1}
    cells: dict[Cell, Mapping[str, Any]] = {}
    for (dataset, column), result in grid.cells.items():
        policies = result["policies"] if column in several else {}
        for policy, entry in policies.items():
            cells[dataset, f"{column}/{policy}"] = {**result, **entry, "headline": policy}
        if not policies:
            cells[dataset, column] = result
    names = dict.fromkeys(column for _, column in cells)
    places = {column: place for place, column in enumerate(grid.columns)}
    ordered = sorted(names, key=lambda name: places[name.partition("/")[0]])
    return grid._replace(columns=tuple(ordered), cells=cells)


def headline(result: Mapping[str, Any] | None) -> str:
    """`51.2 (49.0 to 53.1)`: the headline policy's mean score and its interval over seeds."""
    if result is None:
        return ""
    return "not evaluated" if result["score_mean"] is None else score(result)


def score(entry: Mapping[str, Any] | None) -> str:
    """A mean score with its interval: of a result, or of one of its policies; blank without one."""
    if not entry:
        return ""
    known = entry["score_mean"] is not None
    return _with_interval(entry["score_mean"], entry["score_ci"]) if known else "no score"


def difference(result: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> str:
    """The mean of the seeds' differences to `base`, with a paired bootstrap interval.

    Blank where one of them is missing or they trained other seeds.
    """
    if result is None or base is None or result["seeds"] != base["seeds"] or not base["scores"]:
        return ""
    pairs = zip(result["scores"], base["scores"], strict=True)
    gaps = np.array([mine - theirs for mine, theirs in pairs if None not in (mine, theirs)])
    if not len(gaps):
        return ""
    return _with_interval(float(gaps.mean()), statistics.interval(gaps.tolist()), sign="+")


def _with_interval(mean: float, bounds: Sequence[float] | None, sign: str = "") -> str:
    text = f"{mean:{sign}.1f}"
    if bounds is None:
        return text
    return f"{text} ({bounds[0]:{sign}.1f} to {bounds[1]:{sign}.1f})"


def rows(grid: Grid, against: str = "") -> list[list[str]]:
    """The table as text, its head first: dataset, the data's own score, a column each.

    Raises:
        ConfigError: if there is no column `against`.
    """
    if against and against not in grid.columns:
        raise ConfigError(f"no column {against!r}; there are {', '.join(grid.columns)}")
    head = ["dataset", "data", *grid.columns]
    body = []
    for dataset in grid.datasets:
        results = [grid.cells.get((dataset, column)) for column in grid.columns]
        data_score = next(result["data_score"] for result in results if result)
        base = grid.cells.get((dataset, against))
        cells = [difference(r, base) if against else headline(r) for r in results]
        body.append([dataset, f"{data_score:.1f}", *cells])
    return [head, *body]


def printed(grid: Grid) -> list[list[str]]:
    """What papers printed of the grid's datasets, as text, its head first; no rows if nothing."""
    found = {dataset: published.beside(dataset) for dataset in grid.datasets}
    columns = [name for name in published.PUBLISHED if any(name in row for row in found.values())]
    body = [
        [dataset, *(_printed(row.get(column)) for column in columns)]
        for dataset, row in found.items()
        if row
    ]
    return [["dataset", *columns], *body]


def _printed(score: published.Score | None) -> str:
    if score is None:
        return ""
    mean, deviation = score
    return f"{mean:g}" if deviation is None else f"{mean:g} ± {deviation:g}"


def matrices(grid: Grid) -> dict[str, np.ndarray]:
    """Scores [seeds, datasets] of every column that has all datasets with one number of seeds."""
    found = {}
    for column in grid.columns:
        scores = [grid.cells.get((name, column), {}).get("scores") for name in grid.datasets]
        if (
            all(row and None not in row for row in scores)
            and len({len(row) for row in scores if row}) == 1
        ):
            found[column] = np.array(scores, float).T
    return found


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|---" * len(table[0]) + "|")
    return "\n".join(lines) + "\n"


def comma_separated(grid: Grid) -> str:
    """Every seed's score as CSV: dataset, column, seed, score, and what the score is."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["dataset", "column", "seed", "score", "kind"])
    for (dataset, column), result in grid.cells.items():
        for seed, score in zip(result["seeds"], result["scores"], strict=False):
            out.writerow([dataset, column, seed, score, result["score_kind"]])
    return text.getvalue()


Titled = tuple[str, Sequence[Sequence[str]]]


def publish(grid: Grid, folder: Path, console: Console, more: Sequence[Titled] = ()) -> None:
    """Prints the tables, and writes table.md, table.csv and table.png to `folder`.

    Args:
        grid: what is shown first.
        folder: where the files go.
        console: where the tables go.
        more: further tables, each with its title.
    """
    shown: list[Titled] = [(f"score{mean_of(grid.last)}, {INTERVAL}", rows(grid))]
    shown += [(title, table) for title, table in more if len(table) > 1]
    empty = [title for title, table in more if len(table) == 1]
    for title, each in shown:
        tables.show(console, title, each)
    for title in empty:
        console.print(f"nothing to show of these runs: {title}")
    text = "\n".join(f"{title}:\n\n{markdown(table)}" for title, table in shown)
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", comma_separated(grid))
    _draw(grid, folder / "table.png")


def _draw(grid: Grid, path: Path) -> None:
    """The picture of the scores."""
    shown = {cell: x for cell, x in grid.cells.items() if x["score_mean"] is not None}
    if not shown:
        return
    kinds = dict.fromkeys(result["score_kind"] for result in shown.values())
    counts = sorted({len(result["seeds"]) for result in shown.values()})
    seeds = " or ".join(map(str, counts))
    bars = f"mean and 95 % interval over {seeds} seeds (bars: each seed, where there are two)"
    interval_plot.draw(
        path,
        grid.datasets,
        grid.columns,
        {cell: (result["score_mean"], result["score_ci"]) for cell, result in shown.items()},
        scores={cell: statistics.known(result["scores"]) for cell, result in shown.items()},
        data_scores={dataset: result["data_score"] for (dataset, _), result in shown.items()},
        label=" or ".join(figures.score_label(kind) for kind in kinds) + mean_of(grid.last),
        title=f"{figures.joined(grid.columns)} on {figures.joined(grid.datasets, 2)}\n{bars}",
    )


def mean_of(last: int) -> str:
    """What a title says of scores that are means over so many evaluations."""
    return f", mean of its last {last} evaluations" if last > 1 else ""


def extras(grid: Grid, against: str = "", papers: bool = False, iqm: bool = False) -> list[Titled]:
    """The tables that were asked for besides the scores.

    Raises:
        ConfigError: if there is no column `against`, or rliable is missing.
    """
    found: list[Titled] = []
    if against:
        found.append((f"seed by seed, less {against}", rows(grid, against)))
    if papers:
        found.append(("what papers printed: other code, their seeds and episodes", printed(grid)))
    if iqm:
        found.append((aggregate.TITLE, aggregate.rows(matrices(grid), len(grid.datasets))))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use."""
    console = commandline.console()
    try:
        folders = commandline.words(FLAGS, argv)
        if FLAGS.help:
            tables.write(console, commandline.usage(__doc__, FLAGS, argv))
            return 0
        paths = [Path(folder) for folder in folders]
        grid = collect(paths, last=FLAGS.last)
        if not grid.cells:
            raise ConfigError(f"no finished run below {' '.join(folders) or 'no folder'}")
        if FLAGS.policies:
            grid = by_policy(grid)
        more = extras(grid, FLAGS.against, FLAGS.published, FLAGS.iqm)
        publish(grid, paths[0], console, more)
        return 0
    except (flags.Error, ConfigError) as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    except OSError as error:
        return commandline.fail(str(error), commandline.FAILED)
