"""Small runs for every test here."""

from __future__ import annotations

from tests.small_runs import brisk, command, fails, pendulum_file, short_run

__all__ = ["brisk", "command", "fails", "pendulum_file", "short_run"]
