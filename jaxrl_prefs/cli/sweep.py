"""Trains methods with several settings: every point of a grid with every seed.

    jaxrl-prefs sweep --algo=td3_bst --grid=kernel_scale=k/10,k/2,k,2k --seeds=3
    jaxrl-prefs sweep --algo=td3_bc,iql --dataset=pendulum-mixed,maze2d/umaze-v0 \\
        --grid=alpha=2.5,40 --grid=expectile=0.7,0.9 --launcher=ray --cpus=2

Several --grid make a product; a method takes those whose field it has. Several methods or datasets
need none. Here, points that differ only in real numbers, or in the length of a phase that a method
declares as such, train together in one compiled step; phases that read none of those numbers are
trained once for each seed (not on an accelerator, whose members run side by side). Other points
train one after the other, and take a phase that they have in common, such as a pre-training, from
the first that trained it.
With --launcher=ray every point is a task of its own, on this machine or on a cluster whose nodes
see the project and --workdir under the same paths. The same command resumes, inside a run as well,
takes more --seeds, and trains nothing twice; a point that fails is reported and the others go on.
Writes sweep.json, sweep.md and sweep.png to the workdir. Without an environment, --select=fqe
estimates the policies from the data and chooses one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, fields, launchers, selection, table
from jaxrl_prefs.cli.launchers import Task
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import config, figures, overrides, statistics, tables
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.methods import find_method
from jaxrl_prefs.runs.policy_values import PolicyValues, estimate_text
from jaxrl_prefs.runs.workdir import RESULT, claim, clear, write_json, write_text

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
commandline.define_flags(
    FLAGS,
    algo=["bdpo"],
    dataset=["pendulum-mixed"],
    env="",
    trust_env=False,
    **commandline.HINTS,
    seeds="3",
)
flags.DEFINE_multi_string("grid", [], "field=value,value,..., repeatable", **_OWN)
commandline.define_flags(
    FLAGS,
    workdir="",
    preset="",
    set=(),
    eval_episodes="",
    eval_every="",
    eval_backend="",
    holdout="",
    precision="",
    deterministic=False,
    log="",
    last=1,
    select="",
)
flags.DEFINE_enum("launcher", "local", ["local", "ray"], "who trains: local or ray", **_OWN)
flags.DEFINE_string(
    "ray_address", "local", "of a Ray cluster (auto finds it); local: this machine as one", **_OWN
)
flags.DEFINE_integer("cpus", 1, "cores for each point, with --launcher=ray", 1, **_OWN)
flags.DEFINE_float("gpus", 0.0, "GPUs for each point, with --launcher=ray", 0.0, **_OWN)
commandline.define_flags(FLAGS, overwrite=False, help=False)

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
    data_score: float | None = None  # of the data's own episodes
    estimates: Mapping[str, str] = {}  # of policies that were not played, as text


def axis(text: str) -> Axis:
    """Reads `eta=0.1,0.2`; values that hold commas themselves are separated by semicolons.

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


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    console = commandline.console()
    commandline.read(FLAGS, argv, "; lists are separated by commas")
    if FLAGS.help:
        tables.write(console, usage(argv))
        return 0
    cells = _cells([axis(text) for text in FLAGS.grid])
    selection.check(FLAGS.select)
    devices.prepare()
    if FLAGS.select:
        selection.check_data(FLAGS.dataset, commandline.hints(FLAGS))
    return _execute(cells, console)


def usage(argv: Sequence[str] | None) -> str:
    """The text of --help: flags, then the fields of the run and of each method."""
    cells = [Cell(algo, FLAGS.dataset[0], ()) for algo in FLAGS.algo]
    known = fields.usage([_choice(cell, {}) for cell in cells])
    return f"{commandline.usage(__doc__, FLAGS, argv)}\n\n{known}"


def _choice(cell: Cell, fixed: Mapping[str, str]) -> config.Choice:
    known = config.fields(cell.algo)
    own = [text for text in commandline.assignments(FLAGS) if overrides.split(text)[0] in known]
    own += [f"{name}={value}" for name, value in fixed.items()]
    seeds = config.parse_seeds(FLAGS.seeds)
    return config.Choice(
        cell.algo,
        cell.dataset,
        FLAGS.env,
        seeds,
        tuple(own),
        FLAGS.trust_env,
        hints=commandline.hints(FLAGS),
    )


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
    set_names = [overrides.split(text)[0] for text in commandline.assignments(FLAGS)]
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
    tasks = [task for task, _, _ in plan]
    plan = [(_sharing(task, tasks), cell, group) for task, cell, group in plan]
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
    estimates = _selected(plan, folder, console) if FLAGS.select and found else []
    if estimates:
        found = _with_estimates(found, estimates)
        _publish(found, folder)
    if found:
        title = f"score{table.mean_of(FLAGS.last)}, {FLAGS.seeds} seeds, {table.INTERVAL}"
        swept = {name for each in found for name in each.settings}
        tables.show(console, title, rows(found), left=2, first=2 + len(swept))
    for _, values in estimates:
        selection.show(values, console)
    if found:
        tables.write(console, commandline.page(folder))
    return worst


def _sharing(task: Task, tasks: Sequence[Task]) -> Task:
    """The task, which takes what it has in common with others on the same data from their runs."""
    same = [each.path for each in tasks if each.choice.dataset == task.choice.dataset]
    donors = tuple(path for path in same if path != task.path)
    return task._replace(choice=dataclasses.replace(task.choice, donors=donors))


def _selected(
    plan: Sequence[tuple[Task, Cell, Group]], folder: Path, console: Console
) -> list[tuple[str, PolicyValues]]:
    """The estimates of all points of the sweep, for each dataset."""
    found = []
    for dataset in FLAGS.dataset:
        runs = [
            selection.Candidates(task.path, [_named(cell, group, x) for x in group.points])
            for task, cell, group in plan
            if cell.dataset == dataset
        ]
        path = folder / _slug(dataset) / selection.ESTIMATES
        if values := selection.estimated(runs, path, console, FLAGS.select):
            found.append((dataset, values))
    return found


def _named(cell: Cell, group: Group, written: Point) -> Point:
    settings = group.fixed | written
    return {"method": cell.algo, **{each.field: settings[each.field] for each in cell.axes}}


def _with_estimates(
    found: Sequence[Found], estimates: Sequence[tuple[str, PolicyValues]]
) -> list[Found]:
    texts: dict[str, dict[str, str]] = {}
    for dataset, values in estimates:
        for group in values.groups:
            key = repr((dataset, dict(group.settings)))
            texts.setdefault(key, {})[group.policy] = f"{values.estimator} {estimate_text(group)}"
    return [
        each._replace(
            estimates=texts.get(repr((each.dataset, {"method": each.algo, **each.settings})), {})
        )
        for each in found
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.")


def _tasks(cell: Cell, folder: Path, console: Console) -> Iterator[tuple[Task, Cell, Group]]:
    """The tasks of a cell, each with the points that it trains."""
    apart = FLAGS.launcher == "ray"  # other workers may be free
    together = [] if apart else _together(cell, folder, console)
    for group in groups(cell.axes, together):
        fixed = "+".join(f"{k}={v}" for k, v in group.fixed.items())
        name = fixed or (table.TOGETHER if together else table.DEFAULT)
        path = folder / _slug(cell.dataset) / cell.algo / _slug(name)
        points = group.points if together else []
        title = f"{cell.dataset} {cell.algo} {name}"
        yield Task(title, _choice(cell, group.fixed), path, points), cell, group


def _together(cell: Cell, folder: Path, console: Console) -> list[str]:
    """The fields in which members that train together can differ, found by trying each."""
    from jaxrl_prefs.runs import prepare
    from jaxrl_prefs.training.sweep import NotSweepable, lengths

    free, module = [], find_method(cell.algo)
    numbers = {**overrides.number_readers(module.Config), **lengths(module.Config)}
    for each in cell.axes:
        kind = overrides.field_types(module.Config).get(each.field)
        if kind is not float and each.field not in numbers:
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
        about = (cell.algo, cell.dataset, ordered, result["score_kind"], part["policies"])
        yield Found(*about, result["data_score"])


def _publish(found: Sequence[Found], folder: Path) -> None:
    """Writes sweep.json, sweep.md and sweep.png."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [_stored(each) for each in found]
    write_json(folder / table.SWEEP, {"last": FLAGS.last, "points": points})
    write_text(folder / "sweep.md", table.markdown(rows(found)))
    draw(found, folder / "sweep.png", FLAGS.last)


def _stored(each: Found) -> dict[str, Any]:
    known = {name: x for name, x in each._asdict().items() if name != "data_score"}
    return known if each.estimates else {k: x for k, x in known.items() if k != "estimates"}


def rows(found: Sequence[Found]) -> list[list[str]]:
    """The table as text, its head first: dataset, method, the fields of the grid, the policies."""
    named = [name for each in found for name in (*each.policies, *each.estimates)]
    policies = list(dict.fromkeys(named))
    swept = list(dict.fromkeys(name for each in found for name in each.settings))
    body = []
    for each in found:
        settings = [each.settings.get(field, "") for field in swept]
        scores = [
            table.score(each.policies.get(name)) or each.estimates.get(name, "")
            for name in policies
        ]
        body.append([each.dataset, each.algo, *settings, *scores])
    return [["dataset", "algo", *swept, *policies], *body]


def draw(found: Sequence[Found], path: Path, last: int = 1) -> None:
    """A panel for each method on each dataset, with the headline policy's score at each value of
    the first of the grid's fields, and a mark for each setting of the others. Draws nothing
    without scores.

    Args:
        found: the points.
        path: of the PNG.
        last: over how many evaluations the scores are means, for the axis.
    """
    panels: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        if each.policies and each.settings:
            panels.setdefault((each.algo, each.dataset), []).append(each)
    if not panels:
        return
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = figures.new(6 * across, 4 * down + 0.5)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for panel, ((algo, dataset), points) in zip(axes, panels.items(), strict=False):
        _draw_panel(panel, points, last)
        panel.set_title(f"{algo} on {dataset}", fontsize=10)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    figure.suptitle(f"{_policies(found)}: means, {_spread(found)}", fontsize=10)
    figures.save(figure, path)


def _policies(found: Sequence[Found]) -> str:
    return figures.joined(dict.fromkeys(next(iter(x.policies)) for x in found if x.policies))


def _spread(found: Sequence[Found]) -> str:
    """What stands around a mean."""
    seeds = max(len(_headline(each).get("scores", ())) for each in found if each.policies)
    if seeds < figures.FEWEST:
        return f"and each of {seeds} seed{'s' * (seeds != 1)}"
    return f"95 % intervals over {seeds} seeds"


def _headline(each: Found) -> Mapping[str, Any]:
    """The entry of the first policy of a point that was evaluated."""
    return next(iter(each.policies.values()))


def _draw_panel(panel: Any, points: Sequence[Found], last: int) -> None:
    first, *others = points[0].settings
    values = list(dict.fromkeys(each.settings[first] for each in points))
    groups: dict[str, list[Found]] = {}
    for each in points:
        label = ", ".join(f"{name} {each.settings[name]}" for name in others)
        groups.setdefault(label, []).append(each)
    figures.reference_lines(panel, points[0].data_score)
    for number, (label, members) in enumerate(groups.items()):
        beside = 0.6 * (number - (len(groups) - 1) / 2) / len(groups)
        for place, each in enumerate(members):
            at = values.index(each.settings[first]) + beside
            _draw_point(panel, at, _headline(each), number, label if place == 0 else "")
    panel.set_xticks(range(len(values)), values)
    panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_xlabel(first)
    panel.set_ylabel(f"{figures.score_label(points[0].kind)}{table.mean_of(last)}", fontsize=9)
    panel.grid(axis="y", alpha=0.3)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_point(panel: Any, at: float, entry: Mapping[str, Any], number: int, label: str) -> None:
    """A mean with its interval; of two seeds or fewer, with each seed's score."""
    colour, scores = figures.colour(number), statistics.known(entry.get("scores", ()))
    if len(scores) < figures.FEWEST:
        panel.plot([at] * len(scores), scores, "_", color=colour, markersize=9)
    elif entry["score_ci"]:
        panel.plot([at, at], entry["score_ci"], color=colour, linewidth=2, alpha=0.6)
    mean = entry["score_mean"]
    if mean is None:  # no episode could be played
        return
    panel.plot(at, mean, figures.marker(number), color=colour, markersize=5, label=label or None)
