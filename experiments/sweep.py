"""Trains one method with several settings: every point of a grid with every seed.

    python -m experiments.sweep --algo=td3_bst --grid=kernel_scale=k/10,k/2,k,2k --seeds=3

Several --grid make a product. Points that differ in real numbers alone train together, as further
members of one ensemble in one compiled step; others one after the other. The same command goes on
where it was stopped, inside a run as well. Writes sweep.json, sweep.md and sweep.png to the
workdir.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import commandline, config, overrides, run, table
from experiments.overrides import OverrideError
from experiments.workdir import RESULT, read_json, write_json, write_text
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.train import NonFinite

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("algo", "bdpo", f"the method: {', '.join(METHODS)}", **_OWN)
flags.DEFINE_string("dataset", "pendulum-mixed", "as experiments.run takes", **_OWN)
flags.DEFINE_string("env", "", "as experiments.run takes", **_OWN)
flags.DEFINE_multi_string("grid", [], "field=value,value,..., repeatable", **_OWN)
flags.DEFINE_string("seeds", "3", "as experiments.run takes", **_OWN)
flags.DEFINE_string("workdir", "", "folder (default: runs/sweep-<algo>-<dataset>)", **_OWN)
flags.DEFINE_multi_string("set", [], "field=value, repeatable: for every point", **_OWN)
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


def axis(text: str) -> Axis:
    """Reads `eta=0.1,0.2`; values that hold commas themselves are parted by semicolons.

    Raises:
        OverrideError: without a value, or with one twice.
    """
    field, values = overrides.split(text)
    parts = tuple(part.strip() for part in values.split(";" if ";" in values else ","))
    if not all(parts) or len(set(parts)) < len(parts):
        raise OverrideError(f"--grid={text} must name values, each once")
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
        commandline.read(FLAGS, argv)
        if FLAGS.help:
            console.print(commandline.usage(__doc__, FLAGS), markup=False, highlight=False)
            return 0
        axes = [axis(text) for text in FLAGS.grid]
        _check(axes)
        run.prepare_jax()
        _execute(axes, console)
        return 0
    except run.USER_ERRORS as error:
        return run.say(str(error), run.WRONG_USE)
    except (NonFinite, OSError) as error:
        return run.say(str(error), run.FAILED)
    except KeyboardInterrupt:
        return run.say("interrupted; the same command continues", run.INTERRUPTED)


def _choice(fixed: Mapping[str, str]) -> config.Choice:
    assignments = (*FLAGS.set, *(f"{name}={value}" for name, value in fixed.items()))
    seeds = config.parse_seeds(FLAGS.seeds)
    return config.Choice(FLAGS.algo, FLAGS.dataset, FLAGS.env, seeds, assignments)


def _check(axes: Sequence[Axis]) -> None:
    """Finds what is wrong with the command before anything slow is done."""
    if not axes:
        raise OverrideError("--grid names what to vary, such as --grid=eta=0.05,0.1")
    names = [each.field for each in axes]
    if len(set(names)) < len(names):
        raise OverrideError(f"--grid names a field twice: {', '.join(names)}")
    if mixed := set(names) & {overrides.split(text)[0] for text in FLAGS.set}:
        raise OverrideError(f"--set and --grid both name {', '.join(sorted(mixed))}")
    for point in _product(axes):
        config.check(_choice(point))


def _execute(axes: Sequence[Axis], console: Console) -> None:
    """Trains group after group, and writes everything known after each."""
    from experiments import session  # after the devices are chosen

    name = re.sub(r"[^\w.-]+", "-", FLAGS.dataset).strip("-.")
    folder = Path(FLAGS.workdir or f"runs/sweep-{FLAGS.algo}-{name}")
    together = _together(axes, folder, console)
    found: list[dict[str, Any]] = []
    for group in groups(axes, together):
        slug = "+".join(f"{k}={v}" for k, v in group.fixed.items()) or "together"
        path = folder / slug.replace("/", "_")
        points = group.points if together else []
        trial, about = session.prepare(_choice(group.fixed), path, points)
        session.complete(trial, about, console, overwrite=FLAGS.overwrite)
        result = read_json(path / RESULT)
        parts = result.get("points") or [{"settings": {}, "policies": result["policies"]}]
        for written, part in zip(group.points, parts, strict=True):
            found.append({"settings": group.fixed | written, "policies": part["policies"]})
        _publish(axes, found, folder, console)


def _together(axes: Sequence[Axis], folder: Path, console: Console) -> list[str]:
    """The fields in which members of one ensemble can differ, found by trying each."""
    from experiments import session
    from jaxrl_prefs.settings import Fixed

    free, module = [], METHODS[FLAGS.algo]
    for each in axes:
        kind = overrides.field_types(module.Config).get(each.field)
        if kind is not float and each.field not in getattr(module, "NUMBERS", ()):
            continue
        others = {a.field: a.values[0] for a in axes if a is not each}
        try:
            points = [{each.field: value} for value in each.values]
            session.prepare(_choice(others), folder, points)
            free.append(each.field)
        except Fixed as reason:
            console.print(f"{each.field} is varied run by run: {reason}", highlight=False)
    return free


# --- What came out --------------------------------------------------------------------------------


def _publish(
    axes: Sequence[Axis], found: Sequence[Mapping[str, Any]], folder: Path, console: Console
) -> None:
    """Prints the table; writes sweep.json, sweep.md and sweep.png."""
    head, *body = rows(axes, found)
    view = Table(title=f"{FLAGS.algo} on {FLAGS.dataset}, {FLAGS.seeds} seeds")
    for name in head:
        view.add_column(name, justify="right")
    for row in body:
        view.add_row(*row)
    console.print(view)
    content = {"algo": FLAGS.algo, "dataset": FLAGS.dataset, "points": list(found)}
    write_json(folder / "sweep.json", content)
    write_text(folder / "sweep.md", table.markdown([head, *body]))
    draw(axes, found, folder / "sweep.png")


def rows(axes: Sequence[Axis], found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table as text, its head first: the fields of the grid, then a column per policy."""
    policies = list(dict.fromkeys(name for point in found for name in point["policies"]))
    fields = [each.field for each in axes]
    body = []
    for point in found:
        scores = [table.score(point["policies"].get(name)) for name in policies]
        body.append([*(point["settings"][field] for field in fields), *scores])
    return [[*fields, *policies], *body]


def draw(axes: Sequence[Axis], found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The headline policy's score over the first field, a line for each setting of the others."""
    if not found or not found[0]["policies"]:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    first, *others = axes
    for rest in _product(others):
        line = [p for p in found if all(p["settings"][k] == v for k, v in rest.items())]
        if not line:  # not trained yet
            continue
        entries = [next(iter(point["policies"].values())) for point in line]
        places = [first.values.index(point["settings"][first.field]) for point in line]
        means = [entry["score_mean"] for entry in entries]
        label = ", ".join(f"{k} {v}" for k, v in rest.items())
        (drawn,) = panel.plot(places, means, marker="o", label=label or None)
        bounds = [entry["score_ci"] or (m, m) for entry, m in zip(entries, means, strict=True)]
        low, high = zip(*bounds, strict=True)
        panel.fill_between(places, low, high, color=drawn.get_color(), alpha=0.2)
    panel.set_xticks(range(len(first.values)), first.values)
    panel.set_xlabel(first.field)
    panel.set_ylabel("score, 95 % interval over seeds")
    panel.set_title(f"{FLAGS.algo} on {FLAGS.dataset}", fontsize=10)
    panel.grid(alpha=0.3)
    if others:
        panel.legend(fontsize=8)
    draft = path.with_name(f".{path.name}.new")
    figure.savefig(draft, format="png", dpi=120)
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
