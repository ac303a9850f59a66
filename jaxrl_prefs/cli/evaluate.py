"""Estimates what trained policies are worth from recorded data, without playing them.

    jaxrl-prefs evaluate --run=runs/compare
    jaxrl-prefs evaluate --run=runs/td3_bc-my-arm --dataset=held_out.hdf5 --estimator=fqe

--run takes the folder of a run, a sweep or a comparison on one dataset. All seeds are evaluated on
the same episodes: those of the run's own dataset, read as the run read it, or of --dataset.
fqe is fitted Q evaluation. wis (weighted importance sampling) and dr (its doubly robust form) need
a policy that draws from a density, and the behaviour's density: --behavior names a run of bc with
policy=gaussian on the same data. An estimate is not a score: read the warning signs. Writes
estimates.json to the run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags
from rich.console import Console

from jaxrl_prefs import data as datasets
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides, tables
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.workdir import write_json

ESTIMATES = "estimates.json"

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("run", "", "folder of the run", **_OWN)
commandline.define_flags(FLAGS, algo="", dataset="")
commandline.define_flags(FLAGS, **commandline.HINTS)
flags.DEFINE_enum("estimator", "fqe", ["fqe", "wis", "dr"], "fqe, wis or dr", **_OWN)
flags.DEFINE_multi_string(
    "point", [], "field=value, repeatable: which point of a sweep or a comparison", **_OWN
)
flags.DEFINE_string("policy", "", "one of the method's policies (default: the headline)", **_OWN)
flags.DEFINE_string("behavior", "", "folder of a run that cloned the behaviour's density", **_OWN)
flags.DEFINE_multi_string(
    "fit", [], "field=value, repeatable: of the Q functions, such as updates=50000", **_OWN
)
commandline.define_flags(FLAGS, holdout="", help=False)


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    console = commandline.console()
    commandline.read(FLAGS, argv)
    if FLAGS.help:
        tables.write(console, usage(argv))
        return 0
    _execute(console)
    return 0


def usage(argv: Sequence[str] | None) -> str:
    """The text of --help: flags, then the fields that --fit takes."""
    from jaxrl_prefs.cli import fields
    from jaxrl_prefs.runs import off_policy_evaluation

    described = fields.described(off_policy_evaluation.settings({}))
    text = commandline.usage(__doc__, FLAGS, argv)
    return "\n".join([text, "", "Fields of the Q functions for --fit:", *described])


def _execute(console: Console) -> None:
    if not FLAGS.run:
        raise ConfigError("--run names the folder of a run")
    devices.prepare()
    from jaxrl_prefs.runs import off_policy_evaluation
    from jaxrl_prefs.runs.load import load_run

    config = off_policy_evaluation.settings({}, FLAGS.fit)
    given = commandline.hint_words(FLAGS)
    if given and not FLAGS.dataset:
        raise ConfigError(
            f"{given[0]} is for --dataset; the run's own data are read as the run read them"
        )
    folder = commandline.folder(FLAGS.run)
    trained = load_run(folder, method=FLAGS.algo or None)
    points = list(trained.select(commandline.point(FLAGS.point)))
    behavior = None
    if FLAGS.behavior:
        (behavior,) = load_run(commandline.folder(FLAGS.behavior)).at().select({})
    other = datasets.load(FLAGS.dataset, hints=commandline.hints(FLAGS)) if FLAGS.dataset else None
    values = off_policy_evaluation.estimate(
        points,
        other,
        estimator=FLAGS.estimator,
        policies=[FLAGS.policy] if FLAGS.policy else (),
        holdout=overrides.parse("holdout", FLAGS.holdout, float) if FLAGS.holdout else None,
        behavior=behavior,
        config=config,
        say=lambda text: line(console, text),
    )
    tables.show(console, values.title, values.rows(), left=1, caption="\n".join(values.notes()))
    write_json(folder / ESTIMATES, values.as_json())
