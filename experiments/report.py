"""`python -m experiments.report` is the command `jaxrl-prefs report`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.report import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "report", *sys.argv[1:]], typed="python -m experiments.report")
