"""Trains a method on a dataset with many seeds at once.

    jaxrl-prefs run --algo=bdpo --dataset=pendulum-mixed --seeds=5

The same command resumes an interrupted run and reports a finished one. With more --seeds, more
--eval_episodes or, where no schedule ends with them, more updates it trains or plays what is
missing; how often rows are written and the loggers may change as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, fields
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.parallel import devices, processes
from jaxrl_prefs.runs import config, tables
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.workdir import usual

FLAGS = flags.FlagValues()
commandline.define_flags(
    FLAGS,
    algo="bdpo",
    dataset="pendulum-mixed",
    env="",
    trust_env=False,
    **commandline.HINTS,
    seeds="5",
    workdir="",
    init="",
    preset="",
    set=(),
    eval_episodes="",
    eval_every="",
    eval_backend="",
    holdout="",
    precision="",
    deterministic=False,
    log="",
    overwrite=False,
)
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string(
    "coordinator",
    "",
    "run on several hosts: address:port of process 0, or auto on Slurm, Kubernetes and TPU pods; "
    "give every process the same command",
    **_OWN,
)
flags.DEFINE_integer("process_id", None, "this process's number, from 0; auto knows it", **_OWN)
flags.DEFINE_integer("num_processes", None, "how many processes; auto knows it", **_OWN)
commandline.define_flags(FLAGS, help=False)


class Place(NamedTuple):
    """This process among several, as `processes.join` takes it."""

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


def parse(argv: Sequence[str], donors: Sequence[Path] = ()) -> Command:
    """Reads the command line, the program's name first; `donors` as `Choice` has them.

    Raises:
        flags.Error: for an unknown flag, or a value that a flag does not take.
        ConfigError: for an argument without a flag, and for wrong seeds.
    """
    commandline.read(FLAGS, argv, "; fields are set by --set {}")
    choice = Choice(
        algo=FLAGS.algo,
        dataset=FLAGS.dataset,
        env=FLAGS.env,
        seeds=config.parse_seeds(FLAGS.seeds),
        assignments=commandline.assignments(FLAGS),
        trust_env=FLAGS.trust_env,
        init=FLAGS.init,
        donors=tuple(donors),
        hints=commandline.hints(FLAGS),
    )
    workdir = commandline.folder(FLAGS.workdir or f"runs/{usual(choice.algo, choice.dataset)}")
    place = Place(FLAGS.coordinator, FLAGS.process_id, FLAGS.num_processes)
    if not place.coordinator and place[1:] != (None, None):
        raise ConfigError("--process_id and --num_processes go with --coordinator=address:port")
    joins = place if place.coordinator else None
    return Command(choice, workdir, FLAGS.overwrite, FLAGS.help, joins)


def usage(command: Command, argv: Sequence[str]) -> str:
    """The text of --help: flags, then the fields that --set takes with the values they would have.

    Raises:
        ConfigError: as `config.check`.
    """
    flags_text = commandline.usage(__doc__, FLAGS, argv)
    return f"{flags_text}\n\n{fields.usage([command.choice])}"


def main(argv: Sequence[str] | None = None, donors: Sequence[Path] = ()) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted.

    Args:
        argv: the words typed, the program's name first.
        donors: folders of runs from which this one takes a phase that is the same for both.
    """
    from jax.errors import JaxRuntimeError

    from jaxrl_prefs.errors import NonFiniteError

    console = commandline.console()
    try:
        argv = sys.argv if argv is None else argv
        command = parse(argv, donors)
        if command.help:
            tables.write(console, usage(command, argv))
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
        return commandline.fail(
            f"{processes.LOST} ({str(error).splitlines()[0]})", commandline.FAILED
        )
    except NonFiniteError as error:
        return commandline.fail(f"{error} The last good checkpoint is kept", commandline.FAILED)
    except OSError as error:  # a full disk, a checkpoint that cannot be written or read
        lost = command.place and any(isinstance(e, JaxRuntimeError) for e in _causes(error))
        return commandline.fail(
            f"{processes.LOST} ({error})" if lost else str(error), commandline.FAILED
        )
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

    prepare.train_in(command.choice, command.workdir, console, overwrite=command.overwrite)
    prepare.report(command.workdir, console)
    if processes.is_leader():
        tables.write(console, commandline.page(command.workdir))


def _join(coordinator: str, process_id: int | None, num_processes: int | None) -> None:
    try:
        processes.join(coordinator, process_id, num_processes)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--coordinator={coordinator}: {error}") from error
