"""Trains a method on a bandit in the plane whose best policy is known, and draws what it learned.

    jaxrl-prefs toy --algo=bdpo --task=8gaussians

Prints learned against exact values. Writes results.json and the pictures of the BDPO paper's
figures 4 and 5 to the workdir; with --algo=bpr, one picture of self-play and reference sampling.
The same command resumes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data.generate.bandits import BANDITS
from jaxrl_prefs.errors import ConfigError, NonFiniteError
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.runs.workdir import write_json
from jaxrl_prefs.toy import arq, bpr, dac, figures, report, samplings, td3_bst
from jaxrl_prefs.toy.study import AXIS, CONFIGS, STUDIES, Outcome, Setting, fit, study
from jaxrl_prefs.types import Spec, Transition

ALL = "all"
POINTS = {"cpu": 200_000, "paper": 1_000_000}  # of data, made up front, by size

# Studies with a command of their own: they take --seed, --set and --workdir.
OTHERS: dict[str, Any] = {"arq": arq, "dac": dac, "td3_bst": td3_bst}

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
        ConfigError: for an unknown name, and for a value that a field does not take.
    """
    _read(argv)
    for kind, name, known in (
        ("algorithm", FLAGS.algo, STUDIES),
        ("task", FLAGS.task, [*BANDITS, ALL]),
        ("size", FLAGS.size, POINTS),
    ):
        if name not in known:
            raise ConfigError(overrides.unknown(kind, name, known))
    tasks = tuple(BANDITS) if FLAGS.task == ALL else (FLAGS.task,)
    eta = [f"eta={FLAGS.eta}"] if FLAGS.eta else []
    return Command(
        setting=_setting(tasks, (*FLAGS.set, *eta)),
        tasks=tasks,
        size=FLAGS.size,
        workdir=commandline.folder(FLAGS.workdir or f"runs/toy-{FLAGS.algo}"),
        help=FLAGS.help,
    )


def _read(argv: Sequence[str]) -> None:
    """Fills FLAGS from a command line."""
    commandline.read(FLAGS, argv, "; fields are set by --set {}")


def _setting(tasks: Sequence[str], assignments: Sequence[str]) -> Setting:
    """The fields of the size, then the assignments; checked before anything slow is done."""
    points = POINTS[FLAGS.size]
    mine = [text for text in assignments if overrides.split(text)[0] == "points"]
    for text in mine:
        points = overrides.parse("points", overrides.split(text)[1], int)
    config = CONFIGS[FLAGS.algo]()
    config = overrides.replace(config, STUDIES[FLAGS.algo].SIZES[FLAGS.size])
    config = overrides.apply(config, [text for text in assignments if text not in mine])
    if points < 1:
        raise ConfigError(f"field 'points' must be at least 1, got {points}")
    if not config.eta > 0:
        raise ConfigError(f"field 'eta' must be above 0, got {config.eta}")
    try:
        STUDIES[FLAGS.algo].check(config)
        for task in tasks:
            BANDITS[task].target_energy(config.eta)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Setting(FLAGS.algo, config, points, FLAGS.seed)


def usage(command: Command, argv: Sequence[str] | None = None) -> str:
    """The text of --help: flags, then the fields that --set takes, as the size sets them."""
    lines = [commandline.usage(__doc__, FLAGS, argv)]
    config, points = command.setting.config, command.setting.points
    lines += ["", f"Fields for --set, of the size {command.size}:", f"  points={points}"]
    for name in overrides.field_types(type(config)):
        value = getattr(config, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"  {name}={text}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    console = commandline.console()
    try:
        argv = sys.argv if argv is None else argv
        _read(argv)
        if FLAGS.algo in OTHERS:
            _other(OTHERS[FLAGS.algo], console)
            return 0
        command = parse(argv)
        if command.help:
            console.print(usage(command, argv), markup=False, highlight=False)
            return 0
        execute(command, console)
        return 0
    except (flags.Error, ConfigError) as error:
        return commandline.fail(str(error), commandline.WRONG_USE)
    except (NonFiniteError, OSError) as error:
        return commandline.fail(str(error), commandline.FAILED)
    except KeyboardInterrupt:
        return commandline.interrupted()


def _other(study: Any, console: Console) -> None:
    """Runs a study of its own, or prints its text and fields.

    Raises ConfigError for a flag that it does not take, and as the study.
    """
    for name in ("task", "size", "eta"):
        if FLAGS[name].present:
            raise ConfigError(f"--{name} has no meaning for --algo={FLAGS.algo}: leave it out")
    if not FLAGS.help:
        study.execute(
            FLAGS.set,
            FLAGS.seed,
            commandline.folder(FLAGS.workdir or f"runs/toy-{FLAGS.algo}"),
            console,
        )
        return
    fields = [f"  {name}={value}" for name, value in vars(study.configured(FLAGS.set)).items()]
    text = "\n".join([study.__doc__ or "", "Fields for --set:", *fields])
    console.print(text, markup=False, highlight=False)


def execute(command: Command, console: Console) -> None:
    """Trains on every task in turn, and writes everything known after each.

    Raises:
        NonFiniteError: if training breaks.
        OSError: if the workdir cannot be written.
    """
    command.workdir.mkdir(parents=True, exist_ok=True)
    devices.prepare()
    title = f"{command.setting.algo}, eta {command.setting.config.eta:g}, size {command.size}"
    if command.setting.algo == "bpr":
        return compare_samplings(command, title, console)
    outcomes: dict[str, Outcome] = {}
    for task in command.tasks:
        outcomes[task] = outcome = study(command.setting, BANDITS[task], command.workdir, console)
        console.print(report.table(f"{task}: {title}", outcome.numbers))
        picture = command.workdir / f"{task}-paths.png"
        caption = f"{command.setting.algo} on {task}, seed {command.setting.seed}"
        figures.draw_paths(picture, outcome.scene, outcome.samples["learned"], AXIS, caption)
        _write(command, title, outcomes)
    if len(outcomes) > 1:
        console.print(report.summary(title, {k: v.numbers for k, v in outcomes.items()}))
    console.print(f"results and pictures: {command.workdir}", soft_wrap=True, highlight=False)


def compare_samplings(command: Command, title: str, console: Console) -> None:
    """BPR's study: self-play against reference sampling, on every task, in one picture."""
    config, seed = command.setting.config, command.setting.seed

    def fit_energy(own: Any, data: Transition, spec: Spec) -> Any:
        setting = Setting("ibc", own, command.setting.points, seed)
        return fit(setting, data, spec, command.workdir, console)[1].state

    learning = bpr.curves(config.lam, seed)
    outcomes: dict[str, bpr.Outcome] = {}
    for task in command.tasks:
        outcomes[task] = bpr.study(config, BANDITS[task], command.setting.points, seed, fit_energy)
        rows = {
            name: {task: found.samples[name] for task, found in outcomes.items()}
            for name in ("data", "target", *bpr.SAMPLINGS)
        }
        picture = command.workdir / "samplings.png"
        samplings.draw(picture, learning, rows, AXIS, f"bpr, seed {seed}")
        _write_results(command, title, {task: found.numbers for task, found in outcomes.items()})
    console.print(bpr.table(title, outcomes))
    console.print(f"results and picture: {command.workdir}", soft_wrap=True, highlight=False)


def _write(command: Command, title: str, outcomes: Mapping[str, Outcome]) -> None:
    """results.json, and the samples of all tasks so far in one picture."""
    rows = {
        name: {task: outcome.samples[name] for task, outcome in outcomes.items()}
        for name in ("data", "target", "learned")
    }
    caption = f"{command.setting.algo}, seed {command.setting.seed}"
    figures.draw_samples(command.workdir / "samples.png", rows, AXIS, caption)
    _write_results(command, title, {task: outcome.numbers for task, outcome in outcomes.items()})


def _write_results(command: Command, title: str, tasks: Mapping[str, Any]) -> None:
    results = {
        "title": title,
        "seed": command.setting.seed,
        "points": command.setting.points,
        "config": command.setting.config.__dict__,
        "tasks": dict(tasks),
    }
    write_json(command.workdir / "results.json", results)
