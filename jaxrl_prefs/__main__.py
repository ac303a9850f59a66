"""The command `jaxrl-prefs`, which is also `python -m jaxrl_prefs`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {  # name -> module with `main(argv)`, and what it does
    "run": ("jaxrl_prefs.cli.run", "train a method on a dataset, all seeds at once"),
    "compare": ("jaxrl_prefs.cli.compare", "train several methods on several datasets"),
    "sweep": ("jaxrl_prefs.cli.sweep", "train methods over a grid of settings"),
    "table": ("jaxrl_prefs.cli.table", "make one table of finished runs"),
    "evaluate": ("jaxrl_prefs.cli.evaluate", "estimate policies from data, without playing them"),
    "plan": ("jaxrl_prefs.cli.plan", "tell what memory and time a run needs"),
    "data": ("jaxrl_prefs.cli.data", "list, describe, generate and convert datasets"),
    "export": ("jaxrl_prefs.cli.export", "write a trained policy as one file"),
    "play": ("jaxrl_prefs.cli.play", "play a trained policy, and draw it"),
    "report": ("jaxrl_prefs.cli.report", "write a page about runs, to be opened in a browser"),
    "toy": ("jaxrl_prefs.toy.command", "train on 2-D tasks whose best policy is known"),
}


NAME = "jaxrl-prefs"
EXITS = "Exit codes: 0 done, 1 something failed, 2 wrong use, 130 interrupted."


def main(argv: Sequence[str] | None = None, typed: str = "") -> int:
    """Runs `jaxrl-prefs COMMAND ...`.

    Args:
        argv: the command line, the program's name first; `sys.argv` if none is given.
        typed: what the user wrote to start COMMAND, where it is not `jaxrl-prefs COMMAND`.

    Returns:
        The command's exit code; 2 for a command that does not exist.
    """
    program, *words = list(sys.argv if argv is None else argv)
    if words[:1] == ["--version"]:
        from jaxrl_prefs import __version__

        print(f"{NAME} {__version__}")
        return 0
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        print(f"{NAME} has no command {name!r}.{guess} {NAME} lists them", file=sys.stderr)
        return 2
    if program.endswith("__main__.py"):
        typed = f"python -m jaxrl_prefs {name}"
    module = importlib.import_module(COMMANDS[name][0])
    code: int = module.main([typed or f"{NAME} {name}", *rest])
    return code


def usage() -> str:
    """The commands with a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    foot = f"{NAME} help COMMAND says more, {NAME} --version which version this is.\n{EXITS}"
    return "\n".join([f"usage: {NAME} COMMAND [flags]", "", *lines, "", foot])


def program() -> None:
    """Runs the command line of this process, and ends the process with its exit code."""
    command(sys.argv)


def command(argv: Sequence[str], typed: str = "") -> None:
    """Runs a command line and ends the process with its exit code; SIGTERM acts as Ctrl-C.

    `argv` and `typed` are those of `main`.
    """
    from jaxrl_prefs.cli import commandline

    commandline.leave(commandline.guarded(lambda words: main(words, typed), argv))


if __name__ == "__main__":
    program()
