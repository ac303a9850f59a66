"""`python -m experiments.compare` is the command `jaxrl-prefs compare`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.compare import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "compare", *sys.argv[1:]], typed="python -m experiments.compare")
