"""Trains several methods on several datasets, one after the other, into one table.

    python -m experiments.compare --algos=bc,td3_bc --datasets=pendulum-mixed --seeds=3

A variant of a method is written with its settings: `bpr+critic=onestep`. The same command goes on
where it was stopped, inside a run as well; a run that fails is reported and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, run, table
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import config, overrides

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_list("algos", ["bdpo"], f"methods or variants, of {', '.join(METHODS)}", **_OWN)
flags.DEFINE_list("datasets", ["pendulum-mixed"], "datasets, as experiments.run takes", **_OWN)
flags.DEFINE_boolean("trust_env", False, "as experiments.run takes", **_OWN)
flags.DEFINE_string("seeds", "3", "as experiments.run takes", **_OWN)
flags.DEFINE_string("workdir", "runs/compare", "folder of the runs and the table", **_OWN)
flags.DEFINE_multi_string(
    "set", [], "field=value, repeatable: for every method that has the field", **_OWN
)
flags.DEFINE_integer(
    "last", 1, "the table's scores are means over so many evaluations", lower_bound=1, **_OWN
)
flags.DEFINE_string("against", "", "also show every variant's difference to this one", **_OWN)
flags.DEFINE_boolean("policies", False, "a column for every policy of a method", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)


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


def check(variants: Sequence[Variant], common: Sequence[str], seeds: str) -> None:
    """Finds what is wrong before anything is trained.

    Raises:
        ConfigError: for a setting that no method has or that has a wrong type, a variant named
            twice, and wrong seeds.
    """
    names = [each.name for each in variants]
    if len(set(names)) < len(names):
        raise ConfigError(f"--algos names a variant twice: {', '.join(names)}")
    config.check_known([overrides.split(x)[0] for x in common], [each.algo for each in variants])
    for each in variants:
        config.check(config.Choice(each.algo, "", "", config.parse_seeds(seeds), each.assignments))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 a run failed, 2 wrong use, 130 stopped."""
    console = Console()
    try:
        commandline.read(FLAGS, argv, "; lists are parted by commas")
        if FLAGS.help:
            console.print(commandline.usage(__doc__, FLAGS), markup=False, highlight=False)
            return 0
        variants = [variant(text, FLAGS.set) for text in FLAGS.algos]
        check(variants, FLAGS.set, FLAGS.seeds)
        return _execute(variants, console)
    except commandline.USER_ERRORS as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    except OSError as error:
        return commandline.fail(str(error), commandline.FAILED)
    except KeyboardInterrupt:
        return commandline.interrupted()


def _execute(variants: Sequence[Variant], console: Console) -> int:
    folder, worst = commandline.folder(FLAGS.workdir), 0
    for dataset in FLAGS.datasets:
        for each in variants:
            code = run.main(["run", *_arguments(each, dataset, folder)])
            if code == commandline.INTERRUPTED:
                return code
            worst = worst or code
            try:
                _publish(folder, variants, console)
            except ConfigError as error:  # no table yet is no reason not to train the others
                worst = commandline.fail(str(error), commandline.WRONG_USE)
    return worst


def _publish(folder: Path, variants: Sequence[Variant], console: Console) -> None:
    grid = table.collect([folder], [each.name for each in variants], FLAGS.last)
    if FLAGS.policies:
        grid = table.by_policy(grid)
    if grid.cells:
        against = FLAGS.against if FLAGS.against in grid.columns else ""
        table.publish(grid, folder, console, table.extras(grid, against))


def _arguments(each: Variant, dataset: str, folder: Path) -> list[str]:
    place = folder / re.sub(r"[^\w.-]+", "-", dataset).strip("-.") / each.name
    return [
        f"--algo={each.algo}",
        f"--dataset={dataset}",
        f"--seeds={FLAGS.seeds}",
        f"--workdir={place}",
        *(["--trust_env"] if FLAGS.trust_env else []),
        *(f"--set={text}" for text in each.assignments),
    ]
