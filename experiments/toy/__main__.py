"""Runs the command line."""

from __future__ import annotations

import sys

from experiments.toy.command import main

if __name__ == "__main__":
    sys.exit(main())
