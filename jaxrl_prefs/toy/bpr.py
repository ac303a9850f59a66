"""BPR on bandits whose best policy is known: four arms, a Gaussian, and the tasks in the plane.

In the plane the policy is a table over a grid of cells, which can hold any density: with Q = energy
/ eta its optimum at lam = 1 is BDPO's target distribution. Self-play (both actions from the policy)
is compared with reference sampling (one from the data).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jaxrl_prefs import learner
from jaxrl_prefs.data.generate.bandits import BOUND, Bandit, retarget, transitions
from jaxrl_prefs.methods import ibc
from jaxrl_prefs.ops import gaussian, preference
from jaxrl_prefs.types import Array, Key, Spec

SAMPLINGS = ("self-play", "reference")
POINTS_SHOWN = 3_000

# Four arms, and a Gaussian between two bowls of given centre and curvature; both start uniform or
# wide. tests/ops/test_preference.py has their exact optima.
ARMS_Q, ARMS_E = np.array([1.0, 0.0, 2.0, -1.0]), np.array([0.5, 0.0, 3.0, 1.0])
BOWL_Q, BOWL_E = (1.0, 2.0), (-1.0, 4.0)  # Q = -k (a - m)^2 / 2, E = e (a - b)^2 / 2
WIDE = 1.0  # standard deviation at the start
CURVE_STEPS, CURVE_STATES = 600, 64


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the energy model and of the table policy."""

    eta: float = 0.25  # Q is the task's energy divided by it
    lam: float = 1.0
    cells: int = 60  # of the grid, along each axis
    samples: int = 2  # K, actions compared per state
    states: int = 2_048  # pairs (or groups of K) in an update
    steps: int = 4_000  # of the policy
    learning_rate: float = 0.1  # of the policy; falls to 0 by a cosine
    behavior_width: int = 64
    behavior_blocks: int = 2
    negative_samples: int = 16
    behavior_batch_size: int = 256
    behavior_learning_rate: float = 3e-3
    pretrain_steps: int = 4_000  # of the energy


SIZES: dict[str, Mapping[str, Any]] = {
    "cpu": {},
    "paper": {
        "behavior_width": 256,
        "behavior_blocks": 4,
        "negative_samples": 256,
        "behavior_batch_size": 512,
        "behavior_learning_rate": 5e-4,
        "pretrain_steps": 100_000,
    },
}


def check(config: Config) -> None:
    """Raises ValueError for sizes that no study can have."""
    if config.samples < 2 or config.cells < 2:
        raise ValueError("the study needs samples and cells of 2 or more")
    if not config.lam > 0:
        raise ValueError(f"field 'lam' must be above 0, got {config.lam}")


class Grid(NamedTuple):
    """The square of +-BOUND in cells: what is known at their centres, [C] each."""

    centres: np.ndarray  # [C, 2]
    q: np.ndarray  # energy of the task / eta
    energy: np.ndarray  # fitted, -log density + const
    data: np.ndarray  # share of the data in each cell


class Outcome(NamedTuple):
    """What one task gave: numbers for the table and results.json, and points for the figure."""

    numbers: dict[str, Any]
    samples: dict[str, np.ndarray]  # [POINTS_SHOWN, 2] each


# -------------------------------------------------------------------------------- the policy step


def draw_cells(share: Array, key: Key, shape: tuple[int, ...]) -> Array:
    """Samples cell numbers with probabilities `share` [C]: int, of the given shape."""
    total = jnp.cumsum(share)
    return jnp.minimum(
        jnp.searchsorted(total, total[-1] * jax.random.uniform(key, shape)), len(share) - 1
    )


def table_loss(
    logits: Array, grid: Grid, key: Key, *, config: Config, sampling: str
) -> tuple[Array, Array]:
    """Equation 7 for a table policy [C]: the mean over sampled states, twice (once as aux)."""
    log_pi = jax.nn.log_softmax(logits)
    own_key, data_key = jax.random.split(key)
    shape = (config.states, config.samples - (sampling == "reference"))
    cells = draw_cells(jax.lax.stop_gradient(jnp.exp(log_pi)), own_key, shape)
    if sampling == "reference":
        data = draw_cells(jnp.asarray(grid.data), data_key, (config.states, 1))
        cells = jnp.concatenate([data, cells], 1)
    q, energy = jnp.asarray(grid.q)[cells], jnp.asarray(grid.energy)[cells]
    g = preference.residual(log_pi[cells], q, energy, config.lam)
    pairs = preference.against_first if sampling == "reference" else preference.all_pairs
    loss = jnp.mean(pairs(g))
    return loss, loss


def fit_table(grid: Grid, config: Config, sampling: str, seed: int) -> np.ndarray:
    """Trains a table policy from the uniform one; returns its probabilities [C]."""
    opt = learner.optimizer(config.learning_rate, decay_steps=config.steps)

    @jax.jit
    def train(key: Key, grid: Grid) -> Array:
        def step(i: Array, part: learner.Trainable) -> learner.Trainable:
            def loss(logits: Array) -> tuple[Array, Array]:
                now = jax.random.fold_in(key, i)
                return table_loss(logits, grid, now, config=config, sampling=sampling)

            return learner.gradient_step(part, opt, loss)[0]

        start = learner.init(jnp.zeros(len(grid.q)), opt)
        return jax.nn.softmax(jax.lax.fori_loop(0, config.steps, step, start).params)

    share = np.asarray(train(jax.random.key(seed), grid), np.float64)
    return share / share.sum()


# ------------------------------------------------------------------------------- one task, whole


def energy_config(config: Config) -> ibc.Config:
    """The energy model of a study, as implicit behavioural cloning trains it."""
    return ibc.Config(
        behavior_width=config.behavior_width,
        behavior_blocks=config.behavior_blocks,
        negative_samples=config.negative_samples,
        batch_size=config.behavior_batch_size,
        behavior_learning_rate=config.behavior_learning_rate,
        train_steps=config.pretrain_steps,
    )


def lay_grid(bandit: Bandit, config: Config, spec: Spec, state: ibc.State, data: Any) -> Grid:
    """Everything that is known at the centres of the cells."""
    axis = BOUND * ((2 * np.arange(config.cells) + 1) / config.cells - 1)
    centres = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    model = ibc.build(energy_config(config), spec).model
    energy = model.energy(state.behavior.params, state.vectors)
    level = jax.jit(energy)(jnp.zeros((len(centres), 1)), jnp.asarray(centres, jnp.float32))
    return Grid(
        centres=centres,
        q=(bandit.energy(centres) / config.eta).astype(np.float32),
        energy=np.asarray(level),
        data=histogram(data, config.cells).astype(np.float32),
    )


def histogram(points: np.ndarray, cells: int) -> np.ndarray:
    """The share of points [N, 2] in each cell, [C]; those outside the square do not count."""
    edges = np.linspace(-BOUND, BOUND, cells + 1)
    count, *_ = np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))
    return (count / count.sum()).ravel()


def study(
    config: Config,
    bandit: Bandit,
    points: int,
    seed: int,
    fit_energy: Callable[[ibc.Config, Any, Spec], ibc.State],
) -> Outcome:
    """Fits the energy and both policies on `bandit`, and compares them with what is exact."""
    began = time.perf_counter()
    data = transitions(bandit, points, seed)
    spec = Spec.of(data, low=-BOUND, high=BOUND)
    state = fit_energy(energy_config(config), data, spec)
    places, energies = np.asarray(data.action), np.asarray(data.reward)
    grid = lay_grid(bandit, config, spec, state, places)
    rng = np.random.default_rng([seed, 1])
    target = retarget(rng, places, energies, config.eta, points)
    goal = histogram(target, config.cells)
    samples = {"data": places[:POINTS_SHOWN], "target": target[:POINTS_SHOWN]}
    numbers: dict[str, Any] = {"target_energy": bandit.target_energy(config.eta)}
    for sampling in SAMPLINGS:
        share = fit_table(grid, config, sampling, seed)
        numbers[sampling] = compare(bandit, config, grid, share, goal)
        samples[sampling] = spread_out(rng, grid, share, config)
    numbers["seconds"] = time.perf_counter() - began
    return Outcome(numbers, samples)


def compare(
    bandit: Bandit, config: Config, grid: Grid, share: np.ndarray, goal: np.ndarray
) -> dict[str, Any]:
    """A table policy `share` [C] against its own optimum and against the target's cells `goal`.

    `regression` is KL[policy || softmax(Q - E / lam)], the error of the policy step only;
    `distance` is the total variation from BDPO's target, which the fitted energy enters too.
    """
    best = jax.nn.log_softmax(jnp.asarray(grid.q - grid.energy / config.lam))
    numbers: dict[str, Any] = {
        "regression": float(np.sum(share * (np.log(share + 1e-30) - np.asarray(best)))),
        "distance": float(0.5 * np.abs(share - goal).sum()),
        "energy": float(share @ bandit.energy(grid.centres)),
    }
    if bandit.modes is not None:
        found = np.bincount(
            bandit.modes.of(grid.centres), share, minlength=len(bandit.modes.energy)
        )
        exact = bandit.mode_weights(config.eta)
        numbers["mode_weights"] = np.stack([found, exact], 1).tolist()
        numbers["mode_error"] = float(np.abs(found - exact).max())
    return numbers


def spread_out(
    rng: np.random.Generator, grid: Grid, share: np.ndarray, config: Config
) -> np.ndarray:
    """Samples of a table policy, uniform within each cell: [POINTS_SHOWN, 2]."""
    cells = rng.choice(len(share), POINTS_SHOWN, p=share)
    half = BOUND / config.cells
    return grid.centres[cells] + rng.uniform(-half, half, (POINTS_SHOWN, 2))


# --------------------------------------------------------------------------------- learning curves


class Curves(NamedTuple):
    """KL[policy || pi*] after every update, by way of sampling: {sampling: [CURVE_STEPS]}."""

    arms: dict[str, np.ndarray]
    gaussian: dict[str, np.ndarray]


def curves(lam: float, seed: int) -> Curves:
    """Four arms and a Gaussian, learned by sampled pairs."""
    return Curves(
        arms={sampling: _arms(lam, sampling, seed) for sampling in SAMPLINGS},
        gaussian={sampling: _gaussian(lam, sampling, seed) for sampling in SAMPLINGS},
    )


def _descend(
    start: Array,
    loss: Callable[[Array, Key], Array],
    divergence: Callable[[Array], Array],
    seed: int,
) -> np.ndarray:
    opt = learner.optimizer(0.03, decay_steps=CURVE_STEPS)

    def step(part: learner.Trainable, key: Key) -> tuple[learner.Trainable, Array]:
        after, _ = learner.gradient_step(part, opt, lambda p: (loss(p, key), ()))
        return after, divergence(part.params)

    keys = jax.random.split(jax.random.key(seed), CURVE_STEPS)
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, learner.init(start, opt), keys)[1])())


def _arms(lam: float, sampling: str, seed: int) -> np.ndarray:
    grid = Grid(np.zeros((4, 2)), ARMS_Q, ARMS_E, np.exp(-ARMS_E) / np.exp(-ARMS_E).sum())
    config = Config(lam=lam, states=CURVE_STATES)
    best = jax.nn.log_softmax(jnp.asarray(ARMS_Q - ARMS_E / lam))

    def divergence(logits: Array) -> Array:
        log_pi = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(log_pi) * (log_pi - best))

    def loss(logits: Array, key: Key) -> Array:
        return table_loss(logits, grid, key, config=config, sampling=sampling)[0]

    return _descend(jnp.zeros(4), loss, divergence, seed)


def _gaussian(lam: float, sampling: str, seed: int) -> np.ndarray:
    (m, k), (b, e) = BOWL_Q, BOWL_E
    precision = k + e / lam
    best = jnp.full(1, (k * m + e * b / lam) / precision), jnp.full(1, precision**-0.5)

    def divergence(params: Array) -> Array:
        return gaussian.kl(params[:1], jnp.exp(params[1:]), *best)

    def loss(params: Array, key: Key) -> Array:
        own, data = jax.random.normal(key, (2, CURVE_STATES, 2))
        mean, std = params[0], jnp.exp(params[1])
        a = mean + std * own
        if sampling == "reference":
            a = jnp.concatenate([b + e**-0.5 * data[:, :1], a[:, :1]], 1)
        a = jax.lax.stop_gradient(a)
        log_pi = -0.5 * jnp.square((a - mean) / std) - jnp.log(std)
        q, energy = -0.5 * k * jnp.square(a - m), 0.5 * e * jnp.square(a - b)
        return preference.all_pairs(preference.residual(log_pi, q, energy, lam)).mean()

    return _descend(jnp.array([1.0, np.log(WIDE)], jnp.float32), loss, divergence, seed)


# ------------------------------------------------------------------------------------- the report


def table(title: str, outcomes: Mapping[str, Outcome]) -> Table:
    """A row per task and sampling."""
    view = Table(title=title)
    view.add_column("task", no_wrap=True)
    view.add_column("sampling", no_wrap=True)
    for name in ("KL to optimum", "TV to target", "energy", "exact", "worst mode"):
        view.add_column(name, justify="right")
    for task, outcome in outcomes.items():
        for sampling in SAMPLINGS:
            found = outcome.numbers[sampling]
            view.add_row(
                task,
                sampling,
                f"{found['regression']:.4f}",
                f"{found['distance']:.3f}",
                f"{found['energy']:.4f}",
                f"{outcome.numbers['target_energy']:.4f}",
                f"{found['mode_error']:.3f}" if "mode_error" in found else "no modes",
            )
    return view
