"""Four conditional densities of one action under one state: does the score model learn them?

    python -m experiments.toy --algo=arq

Figure A.1 of ARQ's paper, on densities of ours: discontinuous in the state, several modes in the
action. Each is a mixture that is known exactly. Trains ARQ's score model on each by the method's
own phase and prints how far its density is from the exact one, in nats; writes results.json and
densities.png, the learned density with samples of the model over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrl_prefs.behavior import score
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import arq
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.runs.workdir import write_json
from jaxrl_prefs.toy import figures, training
from jaxrl_prefs.types import Spec, Transition

STD = 0.05  # of every mode
POINTS, HELD_OUT, SHOWN = 50_000, 4_000, 500  # of data; held out, for the numbers; in the picture
STATES, ACTIONS = np.linspace(-1, 1, 101), np.linspace(-1, 1, 161)  # of the map
DARKEST, BRIGHTEST = -5.0, 2.0  # log-densities of the map; the first is ARQ's threshold
SAMPLE = "#d62728"

# Ours: a small network, on a CPU. Other fields are the method's defaults.
SETTINGS: dict[str, Any] = {
    "policies": ("behavior",),
    "behavior_width": 128,
    "behavior_blocks": 3,
    "behavior_learning_rate": 2e-3,
    "pretrain_steps": 20_000,
    "sampler": "few_step",
    "sampler_steps": 24,
    "density": "fixed",
}

Centres = Callable[[np.ndarray], np.ndarray]  # states [N] -> centres of equal modes [N, K]


def stairs(s: np.ndarray) -> np.ndarray:
    """One mode that jumps between five levels."""
    return (np.clip(np.floor(2.5 * (s + 1)), 0, 4) * 0.35 - 0.7)[:, None]


def branches(s: np.ndarray) -> np.ndarray:
    """Two modes for negative states; three elsewhere, of which the middle one has half."""
    left, right = np.array([-0.6, -0.6, 0.6, 0.6]), np.array([-0.6, 0.0, 0.0, 0.6])
    return np.where(s[:, None] < 0, left, right)


def waves(s: np.ndarray) -> np.ndarray:
    """Two curves that cross."""
    height = 0.7 * np.sin(1.5 * np.pi * s)
    return np.stack([height, -height], 1)


def board(s: np.ndarray) -> np.ndarray:
    """Two modes that both jump at every column of a chessboard."""
    odd = np.floor(3 * (s + 1)) % 2
    return np.stack([-0.7 + 0.35 * odd, 0.2 + 0.35 * odd], 1)


TASKS: dict[str, Centres] = {f.__name__: f for f in (stairs, branches, waves, board)}


class Learned(NamedTuple):
    """What one task gave."""

    density: np.ndarray  # learned log-density on the map [STATES, ACTIONS]
    samples: np.ndarray  # (state, action) of the model [SHOWN, 2]
    numbers: dict[str, float]


def data_of(centres: Centres, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """States, evenly from [-1, 1], and actions, one of the modes each: [N], [N]."""
    state = rng.uniform(-1, 1, count)
    modes = centres(state)
    chosen = rng.integers(0, modes.shape[1], count)
    noise = rng.normal(0, STD, count)
    return state, modes[np.arange(count), chosen] + noise


def exact_log_density(centres: Centres, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The log-density of action [N] under state [N]: [N]."""
    z = (action[:, None] - centres(state)) / STD
    terms = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(STD)
    top = terms.max(1, keepdims=True)
    return top[:, 0] + np.log(np.exp(terms - top).mean(1))


def transitions(state: np.ndarray, action: np.ndarray) -> Transition:
    """Transitions without reward or successor."""
    size = len(state)
    zero, index = np.zeros(size, np.float32), np.arange(size, dtype=np.int32)
    observation, taken = (x.astype(np.float32)[:, None] for x in (state, action))
    leaves: Any = (observation, taken, zero, zero, observation, 0 * taken, zero, index, index)
    return Transition(*leaves)


def study(config: arq.Config, centres: Centres, seed: int, folder: Path | None = None) -> Learned:
    """Trains on one task, and compares with what is exact.

    Training goes on from where it stands in `folder`.

    Raises:
        NonFiniteError: if training breaks.
    """
    rng = np.random.default_rng(seed)
    data = transitions(*data_of(centres, POINTS, rng))
    spec = Spec.of(data)
    method, parts = arq.make(config, spec), arq.build(config, spec)
    trained = training.train(method, config, data, spec, seed, folder, every=1_000)
    params = trained.state.behavior.target

    @jax.jit
    def densities(states: jax.Array, actions: jax.Array) -> jax.Array:
        y = parts.model.action.apply(actions)
        found = score.log_density(parts.model, params, states, y, parts.density)
        return found + parts.model.action.log_volume  # of the raw action

    states, actions = data_of(centres, HELD_OUT, rng)
    model = np.asarray(densities(jnp.float32(states)[:, None], jnp.float32(actions)[:, None, None]))
    keys = jax.random.split(jax.random.key(seed), HELD_OUT)
    draw = jax.jit(lambda states: score.sample(parts.model, params, states, keys, 1, parts.sampler))
    samples = np.asarray(parts.model.action.invert(draw(jnp.float32(states)[:, None])))[:, 0, 0]
    grid = jnp.broadcast_to(jnp.float32(ACTIONS)[None, :, None], (len(STATES), len(ACTIONS), 1))
    exact = exact_log_density(centres, states, actions)
    of_samples = exact_log_density(centres, states, samples)
    numbers = {
        "kl": float((exact - model[:, 0]).mean()),
        "inside": float((of_samples > DARKEST).mean()),
        "inside_exact": float((exact > DARKEST).mean()),
    }
    density = np.asarray(densities(jnp.float32(STATES)[:, None], grid))
    return Learned(density, np.stack([states, samples], 1)[:SHOWN], numbers)


def execute(assignments: Sequence[str], seed: int, workdir: Path, console: Console) -> None:
    """Trains on all tasks, prints, and writes everything to `workdir`.

    Raises:
        ConfigError: for a field or value that ARQ does not take.
        NonFiniteError: if training breaks.
        OSError: if the workdir cannot be written.
    """
    config = overrides.apply(overrides.replace(arq.Config(), SETTINGS), assignments)
    try:
        arq.make(config, Spec.of(transitions(np.zeros(2), np.ones(2))))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    workdir.mkdir(parents=True, exist_ok=True)
    devices.prepare()
    found = {name: study(config, centres, seed, workdir) for name, centres in TASKS.items()}
    table = Table(title=f"score model, {config.pretrain_steps} steps of {POINTS} points")
    table.add_column("density")
    for name in ("KL from the exact density, nats", "samples inside the support", "exact samples"):
        table.add_column(name, justify="right")
    for name, task in found.items():
        shares = (task.numbers["inside"], task.numbers["inside_exact"])
        table.add_row(name, f"{task.numbers['kl']:.3f}", *(f"{share:.2%}" for share in shares))
    console.print(table)
    draw_map(workdir / "densities.png", found, f"the behaviour model of arq, seed {seed}")
    results = {"config": config.__dict__, "seed": seed}
    write_json(
        workdir / "results.json",
        results | {"tasks": {name: task.numbers for name, task in found.items()}},
    )
    console.print(f"results and picture: {workdir}", soft_wrap=True, highlight=False)


def draw_map(path: Path, found: dict[str, Learned], title: str = "") -> None:
    """A panel per task: the learned log-density, and samples of the model as crosses."""
    figure, axes = figures.panels(1, len(found), size=2.6, title=title, labels=("state", "action"))
    shades: Any = None
    for panel, (name, task) in zip(axes.flat, found.items(), strict=True):
        shades = panel.imshow(
            task.density.T,
            extent=(-1, 1, -1, 1),
            origin="lower",
            cmap="viridis",
            vmin=DARKEST,
            vmax=BRIGHTEST,
            aspect="auto",
        )
        panel.scatter(*task.samples.T, s=5, marker="x", color=SAMPLE, linewidths=0.5, alpha=0.7)
        panel.set_title(name, fontsize=9)
        panel.set(xlim=(-1, 1), ylim=(-1, 1))
        panel.set_xticks([-1, 0, 1])
        panel.set_yticks([-1, 0, 1])
        panel.tick_params(labelsize=7, length=2)
    bar = figure.colorbar(shades, ax=axes, fraction=0.02, pad=0.01, extend="both")
    bar.set_label(f"log-density, cut at {DARKEST:g} and {BRIGHTEST:g}", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figures.write(figure, path)
