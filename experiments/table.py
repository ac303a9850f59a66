"""`python -m experiments.table` is the command `jaxrl-prefs table`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.table import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "table", *sys.argv[1:]], typed="python -m experiments.table")
