"""DAC on the tasks in the plane: the gradient of Q at noised actions, in place of BDPO's V_n.

    jaxrl-prefs toy --algo=dac

DAC moves the noise prediction of the behaviour by -sigma_n grad Q(a^n) / (2 eta). The best policy
of strength 2 eta needs the gradient of log E[exp(Q(a) / (2 eta)) | a^n] instead: Q at a noised
action says nothing of where the reverse chain takes it. Trains on all six tasks by the method's own
update of the policy, with a critic that regresses on the energy, since nothing follows an action.
Prints how far the samples are from the best policy; writes results.json and samples.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrl_prefs import learner
from jaxrl_prefs.data.generate.bandits import BANDITS, BOUND, Bandit, retarget, transitions
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

# The networks, rates and chain of BDPO's study at CPU size, and the same regularisation, 0.25.
SETTINGS: dict[str, Any] = {
    "eta": 0.125,
    "eta_rate": 0.0,
    "normalize_q": False,
    "rho": 0.0,
    "diffusion_steps": 100,
    "actor_hidden": (64, 64, 64, 64, 64),
    "critic_hidden": (128, 128, 128),
    "critic_ensemble_size": 1,
    "actor_learning_rate": 2e-3,
    "critic_learning_rate": 2e-3,
    "batch_size": 512,
    "candidates": 1,
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
        on_energy(config, Spec.of(transitions(BANDITS["8gaussians"], 2, seed)))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    workdir.mkdir(parents=True, exist_ok=True)
    devices.prepare()
    numbers: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, np.ndarray]] = {"data": {}, "target": {}, "learned": {}}
    for task, bandit in BANDITS.items():
        points = _points(config, bandit, seed, workdir)
        numbers[task] = {
            "energy": float(bandit.energy(points["learned"]).mean()),
            "exact_energy": bandit.target_energy(2 * config.eta),
            **study.distances(**points),
            **study.worst_mode(bandit, 2 * config.eta, points["learned"]),
        }
        for name, row in rows.items():
            row[task] = points[name][: study.SHOWN]
        figures.draw_samples(workdir / "samples.png", rows, study.AXIS, f"dac, seed {seed}")
        results = {"config": config.__dict__, "seed": seed, "tasks": numbers}
        write_json(workdir / "results.json", results)
    console.print(table(f"dac, eta {config.eta:g}", numbers))
    console.print(f"results and picture: {workdir}", soft_wrap=True, highlight=False)


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
    return replace(state, actor=actor, critic=critic, eta=eta), metrics | more


def _points(config: dac.Config, bandit: Bandit, seed: int, workdir: Path) -> dict[str, np.ndarray]:
    """Data, exact samples of the best policy, and samples of the trained one, [POINTS, 2] each."""
    data = transitions(bandit, POINTS, seed)
    spec = Spec.of(data, low=-BOUND, high=BOUND)
    method = on_energy(config, spec)
    state = training.train(method, config, data, spec, seed, workdir, every=1000).state
    key = jax.random.fold_in(jax.random.key(seed), 2)
    rng, points = np.random.default_rng([seed, 1]), np.asarray(data.action)
    return {
        "data": points,
        "target": retarget(rng, points, np.asarray(data.reward), 2 * config.eta, POINTS),
        "learned": study.draw(method, "sample", state, key, study.DRAWS),
    }


def table(title: str, tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each task."""
    view = Table(title=title)
    view.add_column("task")
    for name in ("energy", "exact", "total variation", "outside the data", "worst mode"):
        view.add_column(name, justify="right")
    for task, numbers in tasks.items():
        mode = f"{numbers['mode_error']:.3f}" if "mode_error" in numbers else "no modes"
        names = "energy", "exact_energy", "variation", "outside"
        view.add_row(task, *(f"{numbers[name]:.3f}" for name in names), mode)
    return view
