"""What every command does with its flags, its errors and its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags

from jaxrl_prefs.errors import ConfigError, DataError, WorkdirError
from jaxrl_prefs.runs import interrupt

USER_ERRORS = (flags.Error, ConfigError, DataError, WorkdirError)
WRONG_USE, FAILED, INTERRUPTED = 2, 1, interrupt.INTERRUPTED


def words(own: flags.FlagValues, argv: Sequence[str] | None) -> list[str]:
    """Reads the flags anew, `sys.argv` if none are given; returns what belongs to no flag.

    Raises:
        flags.Error: for an unknown flag, or a value that a flag does not take.
    """
    own.unparse_flags()
    for name in own:
        own[name].unparse()
    return own(list(sys.argv if argv is None else argv))[1:]


def read(own: flags.FlagValues, argv: Sequence[str] | None, hint: str = "") -> None:
    """As `words`, for a program that takes flags alone.

    Raises:
        ConfigError: for anything else; the message ends in `hint`, with the word for {}.
    """
    rest = words(own, argv)
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}" + hint.format(rest[0]))


def usage(purpose: str | None, own: flags.FlagValues) -> str:
    """The text of --help: what the program is for, then its flags in the order of their lines."""
    lines = [purpose or "", "Flags:"]
    for flag in dict.fromkeys(own[name] for name in own):  # a short name is the same flag
        default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
        shown = f" (default: {default})" if default else ""
        about = flag.help.partition(";\n")[0]  # absl adds a line of its own to what repeats
        lines.append(f"  --{flag.name}: {about}{shown}")
    return "\n".join(lines)


def fail(message: str, code: int) -> int:
    """Prints one line to standard error, and returns the exit code."""
    print(" ".join(message.split()), file=sys.stderr)
    return code


def interrupted() -> int:
    """Says that a signal ended the command, and returns the exit code."""
    return fail(interrupt.LINE, INTERRUPTED)


def guarded(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs a command that Ctrl-C and SIGTERM end within ten seconds; returns the exit code."""
    interrupt.watch()
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


def leave(code: int) -> NoReturn:
    """Ends the process. One of several that failed waits for no other, as they may wait for it."""
    if code and "jax" in sys.modules:
        from jax import distributed

        if distributed.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)
