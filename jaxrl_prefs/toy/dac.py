"""DAC on the tasks in the plane: the gradient of Q at noised actions, in place of BDPO's V_n.

    jaxrl-prefs toy --algo=dac

DAC shifts the noise that it regresses on by -sigma_n grad Q(a^n) / (2 eta). The policy that
maximises E[Q] - 2 eta KL needs instead -sigma_n times the gradient in a^n of
log E[exp(Q(a) / (2 eta)) | a^n], the mean over clean actions a of the data given a^n. The two agree
only as n goes to 0.

Trains on all six tasks by the method's own update of the policy. The critic regresses on the
energy, since nothing follows an action: that saves the chains of a target. Prints how far the
samples are from the best policy; writes results.json and samples.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrl_prefs import learner
from jaxrl_prefs.data.generate.bandits import BANDITS, BOUND, retarget, transitions
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import dac
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.runs.workdir import write_json
from jaxrl_prefs.toy import figures, study, training
from jaxrl_prefs.types import Array, Key, Metrics, Spec, Transition
from jaxrl_prefs.values import critics

POINTS = 200_000  # of data
EVERY = 1_000  # updates between log points

# Widths, batch size and length of the chain as in BDPO's study at CPU size, the rates of its
# behaviour and critics, and half of its eta (0.25 / 2). Unlike BDPO's, the chain clips its actions.
SETTINGS: dict[str, Any] = {
    "eta": 0.125,
    "eta_rate": 0.0,
    "normalize_q": False,
    "diffusion_steps": 100,
    "actor_hidden": (64, 64, 64, 64, 64),
    "critic_hidden": (128, 128, 128),
    "critic_ensemble_size": 1,
    "actor_learning_rate": 2e-3,
    "critic_learning_rate": 2e-3,
    "batch_size": 512,
    "train_steps": 32_000,
}


def configured(assignments: Sequence[str]) -> dac.Config:
    """The study's settings, then the assignments. Raises ConfigError as `overrides.apply`."""
    return overrides.apply(overrides.replace(dac.Config(), SETTINGS), assignments)


def execute(assignments: Sequence[str], seed: int, workdir: Path, console: Console) -> None:
    """Trains on every task, prints, and writes everything to `workdir`.

    Raises:
        ConfigError: for a field or value that DAC does not take.
        NonFiniteError: if training breaks.
        OSError: if the workdir cannot be written.
    """
    config = configured(assignments)
    try:
        check(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    workdir.mkdir(parents=True, exist_ok=True)
    devices.prepare()
    numbers: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, np.ndarray]] = {"data": {}, "target": {}, "learned": {}}
    for task, bandit in BANDITS.items():
        data = transitions(bandit, POINTS, seed)
        learned = sampled(config, data, seed, workdir)
        rng, eta = np.random.default_rng([seed, 1]), 2 * config.eta
        points, energies = np.asarray(data.action), np.asarray(data.reward)
        rows["data"][task] = points[: study.SHOWN]
        rows["target"][task] = retarget(rng, points, energies, eta, study.SHOWN)
        rows["learned"][task] = learned[: study.SHOWN]
        numbers[task] = {
            "energy": float(bandit.energy(learned).mean()),
            "exact_energy": bandit.target_energy(eta),
            **study.distances(rng, data, eta, learned),
            **study.worst_mode(bandit, eta, learned),
        }
        console.print(f"{task}: trained and sampled", highlight=False)
        figures.draw_samples(workdir / "samples.png", rows, study.AXIS, f"dac, seed {seed}")
        results = {"config": config.__dict__, "seed": seed, "tasks": numbers}
        write_json(workdir / "results.json", results)
    title = f"dac, eta {config.eta:g}: regularisation {2 * config.eta:g}"
    console.print(table(title, numbers))
    console.print(f"results and picture: {workdir}", soft_wrap=True, highlight=False)


def check(config: dac.Config) -> None:
    """Raises ValueError for settings without a known best policy, and as `dac.make`."""
    on_energy(config, Spec.of(transitions(BANDITS["8gaussians"], 2, 0)))
    if config.normalize_q or config.eta_rate or config.train_steps < 1:
        raise ValueError(
            "the study needs normalize_q=false, eta_rate=0 and train_steps of 1 or more"
        )
    for bandit in BANDITS.values():
        bandit.target_energy(2 * config.eta)


def on_energy(config: dac.Config, spec: Spec) -> Method:
    """DAC whose critic regresses on the reward: one state, and nothing after it.

    Raises ValueError as `dac.make`.
    """
    method, parts = dac.make(config, spec), dac.build(config, spec)
    phase = method.phases[0]._replace(update=partial(_update, parts=parts))
    return method._replace(phases=(phase,))


def _update(
    state: dac.State, batch: Transition, key: Key, step: Array, *, parts: dac.Parts
) -> tuple[dac.State, Metrics]:
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, batch.reward, mean=True
    )
    critic = learner.polyak(critic, parts.config.tau)
    actor, eta, more = dac.update_actor(state, critic.target, batch, key, step, parts=parts)
    return dac.State(actor, critic, eta), metrics | more


def sampled(config: dac.Config, data: Transition, seed: int, workdir: Path) -> np.ndarray:
    """Samples of the policy that was trained on `data`, [K, 2]."""
    spec = Spec.of(data, low=-BOUND, high=BOUND)
    method = on_energy(config, spec)
    trained = training.train(method, config, data, spec, seed, workdir, every=EVERY)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return study.draw(method, "sample", trained.state, key, study.DRAWS)


def table(title: str, tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each task."""
    view = Table(title=title)
    view.add_column("task")
    for name in (
        "energy",
        "exact energy",
        "total variation",
        "of exact samples",
        "outside the data",
        "worst mode",
    ):
        view.add_column(name, justify="right")
    for task, numbers in tasks.items():
        mode = f"{numbers['mode_error']:.3f}" if "mode_error" in numbers else "no modes"
        names = "energy", "exact_energy", "variation", "resampled", "outside"
        view.add_row(task, *(f"{numbers[name]:.3f}" for name in names), mode)
    return view
