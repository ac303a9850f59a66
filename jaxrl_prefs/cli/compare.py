"""Trains several methods on several datasets, one after the other, into one table.

    jaxrl-prefs compare --algo=bc,td3_bc --dataset=pendulum-mixed --seeds=3

A variant of a method is written with its settings: `bpr+critic=onestep`. A phase that is the same
for several variants, such as the pre-training of a behaviour model, is trained once. The same
command resumes, inside a run as well, and takes more --seeds; a run that fails is reported and the
others go on. Without an environment, --select=fqe estimates the policies from the data and chooses
one. --suite=ogbench50 takes the datasets of a suite, or those of them that --dataset names, and
--dry_run prints what that would cost.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, fields, run, selection, suite, table
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import config, overrides, tables
from jaxrl_prefs.runs.policy_values import PolicyValues, estimate_text

FLAGS = flags.FlagValues()
commandline.define_flags(
    FLAGS,
    algo=["bdpo"],
    dataset=["pendulum-mixed"],
    env="",
    trust_env=False,
    **commandline.HINTS,
    seeds="3",
    workdir="runs/compare",
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
    against="",
    policies=False,
    overwrite=False,
    suite="",
    dry_run=False,
    devices=1,
    rate=0.0,
    help=False,
)


class Variant(NamedTuple):
    """A method with settings, as one column of the table."""

    name: str  # as on the command line, and the run's folder
    algo: str
    assignments: tuple[str, ...]


def variant(text: str, common: Sequence[str]) -> Variant:
    """Reads `bpr+critic=onestep`; of `common` it takes the assignments whose field it has.

    Raises:
        ConfigError: for an unknown method, and as `config.check` for settings of its own.
    """
    algo, *own = text.split("+")
    known = config.fields(algo)
    shared = [each for each in common if overrides.split(each)[0] in known]
    return Variant(text, algo, (*shared, *own))


def check(
    variants: Sequence[Variant], common: Sequence[str], seeds: str, datasets: Sequence[str]
) -> None:
    """Finds what is wrong before anything is trained.

    Raises:
        ConfigError: for a setting that no method has or that has a wrong type, a variant named
            twice, a preset that a dataset does not have, and wrong seeds.
    """
    names = [each.name for each in variants]
    if len(set(names)) < len(names):
        raise ConfigError(f"--algo names a variant twice: {', '.join(names)}")
    config.check_known([overrides.split(x)[0] for x in common], [each.algo for each in variants])
    numbers = config.parse_seeds(seeds)
    for dataset, each in itertools.product(datasets, variants):
        config.check(config.Choice(each.algo, dataset, "", numbers, each.assignments))


def usage(variants: Sequence[Variant], argv: Sequence[str] | None) -> str:
    """The text of --help: flags, then the fields of the run and of each variant's method."""
    dataset, seeds = _datasets()[0], config.parse_seeds(FLAGS.seeds)
    choices = [
        config.Choice(each.algo, dataset, FLAGS.env, seeds, each.assignments) for each in variants
    ]
    return f"{commandline.usage(__doc__, FLAGS, argv)}\n\n{fields.usage(choices)}"


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 a run failed, 2 wrong use, 130 stopped."""
    console = commandline.console()
    commandline.read(FLAGS, argv, "; lists are separated by commas")
    common = commandline.assignments(FLAGS)
    variants = [variant(text, common) for text in FLAGS.algo]
    if FLAGS.help:
        tables.write(console, usage(variants, argv))
        return 0
    _check_suite()
    check(variants, common, FLAGS.seeds, _datasets())
    if FLAGS.dry_run:
        _show_costs(variants, console)
        return 0
    selection.check(FLAGS.select)
    hints = commandline.hints(FLAGS)
    if FLAGS.suite:
        suite.check_here(FLAGS.suite, _named())
    if FLAGS.select:
        selection.check_data(_datasets(), hints)
    return _execute(variants, console)


def _check_suite() -> None:
    if not FLAGS.dataset:
        raise ConfigError("--dataset is empty: name a dataset, or leave it out")
    if FLAGS.dry_run and not FLAGS.suite:
        raise ConfigError("--dry_run needs --suite; jaxrl-prefs plan tells the cost of one run")
    unused = [name for name in ("devices", "rate") if FLAGS[name].present and not FLAGS.dry_run]
    if unused:
        raise ConfigError(f"--{unused[0]} needs --dry_run: it only changes the printed cost")
    if FLAGS.suite:
        suite.rows(FLAGS.suite, _named())


def _show_costs(variants: Sequence[Variant], console: Console) -> None:
    """Prints what the suite would cost."""
    devices.prepare()
    seeds, rate = config.parse_seeds(FLAGS.seeds), 1e12 * FLAGS.rate
    chosen = suite.rows(FLAGS.suite, _named())
    found = suite.costs(chosen, variants, seeds, FLAGS.devices, rate)
    below = suite.caption(len(seeds), FLAGS.devices, rate)
    rows = suite.table(found)
    last = [len(rows) - 1]
    tables.show(console, FLAGS.suite, rows, left=2, caption=below, sections=last)


def _named() -> list[str]:
    """The datasets that the command names."""
    return list(FLAGS.dataset) if FLAGS["dataset"].present else []


def _datasets() -> list[str]:
    """The datasets of --suite, of the part of it that --dataset names, or of --dataset alone."""
    if not FLAGS.suite:
        return list(FLAGS.dataset)
    return [name for row in suite.rows(FLAGS.suite, _named()) for name in row.datasets]


def _execute(variants: Sequence[Variant], console: Console) -> int:
    folder, worst = commandline.folder(FLAGS.workdir), 0
    between = Console(quiet=True) if FLAGS.suite else console  # its table is long
    for dataset in _datasets():
        for each in variants:
            donors = [_place(other, dataset, folder) for other in variants if other != each]
            code = run.main(["run", *_arguments(each, dataset, folder)], donors)
            if code == commandline.INTERRUPTED:
                return code
            worst = worst or code
            worst = _tried_to_publish(folder, variants, between) or worst
    if FLAGS.suite:
        worst = _tried_to_publish(folder, variants, console) or worst
    worst = max(worst, _select(folder, variants, console) if FLAGS.select else 0)
    tables.write(console, commandline.page(folder))
    return worst


def _select(folder: Path, variants: Sequence[Variant], console: Console) -> int:
    """Estimates the variants on each dataset, and publishes the table with the choices."""
    found = []
    for dataset in _datasets():
        places = [_place(each, dataset, folder) for each in variants]
        runs = [
            selection.Candidates(place, [{"method": each.name}])
            for each, place in zip(variants, places, strict=True)
        ]
        path = places[0].parent / selection.ESTIMATES
        if values := selection.estimated(runs, path, console, FLAGS.select):
            found.append(values)
    try:
        _publish(folder, variants, console, found)
    except ConfigError as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    return 0 if len(found) == len(_datasets()) else commandline.FAILED


def _tried_to_publish(folder: Path, variants: Sequence[Variant], console: Console) -> int:
    """Publishes the table; that there is none yet is no reason not to train the others."""
    try:
        _publish(folder, variants, console)
    except ConfigError as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    return 0


def _publish(
    folder: Path,
    variants: Sequence[Variant],
    console: Console,
    estimates: Sequence[PolicyValues] = (),
) -> None:
    grid = table.collect([folder], [each.name for each in variants], FLAGS.last)
    grid = grid._replace(cells=_with_estimates(grid, estimates))
    if FLAGS.policies:
        grid = table.by_policy(grid)
    if grid.cells:
        against = FLAGS.against if FLAGS.against in grid.columns else ""
        more = [table.Titled(each.title, each.rows(), each.notes()) for each in estimates]
        table.publish(grid, folder, console, [*table.extras(grid, against), *more])


def _with_estimates(
    grid: table.Grid, estimates: Sequence[PolicyValues]
) -> dict[table.Cell, Mapping[str, Any]]:
    """The cells of the grid, with estimates where there are no scores."""
    cells = dict(grid.cells)
    for values in estimates:
        for group in values.groups:
            cell = (table.row_of(values.dataset, FLAGS.env), str(group.settings["method"]))
            if cell in cells:
                cells[cell] = {
                    **cells[cell],
                    "estimate": f"{values.estimator} {estimate_text(group)}",
                }
    return cells


def _place(each: Variant, dataset: str, folder: Path) -> Path:
    return folder / re.sub(r"[^\w.-]+", "-", dataset).strip("-.") / each.name


def _arguments(each: Variant, dataset: str, folder: Path) -> list[str]:
    place = _place(each, dataset, folder)
    shared = suite.settings(FLAGS.suite, dataset, each.algo) if FLAGS.suite else ()
    return [
        f"--algo={each.algo}",
        f"--dataset={dataset}",
        f"--env={FLAGS.env}",
        f"--seeds={FLAGS.seeds}",
        f"--workdir={place}",
        *(f"--{name}" for name in ("trust_env", "overwrite") if FLAGS[name].value),
        *commandline.hint_words(FLAGS),
        *(f"--set={text}" for text in (*shared, *each.assignments)),
    ]
