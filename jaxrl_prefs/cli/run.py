"""Trains a method on a dataset with many seeds at once.

    python -m experiments.run --algo=bdpo --dataset=pendulum-mixed --seeds=5

The same command goes on where an interrupted run stopped and reports a finished one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import config, overrides
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.workdir import usual

LOST = "another process was lost; the same command resumes"

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("algo", "bdpo", f"the method: {', '.join(METHODS)}", **_OWN)
flags.DEFINE_string(
    "dataset",
    "pendulum-mixed",
    "pendulum-mixed (made here on first use), a Minari id such as mujoco/hopper/medium-v0, or the "
    "path of a file of D4RL, Robomimic (.hdf5), OGBench or NeoRL-2 (.npz)",
    **_OWN,
)
flags.DEFINE_string(
    "env",
    "",
    "evaluate in this Gymnasium environment (my_module:Mine-v0 imports my_module first) instead of "
    "the dataset's own; 'none' trains without",
    **_OWN,
)
flags.DEFINE_boolean(
    "trust_env",
    False,
    "make the environment that the dataset names even if that runs code of the dataset's choice",
    **_OWN,
)
flags.DEFINE_string("seeds", "5", "how many (5 is 0 to 4), a range (3:8 is 3 to 7), a list", **_OWN)
flags.DEFINE_string("workdir", "", "folder of the run (default: runs/<algo>-<dataset>)", **_OWN)
flags.DEFINE_multi_string(
    "set", [], "field=value, repeatable: a field of the run or of the method, listed below", **_OWN
)
flags.DEFINE_string("eval_episodes", "", "episodes for each seed, policy and evaluation", **_OWN)
flags.DEFINE_string(
    "eval_every", "", "updates between evaluations in the last phase; others end with one", **_OWN
)
flags.DEFINE_string(
    "eval_backend",
    "",
    "gymnasium (on the host's cores), mjx (policies and simulator on the device, all at once) or "
    "auto: gymnasium on a CPU and where there is no such simulator",
    **_OWN,
)
flags.DEFINE_string("log", "", "besides JSONL files: tensorboard, wandb or both, by commas", **_OWN)
flags.DEFINE_string(
    "coordinator",
    "",
    "run on several hosts: address:port of process 0, or auto on Slurm, Kubernetes and TPU pods; "
    "give every process the same command",
    **_OWN,
)
flags.DEFINE_integer("process_id", None, "this process's number, from 0; auto knows it", **_OWN)
flags.DEFINE_integer("num_processes", None, "how many processes; auto knows it", **_OWN)
flags.DEFINE_boolean("overwrite", False, "start anew, removing the run in --workdir", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)


class Place(NamedTuple):
    """This process among several, as `hosts.join` takes it."""

    coordinator: str
    process_id: int | None
    num_processes: int | None


class Command(NamedTuple):
    """A parsed command line."""

    choice: Choice
    workdir: Path
    overwrite: bool
    help: bool
    place: Place | None  # None: the only process


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line, the program's name first.

    Raises:
        flags.Error: for an unknown flag, or a value that a flag does not take.
        ConfigError: for an argument without a flag, and for wrong seeds.
    """
    commandline.read(FLAGS, argv, "; fields are set by --set {}")
    own = [
        f"{name}={FLAGS[name].value}"
        for name in ("eval_episodes", "eval_every", "eval_backend", "log")
        if FLAGS[name].value
    ]
    choice = Choice(
        algo=FLAGS.algo,
        dataset=FLAGS.dataset,
        env=FLAGS.env,
        seeds=config.parse_seeds(FLAGS.seeds),
        assignments=(*FLAGS.set, *own),
        trust_env=FLAGS.trust_env,
    )
    workdir = commandline.folder(FLAGS.workdir or f"runs/{usual(choice.algo, choice.dataset)}")
    place = Place(FLAGS.coordinator, FLAGS.process_id, FLAGS.num_processes)
    if not place.coordinator and place[1:] != (None, None):
        raise ConfigError("--process_id and --num_processes go with --coordinator=address:port")
    joins = place if place.coordinator else None
    return Command(choice, workdir, FLAGS.overwrite, FLAGS.help, joins)


def usage(algo: str) -> str:
    """The text of --help: flags, then the fields that --set takes with their defaults."""
    lines = [commandline.usage(__doc__, FLAGS)]
    method = METHODS[algo].Config() if algo in METHODS else None
    for title, fields in (("the run", config.RunConfig()), (algo, method)):
        if fields is None:
            continue
        lines += ["", f"Fields of {title} for --set, before the dataset's tuned values:"]
        for name in overrides.field_types(type(fields)):
            if name not in config.OWN_FLAGS:
                value = getattr(fields, name)
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                lines.append(f"  {name}={text}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    from jax.errors import JaxRuntimeError

    from jaxrl_prefs.errors import NonFiniteError

    console = Console()
    try:
        command = parse(sys.argv if argv is None else argv)
        if command.help:
            console.print(usage(command.choice.algo), markup=False, highlight=False)
            return 0
        _execute(command, console)
        return 0
    except commandline.USER_ERRORS as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    except JaxRuntimeError as error:
        if command.place is None:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return commandline.fail(f"out of memory: {error}", commandline.FAILED)
        return commandline.fail(f"{LOST} ({str(error).splitlines()[0]})", commandline.FAILED)
    except NonFiniteError as error:
        return commandline.fail(f"{error} The last good checkpoint is kept", commandline.FAILED)
    except OSError as error:  # a full disk, a checkpoint that cannot be written or read
        lost = command.place and any(isinstance(e, JaxRuntimeError) for e in _causes(error))
        return commandline.fail(f"{LOST} ({error})" if lost else str(error), commandline.FAILED)
    except KeyboardInterrupt:
        return commandline.interrupted()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _execute(command: Command, console: Console) -> None:
    """Prepares everything that may be wrong first, then trains and reports."""
    config.check(command.choice)
    devices.prepare()
    if command.place:
        _join(*command.place)
    from jaxrl_prefs.runs import prepare  # after the devices are chosen

    prepare.run(command.choice, command.workdir, console, overwrite=command.overwrite)


def _join(coordinator: str, process_id: int | None, num_processes: int | None) -> None:
    from jaxrl_prefs.parallel import processes

    try:
        processes.join(coordinator, process_id, num_processes)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--coordinator={coordinator}: {error}") from error
