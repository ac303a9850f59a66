"""Trains a method on a bandit in the plane whose best policy is known, and draws what it learned.

    python -m experiments.toy --algo=bdpo --task=8gaussians

Prints learned against exact values. Writes results.json and the pictures of the BDPO paper's
figures 4 and 5 to the workdir.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from experiments import overrides, run
from experiments.overrides import OverrideError
from experiments.toy import figures, report, td3_bst
from experiments.toy.study import AXIS, STUDIES, Outcome, Setting, study
from experiments.workdir import write_json
from jaxrl_prefs.data.bandits import BANDITS
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.train import NonFinite

ALL = "all"
POINTS = {"cpu": 200_000, "paper": 1_000_000}  # of data, made up front, by size

# Studies that are not a bandit with a known best policy: they take --seed, --set and --workdir.
OTHERS: dict[str, Any] = {"td3_bst": td3_bst}

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("algo", "bdpo", f"the method: {', '.join([*STUDIES, *OTHERS])}", **_OWN)
flags.DEFINE_string("task", "8gaussians", f"the task: {', '.join(BANDITS)}, or {ALL}", **_OWN)
flags.DEFINE_string(
    "size", "cpu", "cpu (minutes on one core) or paper (the paper's networks and steps)", **_OWN
)
flags.DEFINE_string("eta", "", "strength of the regularisation; empty takes the size's", **_OWN)
flags.DEFINE_integer("seed", 0, "of data, training and samples", lower_bound=0, **_OWN)
flags.DEFINE_string("workdir", "", "folder of the results (default: runs/toy-<algo>)", **_OWN)
flags.DEFINE_multi_string(
    "set", [], "field=value, repeatable: points, or a field of the method listed below", **_OWN
)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)


class Command(NamedTuple):
    """A parsed command line."""

    setting: Setting
    tasks: tuple[str, ...]
    size: str
    workdir: Path
    help: bool


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line, the program's name first.

    Raises:
        flags.Error: for an unknown flag, or a value that a flag does not take.
        OverrideError: for an unknown name, and for a value that a field does not take.
    """
    _read(argv)
    for kind, name, known in (
        ("algorithm", FLAGS.algo, STUDIES),
        ("task", FLAGS.task, [*BANDITS, ALL]),
        ("size", FLAGS.size, POINTS),
    ):
        if name not in known:
            raise OverrideError(overrides.unknown(kind, name, known))
    tasks = tuple(BANDITS) if FLAGS.task == ALL else (FLAGS.task,)
    eta = [f"eta={FLAGS.eta}"] if FLAGS.eta else []
    return Command(
        setting=_setting(tasks, (*FLAGS.set, *eta)),
        tasks=tasks,
        size=FLAGS.size,
        workdir=Path(FLAGS.workdir or f"runs/toy-{FLAGS.algo}"),
        help=FLAGS.help,
    )


def _read(argv: Sequence[str]) -> None:
    """Fills FLAGS from a command line."""
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    rest = FLAGS(list(argv))
    if rest[1:]:
        raise OverrideError(f"unexpected argument {rest[1]!r}; fields are set by --set {rest[1]}")


def _setting(tasks: Sequence[str], assignments: Sequence[str]) -> Setting:
    """The fields of the size, then the assignments; checked before anything slow is done."""
    points = POINTS[FLAGS.size]
    mine = [text for text in assignments if overrides.split(text)[0] == "points"]
    for text in mine:
        points = overrides.parse("points", overrides.split(text)[1], int)
    config = METHODS[FLAGS.algo].Config()
    config = overrides.replace(config, STUDIES[FLAGS.algo].SIZES[FLAGS.size])
    config = overrides.apply(config, [text for text in assignments if text not in mine])
    if points < 1:
        raise OverrideError(f"field 'points' must be at least 1, got {points}")
    if not config.eta > 0:
        raise OverrideError(f"field 'eta' must be above 0, got {config.eta}")
    try:
        STUDIES[FLAGS.algo].check(config)
        for task in tasks:
            BANDITS[task].target_energy(config.eta)
    except ValueError as error:
        raise OverrideError(str(error)) from error
    return Setting(FLAGS.algo, config, points, FLAGS.seed)


def usage(command: Command) -> str:
    """The text of --help: flags, then the fields that --set takes, as the size sets them."""
    lines = [__doc__ or "", "Flags:"]
    for name in ("algo", "task", "size", "eta", "seed", "workdir", "set", "help"):
        shown = f" (default: {FLAGS[name].default})" if FLAGS[name].default else ""
        lines.append(f"  --{name}: {FLAGS[name].help}{shown}")
    config, points = command.setting.config, command.setting.points
    lines += ["", f"Fields for --set, of the size {command.size}:", f"  points={points}"]
    for name in overrides.field_types(type(config)):
        value = getattr(config, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"  {name}={text}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    console = Console()
    try:
        argv = sys.argv if argv is None else argv
        _read(argv)
        if FLAGS.algo in OTHERS and not FLAGS.help:
            workdir = Path(FLAGS.workdir or f"runs/toy-{FLAGS.algo}")
            OTHERS[FLAGS.algo].execute(FLAGS.set, FLAGS.seed, workdir, console)
            return 0
        command = parse(argv)
        if command.help:
            console.print(usage(command), markup=False, highlight=False)
            return 0
        execute(command, console)
        return 0
    except (flags.Error, OverrideError) as error:
        return run.say(str(error), run.WRONG_USE)
    except (NonFinite, OSError) as error:
        return run.say(str(error), run.FAILED)
    except KeyboardInterrupt:
        return run.say("interrupted", run.INTERRUPTED)


def execute(command: Command, console: Console) -> None:
    """Trains on every task in turn, and writes everything known after each.

    Raises:
        NonFinite: if training breaks.
        OSError: if the workdir cannot be written.
    """
    command.workdir.mkdir(parents=True, exist_ok=True)
    run.prepare_jax()
    title = f"{command.setting.algo}, eta {command.setting.config.eta:g}, size {command.size}"
    outcomes: dict[str, Outcome] = {}
    for task in command.tasks:
        outcomes[task] = outcome = study(command.setting, BANDITS[task], console)
        console.print(report.table(f"{task}: {title}", outcome.numbers))
        picture = command.workdir / f"{task}-paths.png"
        figures.draw_paths(picture, outcome.scene, outcome.samples["learned"], AXIS)
        _write(command, title, outcomes)
    if len(outcomes) > 1:
        console.print(report.summary(title, {k: v.numbers for k, v in outcomes.items()}))
    console.print(f"results and pictures: {command.workdir}", soft_wrap=True, highlight=False)


def _write(command: Command, title: str, outcomes: Mapping[str, Outcome]) -> None:
    """results.json, and the samples of all tasks so far in one picture."""
    rows = {
        name: {task: outcome.samples[name] for task, outcome in outcomes.items()}
        for name in ("data", "target", "learned")
    }
    figures.draw_samples(command.workdir / "samples.png", rows, AXIS)
    results = {
        "title": title,
        "seed": command.setting.seed,
        "points": command.setting.points,
        "config": command.setting.config.__dict__,
        "tasks": {task: outcome.numbers for task, outcome in outcomes.items()},
    }
    write_json(command.workdir / "results.json", results)
