"""`python -m experiments.export` is the command `jaxrl-prefs export`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.export import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "export", *sys.argv[1:]], typed="python -m experiments.export")
