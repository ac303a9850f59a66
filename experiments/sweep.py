"""`python -m experiments.sweep` is the command `jaxrl-prefs sweep`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.sweep import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "sweep", *sys.argv[1:]], typed="python -m experiments.sweep")
