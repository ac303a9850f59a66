"""`python -m experiments.play` is the command `jaxrl-prefs play`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.play import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "play", *sys.argv[1:]], typed="python -m experiments.play")
