"""Trains methods with several settings: every point of a grid with every seed.

    python -m experiments.sweep --algo=td3_bst --grid=kernel_scale=k/10,k/2,k,2k --seeds=3
    python -m experiments.sweep --algo=td3_bc,iql --dataset=pendulum-mixed,maze2d/umaze-v0 \\
        --grid=alpha=2.5,40 --grid=expectile=0.7,0.9 --launcher=ray --cpus=2

Several --grid make a product; a method takes those whose field it has. Several methods or datasets
need none. Here, points that differ in real numbers alone train together, as further members of one
ensemble in one compiled step; phases that read none of those numbers are trained once for each seed
(not on an accelerator, whose members run side by side). Other points train one after the other.
With --launcher=ray every point is a task of its own, on this machine or on a cluster whose nodes
see the project and --workdir under the same paths. The same command goes on where it was stopped,
inside a run as well, and trains nothing twice; a point that fails is reported and the others go on.
Writes sweep.json, sweep.md and sweep.png to the workdir.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, launchers, table
from jaxrl_prefs.cli.launchers import Task
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import config, overrides
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.workdir import RESULT, claim, clear, write_json, write_text

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_list("algo", ["bdpo"], f"methods, of {', '.join(METHODS)}", **_OWN)
flags.DEFINE_list("dataset", ["pendulum-mixed"], "datasets, as experiments.run takes", **_OWN)
flags.DEFINE_string("env", "", "as experiments.run takes", **_OWN)
flags.DEFINE_boolean("trust_env", False, "as experiments.run takes", **_OWN)
flags.DEFINE_multi_string("grid", [], "field=value,value,..., repeatable", **_OWN)
flags.DEFINE_string("seeds", "3", "as experiments.run takes", **_OWN)
flags.DEFINE_string("workdir", "", "folder (default: runs/sweep-<algo>-<dataset>)", **_OWN)
flags.DEFINE_multi_string(
    "set", [], "field=value, repeatable: for every method that has the field", **_OWN
)
flags.DEFINE_integer("last", 1, "scores are means over so many evaluations", lower_bound=1, **_OWN)
flags.DEFINE_enum("launcher", "local", ["local", "ray"], "who trains: local or ray", **_OWN)
flags.DEFINE_string(
    "ray_address", "local", "of a Ray cluster (auto finds it); local: this machine as one", **_OWN
)
flags.DEFINE_integer("cpus", 1, "cores for each point, with --launcher=ray", 1, **_OWN)
flags.DEFINE_float("gpus", 0.0, "GPUs for each point, with --launcher=ray", 0.0, **_OWN)
flags.DEFINE_boolean("overwrite", False, "start anew, removing the runs in --workdir", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)

Point = dict[str, str]  # a value of each field of the grid, as it was written


class Axis(NamedTuple):
    """One field of the grid and its values, as written."""

    field: str
    values: tuple[str, ...]


class Group(NamedTuple):
    """Points that train together, in one folder."""

    fixed: Point  # what all of them have, by --set
    points: list[Point]  # where they differ; a single {} if in nothing


class Cell(NamedTuple):
    """A method on a dataset, with the axes that the method has."""

    algo: str
    dataset: str
    axes: Sequence[Axis]


class Found(NamedTuple):
    """What one point came to."""

    algo: str
    dataset: str
    settings: Point
    kind: str  # what a score is: normalised, or a raw return
    policies: Mapping[str, Mapping[str, Any]]  # as in result.json


def axis(text: str) -> Axis:
    """Reads `eta=0.1,0.2`; values that hold commas themselves are parted by semicolons.

    Raises:
        ConfigError: without a value, or with one twice.
    """
    field, values = overrides.split(text)
    parts = tuple(part.strip() for part in values.split(";" if ";" in values else ","))
    if not all(parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"--grid={text} must name values, each once")
    return Axis(field, parts)


def groups(axes: Sequence[Axis], together: Sequence[str]) -> list[Group]:
    """The grid in as few groups as train together, if members may differ in `together`."""
    fixed = [each for each in axes if each.field not in together]
    free = [each for each in axes if each.field in together]
    return [Group(outer, _product(free)) for outer in _product(fixed)]


def _product(axes: Sequence[Axis]) -> list[Point]:
    names = [each.field for each in axes]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(each.values for each in axes))
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    console = Console()
    try:
        commandline.read(FLAGS, argv, "; lists are parted by commas")
        if FLAGS.help:
            console.print(commandline.usage(__doc__, FLAGS), markup=False, highlight=False)
            return 0
        cells = _cells([axis(text) for text in FLAGS.grid])
        devices.prepare()
        return _execute(cells, console)
    except commandline.USER_ERRORS as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    except OSError as error:
        return commandline.fail(str(error), commandline.FAILED)
    except KeyboardInterrupt:
        return commandline.interrupted()


def _choice(cell: Cell, fixed: Mapping[str, str]) -> config.Choice:
    known = config.fields(cell.algo)
    own = [text for text in FLAGS.set if overrides.split(text)[0] in known]
    own += [f"{name}={value}" for name, value in fixed.items()]
    seeds = config.parse_seeds(FLAGS.seeds)
    return config.Choice(cell.algo, cell.dataset, FLAGS.env, seeds, tuple(own), FLAGS.trust_env)


def _cells(axes: Sequence[Axis]) -> list[Cell]:
    """Finds what is wrong with the command before anything slow is done.

    Raises:
        ConfigError: for whatever it is.
    """
    for flag, values in (("algo", FLAGS.algo), ("dataset", FLAGS.dataset)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"--{flag} must name at least one, each once")
    if not axes and len(FLAGS.algo) == len(FLAGS.dataset) == 1:
        raise ConfigError("--grid names what to vary, such as --grid=eta=0.05,0.1")
    names = [each.field for each in axes]
    if len(set(names)) < len(names):
        raise ConfigError(f"--grid names a field twice: {', '.join(names)}")
    set_names = [overrides.split(text)[0] for text in FLAGS.set]
    if mixed := set(names) & set(set_names):
        raise ConfigError(f"--set and --grid both name {', '.join(sorted(mixed))}")
    config.check_known([*names, *set_names], FLAGS.algo)
    cells = []
    for dataset, algo in itertools.product(FLAGS.dataset, FLAGS.algo):
        known = config.fields(algo)
        cells.append(Cell(algo, dataset, [each for each in axes if each.field in known]))
        for point in _product(cells[-1].axes):
            config.check(_choice(cells[-1], point))
    return cells


def _execute(cells: Sequence[Cell], console: Console) -> int:
    """Has every task trained, and writes everything known after each."""
    parts = [FLAGS.algo, FLAGS.dataset]
    usual = f"runs/sweep-{'-'.join(_slug('+'.join(x)) for x in parts)}"
    folder = commandline.folder(FLAGS.workdir or usual)
    plan = [each for cell in cells for each in _tasks(cell, folder.absolute(), console)]
    if FLAGS.overwrite:
        for task, _, _ in plan:
            with claim(task.path):
                clear(task.path)
    launch = launchers.local
    if FLAGS.launcher == "ray":
        more = {"address": FLAGS.ray_address, "cpus": FLAGS.cpus, "gpus": FLAGS.gpus}
        launch = functools.partial(launchers.on_ray, **more)
    worst, found = 0, list[Found]()
    for ended in launch([task for task, _, _ in plan], console):
        if ended.error:
            worst = commandline.fail(f"{ended.task.name}: {ended.error}", commandline.FAILED)
        try:
            found = [each for task, cell, group in plan for each in _results(task, cell, group)]
            _publish(found, folder)
        except ConfigError as error:  # the other points train all the same
            worst = commandline.fail(str(error), commandline.WRONG_USE)
    if found:
        title = f"score{table.mean_of(FLAGS.last)}, {FLAGS.seeds} seeds, {table.INTERVAL}"
        console.print(table.view(title, rows(found)))
    return worst


def _slug(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.")


def _tasks(cell: Cell, folder: Path, console: Console) -> Iterator[tuple[Task, Cell, Group]]:
    """The tasks of a cell, each with the points that it trains."""
    apart = FLAGS.launcher == "ray"  # other workers may be free
    together = [] if apart else _together(cell, folder, console)
    for group in groups(cell.axes, together):
        fixed = "+".join(f"{k}={v}" for k, v in group.fixed.items())
        name = fixed or ("together" if together else "default")
        path = folder / _slug(cell.dataset) / cell.algo / _slug(name)
        points = group.points if together else []
        title = f"{cell.dataset} {cell.algo} {name}"
        yield Task(title, _choice(cell, group.fixed), path, points), cell, group


def _together(cell: Cell, folder: Path, console: Console) -> list[str]:
    """The fields in which members of one ensemble can differ, found by trying each."""
    from jaxrl_prefs.runs import prepare
    from jaxrl_prefs.training.sweep import NotSweepable

    free, module = [], METHODS[cell.algo]
    for each in cell.axes:
        kind = overrides.field_types(module.Config).get(each.field)
        if kind is not float and each.field not in overrides.number_readers(module.Config):
            continue
        others = {a.field: a.values[0] for a in cell.axes if a is not each}
        try:
            points = [{each.field: value} for value in each.values]
            prepare.prepare(_choice(cell, others), folder, points)
            free.append(each.field)
        except NotSweepable as reason:
            line(console, f"{each.field} is varied run by run: {reason}")
    return free


# --- What came out --------------------------------------------------------------------------------


def _results(task: Task, cell: Cell, group: Group) -> Iterator[Found]:
    """What the points of a task came to; nothing before it is finished."""
    if not (task.path / RESULT).exists():
        return
    result = table.finished(task.path, FLAGS.last)
    parts = result.get("points") or [{"policies": result["policies"]}]
    for written, part in zip(group.points, parts, strict=True):
        settings = group.fixed | written
        ordered = {each.field: settings[each.field] for each in cell.axes}
        yield Found(cell.algo, cell.dataset, ordered, result["score_kind"], part["policies"])


def _publish(found: Sequence[Found], folder: Path) -> None:
    """Writes sweep.json, sweep.md and sweep.png."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [each._asdict() for each in found]
    write_json(folder / "sweep.json", {"last": FLAGS.last, "points": points})
    write_text(folder / "sweep.md", table.markdown(rows(found)))
    draw(found, folder / "sweep.png", FLAGS.last)


def rows(found: Sequence[Found]) -> list[list[str]]:
    """The table as text, its head first: dataset, method, the fields of the grid, the policies."""
    policies = list(dict.fromkeys(name for each in found for name in each.policies))
    fields = list(dict.fromkeys(name for each in found for name in each.settings))
    body = []
    for each in found:
        settings = [each.settings.get(field, "") for field in fields]
        scores = [table.score(each.policies.get(name)) for name in policies]
        body.append([each.dataset, each.algo, *settings, *scores])
    return [["dataset", "algo", *fields, *policies], *body]


def draw(found: Sequence[Found], path: Path, last: int = 1) -> None:
    """A panel for each method on each dataset, with the headline policy's score over the first of
    the grid's fields and a line for each setting of the others. Draws nothing without scores.

    Args:
        found: the points.
        path: of the PNG.
        last: over how many evaluations the scores are means, for the axis.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        if each.policies and each.settings:
            panels.setdefault((each.algo, each.dataset), []).append(each)
    if not panels:
        return
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(6 * across, 4 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for panel, ((algo, dataset), points) in zip(axes, panels.items(), strict=False):
        _draw_panel(panel, points, last)
        panel.set_title(f"{algo} on {dataset}", fontsize=10)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)  # it may be a link
    figure.savefig(draft, format="png", dpi=120)
    draft.replace(path)


def _draw_panel(panel: Any, points: Sequence[Found], last: int) -> None:
    first, *others = points[0].settings
    values = list(dict.fromkeys(each.settings[first] for each in points))
    lines: dict[str, list[Found]] = {}
    for each in points:
        label = ", ".join(f"{name} {each.settings[name]}" for name in others)
        lines.setdefault(label, []).append(each)
    for label, line_points in lines.items():
        entries = [next(iter(each.policies.values())) for each in line_points]
        places = [values.index(each.settings[first]) for each in line_points]
        scored = [entry["score_mean"] for entry in entries]
        means = [np.nan if score is None else score for score in scored]  # a gap in the line
        (drawn,) = panel.plot(places, means, marker="o", label=label or None)
        bounds = [entry["score_ci"] or (m, m) for entry, m in zip(entries, means, strict=True)]
        low, high = zip(*bounds, strict=True)
        panel.fill_between(places, low, high, color=drawn.get_color(), alpha=0.2)
    panel.set_xticks(range(len(values)), values)
    panel.set_xlabel(first)
    panel.set_ylabel(
        f"{points[0].kind}{table.mean_of(last)},\n95 % interval over seeds", fontsize=9
    )
    panel.grid(alpha=0.3)
    if others:
        panel.legend(fontsize=8)
