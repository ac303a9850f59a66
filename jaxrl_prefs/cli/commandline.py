"""What every command does with its flags, its errors and its end.

A command ends with exit code 0, 1 when something failed on the way, 2 for wrong use (a flag, a
name, a dataset or a folder that it cannot take) and 130 when it was interrupted. Every error is one
line on standard error.
"""

from __future__ import annotations

import difflib
import functools
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli.quiet import quieten_orbax
from jaxrl_prefs.data import Hints, read_hints
from jaxrl_prefs.errors import ConfigError, DataError, ExportError, LoadError, WorkdirError
from jaxrl_prefs.runs import interrupt, overrides
from jaxrl_prefs.runs.tables import WIDE

USER_ERRORS = (flags.Error, ConfigError, DataError, ExportError, LoadError, WorkdirError)
WRONG_USE, FAILED, INTERRUPTED = 2, 1, interrupt.INTERRUPTED
COMMAND = "jaxrl-prefs"

RENAMED_FLAGS = {"algos": "algo", "datasets": "dataset"}

# Flags that several commands have. A command gives each its default (see `define_flags`).
SHARED = {
    "algo": "the method: a name such as bdpo or td3_bc, or a module of yours, my_package.my_method",
    "dataset": "pendulum-mixed (made here on first use), a Minari id such as "
    "mujoco/hopper/medium-v0, a name of OGBench's such as cube-single-play-singletask-task1-v0, or "
    "a file or folder: Parquet, CSV, npz, npy, HDF5, LeRobot, D4RL, Robomimic, OGBench, NeoRL-2",
    "env": "evaluate in this Gymnasium environment (my_module:Mine-v0 imports my_module first) "
    "instead of the dataset's own; 'none' trains without",
    "trust_env": "make the environment that the dataset names even if that runs code of the "
    "dataset's choice",
    "observation_keys": "the columns of the observation in a table, separated by commas, or the "
    "first part of their names; of Robomimic's files, the observations to take",
    "out": "where to write: a file for a policy, a folder for tables (default: the run's folder)",
    "action_keys": "the columns of the action in a table",
    "reward_key": "the column of rewards in a table",
    "episode_key": "the column of a table that changes where an episode begins",
    "episode_ends": "what the last step of every episode in a table is: terminal (the task ended) "
    "or timeout (the recording was cut off)",
    "bad_rows": "of rows with a NaN or an infinity: error, or drop, which leaves them out and cuts "
    "the episode there",
    "action_low": "lower end of the actions, a number or one for each, separated by commas; by "
    "default what the data name, or the smallest recorded",
    "action_high": "upper end of the actions",
    "seeds": "how many (5 is 0 to 4), a range (3:8 is 3 to 7), a list (1,4)",
    "workdir": "the folder that everything is written to; without one, runs/<algo>-<dataset>, and "
    "of a sweep runs/sweep-<algo>-<dataset>",
    "preset": "where fields start: default (the papers' settings of the dataset, its robot or its "
    "family) or cpu (small networks and few updates, which some datasets have)",
    "set": "field=value, repeatable: a field of the run or of the method",
    "init": "RUN or RUN:phase: begin with the behaviour model (or critic) of another run's folder "
    "instead of training one; the same data, network sizes and seeds, and the same method or an "
    "identical phase. Without a phase, the method's first reusable one",
    "eval_episodes": "episodes for each seed, policy and evaluation",
    "eval_every": "updates between evaluations in the last phase; others end with one",
    "eval_backend": "gymnasium (on the host's cores), mjx (policies and simulator on the device, "
    "all at once) or auto: gymnasium on a CPU and where there is no such simulator",
    "holdout": "share of the episodes (0.1) that are not trained on: what a method measures of its "
    "own, such as the cloning error, is measured on them",
    "precision": "float32, tf32 (NVIDIA's accelerators) or bfloat16: how precisely the hidden "
    "layers of networks are multiplied. All else stays in float32",
    "deterministic": "on a GPU, only operations that give the same bits in every run, so that a "
    "resumed run ends like one that was not stopped; may be slower. A CPU's always do",
    "log": "what to write besides the JSONL files: tensorboard, wandb, or both, separated by "
    "a comma",
    "overwrite": "start again, removing the runs in --workdir; without it a run goes on, also with "
    "more seeds, updates or evaluation episodes",
    "last": "scores are means over so many evaluations, the last ones",
    "select": "fqe: estimate the policies from the data, without an environment, and choose one",
    "against": "also show every column's difference to this one",
    "policies": "a column for every policy of a method",
    "devices": "over how many devices the seeds are spread",
    "rate": "TFLOP/s that a device sustains; 0 measures here",
    "suite": "datasets that papers compare on, with the settings that they share: ogbench50 (fifty "
    "single tasks of OGBench); --dataset takes some of them",
    "dry_run": "of a suite: print what it would cost, and train nothing",
    "help": "show this text",
}
HINTS = {name: "error" if name == "bad_rows" else "" for name in Hints._fields}
EVALUATION = ("eval_episodes", "eval_every", "eval_backend")
# Fields of a run that have a flag besides --set.
WITH_FLAGS = ("preset", *EVALUATION, "holdout", "precision", "deterministic", "log")


def define_flags(own: flags.FlagValues, **defaults: Any) -> None:
    """Defines flags of `SHARED`, each with its default, whose type decides what the flag takes.

    A list takes several values separated by commas, a tuple a flag that is repeated, a whole number
    one of at least 1, another number one of at least 0.
    """
    for name, default in defaults.items():
        about = SHARED[name]
        if isinstance(default, bool):
            short = "h" if name == "help" else None
            flags.DEFINE_boolean(name, default, about, short_name=short, flag_values=own)
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, about, lower_bound=0.0, flag_values=own)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, about, lower_bound=1, flag_values=own)
        elif isinstance(default, list):
            several = f"{about}; or several, separated by commas"
            flags.DEFINE_list(name, default, several, flag_values=own)
        elif isinstance(default, tuple):
            flags.DEFINE_multi_string(name, list(default), about, flag_values=own)
        else:
            flags.DEFINE_string(name, default, about, flag_values=own)


def hints(own: flags.FlagValues) -> Hints:
    """What the flags of HINTS say about the data.

    Raises:
        DataError: for a value that one does not take.
    """
    return read_hints(**{name: own[name].value for name in HINTS if own[name].value})


def hint_words(own: flags.FlagValues) -> list[str]:
    """The flags of HINTS that were given, as they are typed."""
    return [f"--{name}={own[name].value}" for name in HINTS if own[name].value != HINTS[name]]


def assignments(own: flags.FlagValues) -> tuple[str, ...]:
    """The assignments of --set, then those of the flags that are fields of a run."""
    written: list[str] = own.flag_values_dict()["set"]
    there = [name for name in WITH_FLAGS if name in own]
    others = [f"{name}={own[name].value}" for name in there if own[name].value]
    return (*written, *others)


def point(texts: Sequence[str]) -> dict[str, Any]:
    """The settings of a point from `field=value`; a value is read as JSON where it can be."""
    settings: dict[str, Any] = {}
    for name, text in map(overrides.split, texts):
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def words(own: flags.FlagValues, argv: Sequence[str] | None) -> list[str]:
    """Reads the flags anew, `sys.argv` if none are given; returns what belongs to no flag.

    Raises:
        flags.Error: for a value that a flag does not take.
        ConfigError: for an unknown flag.
    """
    own.unparse_flags()
    for name in own:
        own[name].unparse()
    try:
        return own(list(sys.argv if argv is None else argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise ConfigError(_unknown_flag(error.flagname, own)) from None


def _unknown_flag(name: str, own: flags.FlagValues) -> str:
    known = list(dict.fromkeys(own[each].name for each in own))
    if (now := RENAMED_FLAGS.get(name)) in known:
        return f"no flag --{name}: it is called --{now}"
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
        return f"no flag --{name}. Did you mean --{close[0]}?"
    if "set" in known:
        return f"no flag --{name}: fields of the run and of the method are set by --set={name}=..."
    return f"no flag --{name}. Valid: {', '.join(f'--{each}' for each in sorted(known))}"


def read(own: flags.FlagValues, argv: Sequence[str] | None, hint: str = "") -> None:
    """As `words`, for a program that takes only flags.

    Raises:
        ConfigError: for anything else; the message ends in `hint`, with the word for {}.
    """
    rest = words(own, argv)
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}" + hint.format(rest[0]))


def usage(purpose: str | None, own: flags.FlagValues, argv: Sequence[str] | None = None) -> str:
    """The text of --help: what the program is for, then its flags in the order of their lines.

    Args:
        purpose: the command's docstring, which calls it `jaxrl-prefs NAME`.
        own: its flags.
        argv: its command line, whose first word is what the user typed to start it.
    """
    lines = [_as_typed(purpose or "", argv), "Flags:"]
    for flag in dict.fromkeys(own[name] for name in own):  # a short name is the same flag
        default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
        shown = f" (default: {default})" if default else ""
        about = flag.help.partition(";\n")[0]  # absl adds a line of its own to what repeats
        lines.append(f"  --{flag.name}: {about}{shown}")
    return "\n".join(lines)


def _as_typed(purpose: str, argv: Sequence[str] | None) -> str:
    """The purpose, with `python -m experiments.run` for `jaxrl-prefs run` if that was typed."""
    typed = argv[0] if argv else COMMAND
    name = typed.replace(".", " ").split()[-1]
    return purpose.replace(f"{COMMAND} {name}", typed) if typed.startswith("python") else purpose


def console() -> Console:
    """Where a command prints: as wide as the terminal, and endlessly wide into a pipe or a file.

    A character that the encoding lacks is written by its number.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else WIDE, force_terminal=None if terminal else False)


def fail(message: str, code: int) -> int:
    """Prints one line to standard error, and returns the exit code."""
    print(" ".join(message.split()), file=sys.stderr)
    return code


def interrupted() -> int:
    """Says that a signal ended the command, and returns the exit code."""
    interrupt.said.set()
    return fail(interrupt.LINE, INTERRUPTED)


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
    """A decorator of a command: its errors become one line each and an exit code."""

    @functools.wraps(main)
    def command(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except USER_ERRORS as error:
            return fail(str(error), WRONG_USE)
        except OSError as error:  # a full disk, a folder that cannot be written to
            return fail(str(error), FAILED)
        except KeyboardInterrupt:
            return interrupted()

    return command


def guarded(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs a command that Ctrl-C and SIGTERM end within ten seconds; returns the exit code."""
    interrupt.watch()
    quieten_orbax()
    try:
        return main(argv)
    except KeyboardInterrupt:
        return interrupted()
    except MemoryError as error:
        told = str(error) or "an array could not be allocated"
        return fail(f"out of memory: {told}. Fewer seeds at a time take less", FAILED)


def folder(text: str) -> Path:
    """The folder that a flag names; ~ is the user's own."""
    return Path(text).expanduser()


def page(folder: Path) -> str:
    """The line with which a command names the page about what it trained."""
    return f"a page to look at: {COMMAND} report {shlex.quote(str(folder))} --html"


def leave(code: int) -> NoReturn:
    """Ends the process. One of several that failed waits for no other, as they may wait for it."""
    if code and "jax" in sys.modules:
        from jax import distributed

        if distributed.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)
