"""Writes a trained policy as one file that needs only JAX to run.

    jaxrl-prefs export --run=runs/bdpo-pendulum-mixed

The README shows how to load it. It takes raw observations [batch, O] float32 and the number of a
draw (uint32), and returns raw actions [batch, A].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import overrides, tables
from jaxrl_prefs.runs.memory import amount
from jaxrl_prefs.runs.workdir import write_bytes

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("run", "", "folder of the run", **_OWN)
commandline.share(FLAGS, algo="")
flags.DEFINE_multi_string(
    "point", [], "field=value, repeatable: which point of a sweep or a comparison", **_OWN
)
flags.DEFINE_string("policy", "", "one of the method's policies (default: the headline)", **_OWN)
flags.DEFINE_integer("seed", None, "one of the run's seeds (default: its first)", **_OWN)
flags.DEFINE_string("out", "", "the file (default: policy.jaxexport in the run's folder)", **_OWN)
commandline.share(FLAGS, help=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use."""
    from jaxrl_prefs.errors import LoadError

    console = commandline.console()
    try:
        commandline.read(FLAGS, argv)
        if FLAGS.help:
            tables.write(console, commandline.usage(__doc__, FLAGS, argv))
            return 0
        _execute(console)
        return 0
    except (*commandline.USER_ERRORS, LoadError) as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    except OSError as error:
        return commandline.fail(str(error), commandline.FAILED)


def _point(texts: Sequence[str]) -> dict[str, Any]:
    """Settings from `field=value`; a value is read as JSON where it can be, else as text."""
    settings: dict[str, Any] = {}
    for name, text in map(overrides.split, texts):
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def _execute(console: Console) -> None:
    if not FLAGS.run:
        raise ConfigError("--run names the folder of a run")
    from jaxrl_prefs.runs.load import load_run

    folder = Path(FLAGS.run)
    trained = load_run(folder, method=FLAGS.algo or None).at(_point(FLAGS.point))
    seed = trained.seeds[0] if FLAGS.seed is None else FLAGS.seed
    name = FLAGS.policy or next(iter(trained.method.policies))
    content = bytes(trained.export(seed, name).serialize())
    target = Path(FLAGS.out) if FLAGS.out else folder / "policy.jaxexport"
    write_bytes(target, content)
    spec = trained.spec
    console.print(
        f"{target}: {trained.algo}'s {name} of seed {seed} after {trained.step} updates, "
        f"{spec.observation_dim} observations to {spec.action_dim} actions, {amount(len(content))}",
        highlight=False,
        soft_wrap=True,
    )
