"""`python -m experiments.evaluate` is the command `jaxrl-prefs evaluate`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "evaluate", *sys.argv[1:]], typed="python -m experiments.evaluate")
