"""One table from many runs.

    jaxrl-prefs table runs/compare --against=bc

Reads every run below the folders. A row is a dataset, a column the method of runs in their usual
folders (`runs/bc-pen-human-v0`), else the folder's name; each point of a sweep has a column. Runs
of the same method, settings and data are pooled over their seeds. A cell that nobody ran stays
blank, and a run that is not finished says how far it is. `--published` also shows what papers
printed of the same data, told by their size and score, on OGBench by the name of the task, and
V-D4RL's own sets by their folders and size; `--iqm` adds the interquartile mean over all datasets
with its stratified bootstrap interval. Scores are the last iterate's; `--last=10` takes each seed's
mean over its last ten evaluations, as TD3+BC's paper does.
Of several policies the headline is shown; `--policies` gives each a column, `arq/implicit`. Writes
table.md, table.csv and table.png to --out, or to the first folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, launchers, pools, published_table
from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import aggregate, figures, interval_plot, statistics, tables
from jaxrl_prefs.runs.workdir import (
    ADDED,
    CONFIG,
    EVALUATIONS,
    RESULT,
    Rows,
    is_hidden,
    read_json,
    usual,
    write_text,
)

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
commandline.define_flags(FLAGS, against="", last=1, policies=False)
flags.DEFINE_boolean("published", False, "also show what papers printed", **_OWN)
flags.DEFINE_boolean("iqm", False, "also show the interquartile mean over datasets", **_OWN)
commandline.define_flags(FLAGS, out="", help=False)

INTERVAL = "95 % bootstrap interval over seeds"

NO_SCORE: dict[str, Any] = {"scores": [], "score_mean": None, "score_ci": None}
SWEEP, TOGETHER, DEFAULT = "sweep.json", "together", "default"  # names that a sweep gives

Cell = tuple[str, str]  # (dataset, column)


class Grid(NamedTuple):
    """Results by dataset and column, both in the order in which they were found."""

    datasets: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[Cell, Mapping[str, Any]]  # the contents of result.json
    last: int = 1  # how many evaluations a seed's score is the mean of


def collect(folders: Sequence[Path], columns: Sequence[str] = (), last: int = 1) -> Grid:
    """Reads the runs below `folders`; of one that is not finished, how far it is.

    A column is named by the run's own folder, or by its method if that is called as usual. A point
    of a sweep is named as a variant is: `td3_bc+alpha=2.5`.

    Args:
        folders: searched at any depth.
        columns: these first, in this order; others follow by name.
        last: a seed's score is its mean over so many evaluations, the last ones.

    Raises:
        ConfigError: if two runs claim the same cell, or one has fewer evaluations.
        WorkdirError: if a file is damaged.
    """
    entries = [
        pools.Entry(
            row_of(result["dataset"], str(result.get("env") or "")),
            column,
            result,
            place,
            pools.settings_of(place, result, last),
        )
        for place in _places(folders)
        for column, result in _columns(place, last)
    ]
    joined = pools.pooled(entries)
    cells = {(each.dataset, each.column): each.result for each in joined}
    found = sorted({column for _, column in cells})
    first = [column for column in columns if column in found]
    return Grid(
        tuple(dict.fromkeys(dataset for dataset, _ in cells)),
        tuple(first + [column for column in found if column not in first]),
        cells,
        last,
    )


def row_of(dataset: str, env_id: str = "") -> str:
    """The row of a run's results: the dataset, but of OGBench's data the single task.

    >>> row_of("there/scene-play-v0.npz", "scene-singletask-task4-v0")
    'scene-play-singletask-task4-v0'
    """
    return ogbench_names.single_task(dataset, env_id) or dataset


def _places(folders: Sequence[Path]) -> list[Path]:
    """The folders of all runs below `folders`, each once."""
    found = {
        path.parent.resolve(): path.parent
        for folder in folders
        for name in (RESULT, CONFIG)
        for path in sorted(folder.rglob(name))
        if not is_hidden(path, folder)
    }
    return sorted(found.values())


def adding(folders: Sequence[Path]) -> list[str]:
    """A line for each run to which seeds are being added."""
    return [
        f"{place}: seeds {', '.join(map(str, read_json(new / CONFIG)['run']['seeds']))} are being "
        f"added ({launchers.progress(new)})"
        for place in _places(folders)
        if ((new := place / ADDED) / CONFIG).exists()
    ]


def _columns(folder: Path, last: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A run with the name of its column; of a sweep trained together, every point."""
    result = finished(folder, last) if (folder / RESULT).exists() else unfinished(folder)
    name = _name(folder, result)
    if "points" not in result:
        yield name, result
    for point in result.get("points", ()):
        settings = [f"{field}={value:g}" for field, value in point["settings"].items()]
        entries = {"policies": point["policies"], "headline": next(iter(point["policies"]), "")}
        scores = point["policies"].get(entries["headline"], NO_SCORE)
        told = {"settings": point["settings"]}
        yield "+".join([name, *settings]), {**result, **scores, **entries, **told}


def _name(folder: Path, result: Mapping[str, Any]) -> str:
    """The column of the run in a folder."""
    algo, name = result["algo"], folder.name
    if name == usual(algo, result["dataset"]):
        return str(algo)
    parents = folder.absolute().parents
    swept = len(parents) > 2 and parents[0].name == algo and (parents[2] / SWEEP).exists()
    if not swept:
        return str(algo) if "points" in result else name
    return str(algo) if name in (TOGETHER, DEFAULT) else f"{algo}+{name}"


def finished(folder: Path, last: int = 1) -> dict[str, Any]:
    """A finished run's result.json, its scores means over the `last` evaluations.

    Raises:
        ConfigError: if there were fewer.
    """
    result: dict[str, Any] = read_json(folder / RESULT)
    if (folder / CONFIG).exists():
        result["transitions"] = read_json(folder / CONFIG).get("data", {}).get("rows")
    played = result["policies"] or any(point["policies"] for point in result.get("points", ()))
    if last == 1 or not played:
        return result
    try:
        return statistics.last_evaluations(result, Rows(folder / EVALUATIONS), last)
    except ValueError as error:
        raise ConfigError(f"--last: {folder} has {error}") from error


def unfinished(folder: Path) -> dict[str, Any]:
    """What stands in a table for a run that has no result.json yet."""
    about = read_json(folder / CONFIG)
    run, data = about["run"], about["data"]
    return NO_SCORE | {
        "algo": run["algo"],
        "dataset": run["dataset"],
        "seeds": run["seeds"],
        "policies": {},
        "score_kind": data["score_kind"],
        "data_score": data["score"],
        "env": data.get("env") or "",
        "transitions": data.get("rows"),
        "unfinished": f"unfinished ({launchers.progress(folder)})",
    }


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
    if "unfinished" in result:
        return str(result["unfinished"])
    if result["score_mean"] is None:
        return str(result.get("estimate", "not evaluated"))
    return score(result)


def score(entry: Mapping[str, Any] | None) -> str:
    """A mean score with its interval: of a result, or of one of its policies; blank without one."""
    if not entry:
        return ""
    known = entry["score_mean"] is not None
    return _with_interval(entry["score_mean"], entry["score_ci"]) if known else "no score"


def difference(result: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> str:
    """The mean of the seeds' differences to `base`, with a paired bootstrap interval.

    Blank where one of them is missing or was not evaluated, or they trained other seeds.
    """
    if result is None or base is None or result["seeds"] != base["seeds"]:
        return ""
    if not (result["scores"] and base["scores"]):
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

    With `against`, a table of differences to that column, without scores.

    Raises:
        ConfigError: if there is no column `against`.
    """
    if against and against not in grid.columns:
        raise ConfigError(f"no column {against!r}; there are {', '.join(grid.columns)}")
    if against:
        return _differences(grid, against)
    body = []
    for dataset in grid.datasets:
        results = [grid.cells.get((dataset, column)) for column in grid.columns]
        own = next(statistics.data_score(result) for result in results if result)
        body.append([dataset, own, *map(headline, results)])
    return [["dataset", "data", *grid.columns], *body]


def _differences(grid: Grid, against: str) -> list[list[str]]:
    columns = [column for column in grid.columns if column != against]
    body = []
    for dataset in grid.datasets:
        base = grid.cells.get((dataset, against))
        results = [grid.cells.get((dataset, column)) for column in columns]
        body.append([dataset, *(difference(result, base) for result in results)])
    return [["dataset", *columns], *body]


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


class Titled(NamedTuple):
    """A table with its title, its head first, and the lines below it."""

    title: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def publish(grid: Grid, folder: Path, console: Console, more: Sequence[Titled] = ()) -> None:
    """Prints the tables, and writes table.md, table.csv and table.png to `folder`.

    Args:
        grid: what is shown first.
        folder: where the files go.
        console: where the tables go.
        more: further tables.
    """
    shown = [Titled(f"score{mean_of(grid.last)}, {INTERVAL}", rows(grid)), *more]
    text = []
    for each in shown:
        text.append(f"{each.title}:\n")
        if len(each.rows) > 1 and len(each.rows[0]) > 1:
            tables.show(console, each.title, each.rows)
            text.append(markdown(each.rows))
        else:
            text[-1] = f"nothing to show of these runs: {each.title}\n"
            tables.write(console, text[-1].rstrip())
        for note in each.notes:
            tables.write(console, note)
            text.append(f"{note}\n")
    write_text(folder / "table.md", "\n".join(text))
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
    bars = f"mean and 95 % interval over {seeds} seeds"
    if counts[0] < figures.FEWEST:
        bars += " (bars: each seed, where there are two or fewer)"
    interval_plot.draw(
        path,
        grid.datasets,
        grid.columns,
        {cell: (result["score_mean"], result["score_ci"]) for cell, result in shown.items()},
        scores={cell: statistics.known(result["scores"]) for cell, result in shown.items()},
        data_scores={
            dataset: result["data_score"]
            for (dataset, _), result in shown.items()
            if result["data_score"] is not None
        },
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
        found.append(Titled(f"seed by seed, less {against}", rows(grid, against)))
    if papers:
        table, refused = published_table.printed(grid.datasets, grid.cells)
        title = "what papers printed: other code, their seeds and episodes"
        found.append(Titled(title, table, [*published_table.sources(table[0][1:]), *refused]))
    if iqm:
        table = aggregate.iqm_table(matrices(grid), len(grid.datasets))
        found.append(Titled(aggregate.TITLE, table))
    return found


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use."""
    console = commandline.console()
    folders = commandline.words(FLAGS, argv)
    if FLAGS.help:
        tables.write(console, commandline.usage(__doc__, FLAGS, argv))
        return 0
    paths = [Path(folder) for folder in folders]
    grid = collect(paths, last=FLAGS.last)
    if not grid.cells:
        raise ConfigError(f"no run below {' '.join(folders) or 'no folder'}")
    for path in paths:
        if not _places([path]):
            tables.write(console, f"no run below {path}")
    if FLAGS.policies:
        grid = by_policy(grid)
    more = extras(grid, FLAGS.against, FLAGS.published, FLAGS.iqm)
    out = commandline.folder(FLAGS.out) if FLAGS.out else paths[0]
    out.mkdir(parents=True, exist_ok=True)
    publish(grid, out, console, more)
    for told in adding(paths):
        tables.write(console, told)
    return 0
