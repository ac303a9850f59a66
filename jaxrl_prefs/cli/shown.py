"""What a page says of runs: the contents of their folders as sections of tables and plots.

A part of the library that leaves a file in a run's folder is shown by one function in SECTIONS.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl_prefs import data as datasets
from jaxrl_prefs.cli import data, table
from jaxrl_prefs.data import Dataset, Hints, health, ogbench_data, roots
from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.errors import ConfigError, DataError, WorkdirError
from jaxrl_prefs.page import parts
from jaxrl_prefs.page.parts import Curves, Interval, Intervals, Line, Media, Part, Rows, Section
from jaxrl_prefs.runs import signs as warning_signs
from jaxrl_prefs.runs import statistics
from jaxrl_prefs.runs import workdir as folders_of_runs
from jaxrl_prefs.runs.workdir import CONFIG, EVALUATIONS, METRICS, RESULT, read_json

ESTIMATES = "estimates.json"
PICTURES = ("play.mp4", "play.gif", "play.png")
# What is shown of a row: {file: {field: its type}}.
ROWS: dict[str, dict[str, type]] = {
    METRICS: {"seed": int, "metrics": dict},
    EVALUATIONS: {"seed": int, "policy": str},
}
LARGEST = 32 * 2**20  # bytes of a picture or video that is put into a page


class Shown(NamedTuple):
    """One run, or one point of a sweep."""

    folder: Path
    column: str  # its name in a table
    about: Mapping[str, Any]  # config.json
    result: Mapping[str, Any]  # result.json, or what stands for it in an unfinished run
    evaluations: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]

    @property
    def dataset(self) -> str:
        """The data's name, as a table calls them: of OGBench's, that of the single task."""
        return table.row_of(str(self.result["dataset"]), self.env_id)

    @property
    def env_id(self) -> str:
        """The environment of the run, with the number of OGBench's task; empty without one."""
        return ogbench_names.numbered(str(self.result.get("env") or ""))


def found(folders: Sequence[Path], last: int = 1) -> list[Shown]:
    """The runs below folders, by name; scores are means over the `last` evaluations.

    Raises:
        WorkdirError: if a file is damaged.
        ConfigError: if a run has fewer evaluations.
    """
    places = {path.parent for folder in folders for path in folder.rglob(CONFIG)}
    runs = list[Shown]()
    for place in sorted(places):
        about = read_json(place / CONFIG)
        _check(place, about)
        with _damage_is_named(place):
            runs += _points(place, about, last)
    return runs


@contextlib.contextmanager
def _damage_is_named(place: Path) -> Iterator[None]:
    """Restates what a run's files bring about as a WorkdirError that names their folder."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConfigError | DataError):
            raise
        raise _damaged(
            place, "one of its files lacks something, or has it in another form"
        ) from error


def _damaged(place: Path, fault: str) -> WorkdirError:
    return WorkdirError(f"{place} holds a damaged run ({fault}); leave it out")


def _check(place: Path, about: Mapping[str, Any]) -> None:
    """Finds what a page cannot show in the sections of config.json and in the rows."""
    for name in ("run", "method", "data", "versions", "hints"):
        if not isinstance(about.get(name, {}), dict):
            raise _damaged(place, f"{CONFIG}: {name!r} is no section")
    for file, fields in ROWS.items():
        for row in folders_of_runs.Rows(place / file):
            for name, kind in fields.items():
                if not isinstance(row.get(name), kind):
                    raise _damaged(place, f"{file}: a row has no {name!r}")


def _points(place: Path, about: Mapping[str, Any], last: int) -> list[Shown]:
    """The run of a folder; of a sweep that trained together, each of its points."""
    evaluations = list(folders_of_runs.Rows(place / EVALUATIONS))
    metrics = list(folders_of_runs.Rows(place / METRICS))
    result = read_json(place / RESULT) if (place / RESULT).exists() else {}
    points = [each["settings"] for each in result.get("points", [{"settings": {}}])]
    cells = table.collect([place], last=last).cells
    return [
        Shown(place, column, about, entry, _of(evaluations, point), _of(metrics, point))
        for ((_, column), entry), point in zip(cells.items(), points, strict=True)
    ]


def _of(rows: Iterable[Mapping[str, Any]], point: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row.get(name) == x for name, x in point.items())]


def title(runs: Sequence[Shown]) -> str:
    """What the page is about."""
    if len(runs) == 1:
        return f"{runs[0].column} on {runs[0].dataset}"
    columns = dict.fromkeys(run.column for run in runs)
    datasets = dict.fromkeys(run.dataset for run in runs)
    shown = ", ".join(columns) if len(columns) < 5 else f"{len(columns)} variants"
    return f"{shown} on {', '.join(datasets) if len(datasets) < 4 else f'{len(datasets)} datasets'}"


def foot() -> str:
    """The line at the page's end."""
    return "Written by jaxrl-prefs report."


def sections(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    """All sections; those that have nothing to show have no parts."""
    try:
        built = [build(folders, runs) for build in SECTIONS]
    except (LookupError, TypeError, AttributeError, ValueError):
        for run in runs:  # which of them it is
            with _damage_is_named(run.folder):
                for build in SECTIONS:
                    build([run.folder], [run])
        raise
    return [section for several in built for section in several]


# --- Sections: each takes the folders that were named, and the runs below them --------------------


def _pictures(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    media: list[Part] = []
    for run in {run.folder: run for run in runs}.values():
        for name in PICTURES:
            path = run.folder / name
            if not path.is_file() or path.is_symlink():
                continue
            if path.stat().st_size > LARGEST:
                media.append(parts.Words(f"{path} is too large for this page"))
                continue
            content = path.read_bytes()
            media.append(Media(parts.KINDS[path.suffix], content, f"{run.column} on {run.dataset}"))
    return [Section("Episodes", media)]


def _scores(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    built: list[Part] = []
    if len(runs) == 1 and runs[0].result["policies"]:
        summary = runs[0].result
        built.append(parts.Words(statistics.title(summary)))
        built.append(Rows(statistics.score_table(summary), 1, [statistics.caption(summary)]))
    else:
        head = ["dataset", "method", "policy", "seeds", "score", "95 % interval", "data"]
        built.append(Rows([head, *(row for run in runs for row in _score_rows(run))], 3))
    for dataset in dict.fromkeys(run.dataset for run in runs):
        mine = [run for run in runs if run.dataset == dataset]
        values = [each for run in mine for each in _intervals(run)]
        if len(values) > 1:
            levels = _data_level(mine[0])
            what = "scores: mean and 95 % interval over seeds"
            built.append(Intervals(f"{dataset}, {what}", _kind(mine[0]), values, levels))
    return [Section("Scores", built)]


def _score_rows(run: Shown) -> list[list[str]]:
    data_score, seeds = statistics.data_score(run.result), str(len(run.result["seeds"]))
    if not run.result["policies"]:
        state = str(run.result.get("unfinished", "not evaluated"))
        return [[run.dataset, run.column, "", seeds, state, "", data_score]]
    return [
        [
            *(run.dataset, run.column, name, seeds, statistics.number(entry["score_mean"])),
            *(statistics.spread(entry["score_ci"]), data_score),
        ]
        for name, entry in run.result["policies"].items()
    ]


def _intervals(run: Shown) -> list[Interval]:
    several = len(run.result["policies"]) > 1
    values = []
    for name, entry in run.result["policies"].items():
        if (mean := entry["score_mean"]) is not None:
            low, high = entry["score_ci"] or (mean, mean)
            values.append(
                Interval(f"{run.column}/{name}" if several else run.column, mean, low, high)
            )
    return values


def _kind(run: Shown) -> str:
    return str(run.result["score_kind"])


def _data_level(run: Shown) -> list[tuple[str, float]]:
    value = run.result["data_score"]
    return [("the data", float(value))] if isinstance(value, int | float) else []


def _estimates(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    """What was estimated of each run, by `evaluate`, `compare` or `sweep`."""
    built: list[Part] = []
    above = [
        each
        for run in runs
        for each in (run.folder, *run.folder.parents)
        if any(each.is_relative_to(folder) for folder in folders)
    ]
    for folder in dict.fromkeys([*folders, *above]):
        if not (folder / ESTIMATES).is_file():
            continue
        try:
            built.append(_estimated(folder))
        except (WorkdirError, LookupError, TypeError, AttributeError, ValueError):
            text = f"{folder / ESTIMATES} is damaged and is left out; evaluate writes it again"
            built.append(parts.Words(text))
    return [Section("Estimates, without playing", built)]


def _estimated(folder: Path) -> Rows:
    content = read_json(folder / ESTIMATES)
    head, rows = ["policy", "estimated value", "95 % interval"], []
    for group in content.get("groups", []):
        settings = ", ".join(f"{k}={v}" for k, v in dict(group.get("settings", {})).items())
        name = f"{settings} {group.get('policy', '')}".strip()
        low, high = (*group.get("interval", ()), None, None)[:2]
        rows.append([name, _shown(group.get("value")), f"{_shown(low)} to {_shown(high)}"])
    notes = [f"{content.get('estimator', '')} on {content.get('dataset', '')}: {folder}"]
    notes += [str(content["choice"])] if content.get("choice") else []
    notes += [f"warning sign: {sign}" for sign in content.get("signs", [])]
    return Rows([head, *rows], 1, [*notes, "An estimate is not a score."])


def _curves(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    built = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        mine = [run for run in runs if run.dataset == dataset]
        lines = [line for run in mine for line in _score_lines(run, len(mine) > 1)]
        large = [
            Curves(
                f"{dataset}: score", "updates", _kind(mine[0]), lines, _data_level(mine[0]), True
            )
        ]
        several = len({run.dataset for run in runs}) > 1
        head = f": {dataset}" if several else ""
        built.append(Section(f"Scores over the updates{head}", large if lines else []))
        names = dict.fromkeys(n for run in mine for row in run.metrics for n in row["metrics"])
        columns = [run.column for run in mine]
        metrics = [
            Curves(
                name,
                "updates",
                "",
                [line for run in mine for line in _metric_lines(run, name)],
                groups=columns,
            )
            for name in names
        ]
        built.append(Section(f"Metrics over the updates{head}", metrics, folded=True))
    return built


def _score_lines(run: Shown, several: bool) -> list[Line]:
    policies = dict.fromkeys(row["policy"] for row in run.evaluations)
    lines = []
    for policy in policies:
        group = f"{run.column}/{policy}" if several and len(policies) > 1 else policy
        group = run.column if several and len(policies) == 1 else group
        mine = [row for row in run.evaluations if row["policy"] == policy]
        lines += _lines(group, mine, lambda row: row["score"])
    return lines


def _metric_lines(run: Shown, name: str) -> list[Line]:
    return _lines(run.column, run.metrics, lambda row: row["metrics"].get(name))


def _lines(
    group: str, rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Any]
) -> list[Line]:
    """A line for each seed that has a value."""
    lines = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        pairs = [(row["step"], read(row)) for row in rows if row["seed"] == seed]
        known = [(step, x) for step, x in pairs if isinstance(x, int | float) and math.isfinite(x)]
        if known:
            x, y = zip(*known, strict=True)
            lines.append(Line(group, f"seed {seed}", x, y))
    return lines


def _signs(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    built: list[Part] = []
    for run in runs:
        signs = warning_signs.signs(run.metrics, run.result["algo"], run.result["seeds"])
        if not signs:
            continue
        if len(runs) > 1:
            built.append(parts.Words(f"{run.column} on {run.dataset}"))
        seeds = [f"seed {seed}" for seed in run.result["seeds"]]
        rows = [["sign", "what it means", "look", *seeds]]
        rows += [[s.name, s.meaning, s.reason, *map(_shown, s.values)] for s in signs]
        marked = frozenset(n for n, sign in enumerate(signs, 1) if sign.reason)
        built.append(Rows(rows, 3, (), marked))
    if built:
        text = "Measured at the last evaluation, on the same rows of the data for every seed. A "
        built.insert(0, parts.Words(f"{text}marked row is a reason to look, not a verdict."))
    return [Section("Warning signs", built)]


def _data(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    """A table for each dataset, and for each environment in which runs evaluated it."""
    built: list[Part] = []
    for run in {(run.dataset, run.env_id): run for run in runs}.values():
        asked = run.about.get("run", {})
        reading = (str(asked.get("dataset", "")), asked.get("env"), run.about.get("hints"))
        rows, notes = _health(*reading, f"the config of {run.folder}")
        rows = rows or _facts({**run.about.get("data", {})})
        built.append(Rows([["", run.dataset], *rows], 2, notes))
    return [Section("The data", built)]


def _health(name: str, env: Any, hints: Any, where: str) -> tuple[list[list[str]], list[str]]:
    """What `data info` says of a dataset, and its warnings; nothing if it is not here.

    Args:
        name: of the dataset.
        env: the environment that the run was asked to play, as config.json has it.
        hints: how the run read the data, as config.json has them.
        where: that file, for errors.
    """
    try:
        if not _is_here(name):
            return [], []
        recording, notes = _loaded(name, env, datasets.hints_from_json(hints, where))
    except (DataError, OSError, ValueError) as error:  # damaged, or read with other flags
        return [], [f"the data themselves cannot be shown: {error}"]
    found = health.of(recording)
    told = {**data.facts(recording), **health.told(recording, found)}
    notes += [f"warning: {text}" for text in found.warnings]
    return [[key, value] for key, value in told.items()], notes


def _is_here(name: str) -> bool:
    """Whether a page shows a dataset: if it is here, and not OGBench's of 100 million steps."""
    place = Path(name.partition("#")[0]).expanduser()
    within = ogbench_names.of_path(place)
    if within is not None and within.large:
        return False
    own = ogbench_names.parse(name)
    if own is not None and not place.exists():
        return bool(roots.find(f"ogbench/{name}") or ogbench_data.here(own))
    return bool(name and (roots.find(datasets.ALIASES.get(name, name)) or place.exists()))


def _loaded(name: str, env: Any, hints: Hints) -> tuple[Dataset, list[str]]:
    """The dataset in the run's environment, and a note if that cannot be had here.

    An environment that would import a module is not taken: a folder does not choose what code runs.
    """
    notes = list[str]()
    if usable := folders_of_runs.usable_env(env):
        try:
            return datasets.load(name, env=usable, hints=hints), notes
        except DataError as error:
            notes.append(f"shown without the run's environment: {error}")
    found = datasets.load(name, hints=hints)
    return found.with_env(None) if env == folders_of_runs.NO_ENV else found, notes


def _runs(folders: Sequence[Path], runs: Sequence[Shown]) -> list[Section]:
    built: list[Part] = []
    for run in runs:
        result, about = run.result, run.about
        facts = {
            "method": result["algo"],
            "dataset": result["dataset"],
            "evaluated in": about.get("data", {}).get("env") or "no environment",
            "seeds": ", ".join(map(str, result["seeds"])),
            "updates": result.get("step", result.get("unfinished", "")),
            "seconds": result.get("wall_seconds", ""),
            "settings": _settings(about),
            "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items() if v),
            "folder": str(run.folder),
        }
        built.append(Rows([["", run.column], *_facts(facts)], 2))
    return [Section("What was run", built, folded=len(runs) > 1)]


def _settings(about: Mapping[str, Any]) -> str:
    fields = {**about.get("method", {})}
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _facts(content: Mapping[str, Any]) -> list[list[str]]:
    """Names and values, one a row; what is nested is written as it is."""
    return [
        [str(name), _shown(value)] for name, value in content.items() if value not in ("", None)
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


SECTIONS: tuple[Callable[[Sequence[Path], Sequence[Shown]], list[Section]], ...] = (
    *(_scores, _estimates, _curves, _signs, _pictures, _data, _runs),
)
