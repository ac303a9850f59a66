"""`python -m experiments.data` is the command `jaxrl-prefs data`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.data import facts, histogram, main

__all__ = ["facts", "histogram", "main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "data", *sys.argv[1:]], typed="python -m experiments.data")
