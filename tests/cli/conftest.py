"""Small runs for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_runs import SHORT, brisk, command, fails, pendulum_file, short_run

__all__ = ["brisk", "command", "fails", "pendulum_file", "short_run"]


@pytest.fixture
def sweep_argv(pendulum_file: Path, tmp_path: Path) -> list[str]:
    """The command line of a small sweep, without a grid."""
    return [
        "sweep",
        "--algo=td3_bc",
        f"--dataset={pendulum_file}",
        "--env=Pendulum-v1",
        "--seeds=2",
        f"--workdir={tmp_path / 'sweep'}",
        *(f"--set={name}={value}" for name, value in SHORT.items() if name != "batch_size"),
    ]
