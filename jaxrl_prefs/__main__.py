"""The command `jaxrl-prefs`, which is also `python -m jaxrl_prefs`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {  # name -> module with `main(argv)`, and what it does
    "run": ("jaxrl_prefs.cli.run", "train a method on a dataset, all seeds at once"),
    "compare": ("jaxrl_prefs.cli.compare", "train several methods on several datasets"),
    "sweep": ("jaxrl_prefs.cli.sweep", "train methods over a grid of settings"),
    "table": ("jaxrl_prefs.cli.table", "make one table of finished runs"),
    "plan": ("jaxrl_prefs.cli.plan", "tell what memory and time a run needs"),
    "data": ("jaxrl_prefs.cli.data", "list, describe, generate and convert datasets"),
    "export": ("jaxrl_prefs.cli.export", "write a trained policy as one file"),
    "toy": ("jaxrl_prefs.toy.command", "train on 2-D tasks whose best policy is known"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `jaxrl-prefs COMMAND ...`; returns the command's exit code, 2 without a command."""
    words = list(sys.argv if argv is None else argv)[1:]
    if words[:1] == ["--version"]:
        from jaxrl_prefs import __version__

        print(f"jaxrl-prefs {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"jaxrl-prefs has no command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    code: int = module.main([f"jaxrl-prefs {name}", *rest])
    return code


def usage() -> str:
    """The commands with a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    head, foot = "usage: jaxrl-prefs COMMAND [flags]", "jaxrl-prefs COMMAND --help says more."
    return "\n".join([head, "", *lines, "", foot])


def program() -> None:
    """Runs the command line of this process, and ends the process with its exit code."""
    command(sys.argv)


def command(argv: Sequence[str]) -> None:
    """Runs a command line and ends the process with its exit code; SIGTERM acts as Ctrl-C."""
    from jaxrl_prefs.cli import commandline

    commandline.leave(commandline.guarded(main, argv))


if __name__ == "__main__":
    program()
