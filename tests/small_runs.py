"""A small run: five episodes of Pendulum, networks of eight units, a few updates in each phase."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from jaxrl_prefs.cli import run
from jaxrl_prefs.method import Method
from jaxrl_prefs.runs import estimate, prepare
from jaxrl_prefs.types import Spec

TINY = {
    "policy": "gaussian",  # compiles in half the time of a chain
    "actor_hidden": "8",
    "critic_hidden": "8",
    "critic_ensemble_size": "2",
    "diffusion_steps": "2",
    "q_samples": "2",
    "v_samples": "2",
    "actor_samples": "2",
    "candidates": "2",
    "batch_size": "16",
    "pretrain_steps": "4",
    "train_steps": "8",
    "warmup_steps": "3",
    "actor_interval": "2",
    "log_every": "2",
    "checkpoint_every": "2",
    "eval_episodes": "1",
    "eval_every": "4",
}

# Of TD3+BC, which compiles in seconds: where it matters that runs are made, and not how.
SHORT = {
    "actor_hidden": "8",
    "critic_hidden": "8",
    "batch_size": "16",
    "train_steps": "4",
    "log_every": "2",
    "eval_episodes": "1",
}


def record_pendulum(path: Path, scale: float = 1.0, episodes: int = 5, length: int = 40) -> None:
    """Writes random play in D4RL's format, with actions in units of 1 / `scale`."""
    env = gymnasium.make("Pendulum-v1", max_episode_steps=length)
    env.action_space.seed(0)
    rows: dict[str, list] = {
        name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")
    }
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        for now in range(length):
            action = env.action_space.sample()
            following, reward, _, _, _ = env.step(action)
            values = (observation, scale * action, reward, False, now == length - 1)
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
            observation = following
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            file[name] = np.asarray(values)


@contextlib.contextmanager
def made_once(module: Any, **steps: int) -> Iterator[None]:
    """Has a method's programs compiled once for all numbers of updates, of one dataset.

    Only where no schedule ends with them: `steps` are the fields with the numbers, at any value.
    """
    make, known = module.make, dict[Any, Method]()

    def once(config: Any, spec: Spec) -> Method:
        usual = dataclasses.replace(config, **steps)
        if usual not in known:
            known[usual] = make(usual, spec)
        lengths = [phase.steps for phase in make(config, spec).phases]
        phases = zip(known[usual].phases, lengths, strict=True)
        return known[usual]._replace(phases=tuple(p._replace(steps=n) for p, n in phases))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def brisk() -> None:
    """Runs of this process time one chunk of each phase, and draw nothing (test_run's one does)."""
    estimate.PATIENCE = 0.0
    prepare.curves = SimpleNamespace(redraw=lambda *_: None)


@pytest.fixture(scope="session")
def pendulum_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A D4RL file of 200 steps."""
    path = tmp_path_factory.mktemp("pendulum") / "tiny.hdf5"
    record_pendulum(path)
    return path


@pytest.fixture(scope="session")
def short_run(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of TD3+BC, seeds 0 and 1. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("short") / "run"
    settings = [f"--set={name}={value}" for name, value in (SHORT | {"eval_every": "2"}).items()]
    place = [f"--dataset={pendulum_file}", "--env=Pendulum-v1", f"--workdir={folder}"]
    assert run.main(["run", "--algo=td3_bc", "--seeds=2", *place, *settings]) == 0
    return folder


@pytest.fixture
def command(pendulum_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Gives `command(*more, field=value)`: a small run's command line, in `tmp_path / "run"`."""

    def build(*more: str, **fields: object) -> list[str]:
        settings = TINY | {name: str(value) for name, value in fields.items()}
        return [
            "run",
            f"--dataset={pendulum_file}",
            "--env=Pendulum-v1",
            "--seeds=2",
            f"--workdir={tmp_path / 'run'}",
            *(f"--set={name}={value}" for name, value in settings.items()),
            *more,
        ]

    return build


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Gives `fails(argv, code=2)`: runs, checks the exit code, returns the one line of error."""

    def check(argv: list[str], code: int = 2) -> str:
        capsys.readouterr()
        assert run.main(argv) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return check
