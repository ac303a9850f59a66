"""`python -m experiments.run` is the command `jaxrl-prefs run`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.commandline import USER_ERRORS
from jaxrl_prefs.cli.run import main

__all__ = ["USER_ERRORS", "main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "run", *sys.argv[1:]], typed="python -m experiments.run")
