"""Runs the command `jaxrl-prefs toy`."""

from __future__ import annotations

import sys

from jaxrl_prefs.__main__ import command

if __name__ == "__main__":
    command(["jaxrl-prefs", "toy", *sys.argv[1:]], typed="python -m experiments.toy")
