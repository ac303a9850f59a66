"""`python -m experiments.plan` is the command `jaxrl-prefs plan`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command
from jaxrl_prefs.cli.plan import main

__all__ = ["main"]

if __name__ == "__main__":
    command(["jaxrl-prefs", "plan", *sys.argv[1:]], typed="python -m experiments.plan")
