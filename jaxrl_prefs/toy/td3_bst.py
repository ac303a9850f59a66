"""Four modes in the plane, without a state: where a Morse network is certain, where policies go.

    python -m experiments.toy --algo=td3_bst

Trains the Morse network by the method's own phase on four clusters of actions, for `pretrain_steps`
and for ten times as many. Then a policy that is one action descends the losses of TD3-BST, TD3+BC
and behaviour cloning from many starts: without a value, and with Q(a) = 1 - |a - goal|^2 for a goal
in a mode and for one out of the data. Prints where the descents end; writes results.json and
landscape.png. docs/methods/td3_bst.md says what is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrl_prefs.behavior import morse
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.methods import td3_bst
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.runs.workdir import write_json
from jaxrl_prefs.toy import landscape, training
from jaxrl_prefs.types import Array, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import actor_losses

CENTRES = np.array([[0.8, 0.0], [-0.8, 0.0], [0.0, 0.8], [0.0, -0.8]], np.float32)
STANDARD_DEVIATION, POINTS = 0.05, 10_000  # of a cluster; of data
INSIDE = 3 * STANDARD_DEVIATION  # of a centre: a descent that ends there is in a mode
BETWEEN = 0.1  # of the origin, the mean of the data
GOALS = {"in a mode": (0.83, 0.04), "out of the data": (0.5, 0.5)}
LONGER = 10  # times pretrain_steps: the second network
SEEN = 32  # actions of the data in a descent's loss
STARTS = 9  # along each axis
STEPS, RATE, EVERY = 4_000, 5e-3, 40  # of a descent; positions kept
AXIS = np.linspace(-1, 1, 101, dtype=np.float32)  # of the landscape

# Ours: small networks, on a CPU. After 300 updates a kernel of k/2 still slopes towards the mean of
# all modes, where a tenth of the descents ends; with 2k all end in a mode. Other fields are
# the method's defaults.
SETTINGS: dict[str, Any] = {
    "kernel_scale": "2k",
    "behavior_hidden": (64, 64),
    "behavior_learning_rate": 1e-3,
    "behavior_batch_size": 256,
    "pretrain_steps": 300,
    "train_steps": 0,
}


class Descent(NamedTuple):
    """Where one loss leads."""

    title: str
    goal: tuple[float, float] | None
    path: np.ndarray  # [STEPS / EVERY + 1, K, 2]
    height: np.ndarray  # [G, G], the certainty underneath


def clusters(seed: int) -> Transition:
    """As many actions around every centre, in one state, without rewards."""
    noise = np.random.default_rng(seed).normal(0, STANDARD_DEVIATION, (POINTS, 2))
    action = np.clip(np.tile(CENTRES, (POINTS // 4, 1)) + noise, -1, 1).astype(np.float32)
    zero, index = np.zeros(POINTS, np.float32), np.arange(POINTS, dtype=np.int32)
    still = zero[:, None]
    rows: Any = (still, action, zero, zero, still, 0 * action, zero, index, index)
    return Transition(*rows)


def fitted(
    config: td3_bst.Config, data: Transition, seed: int, folder: Path | None = None
) -> tuple[Params, dict[str, float]]:
    """The Morse network's parameters after its phase, and the phase's last metrics.

    Training goes on from where it stands in `folder`.
    """
    spec = Spec.of(data)
    method = td3_bst.make(config, spec)
    trained = training.train(method, config, data, spec, seed, folder, every=500)
    return trained.state.morse.params, trained.metrics


# ------------------------------------------------------------------------------------- descents

Loss = Callable[[Params, Params], tuple[Array, Metrics]]  # (action, Morse parameters)


def point(params: Params, observation: Array) -> Array:
    """The policy whose parameters are its action."""
    return jnp.broadcast_to(params[None], (len(observation), 2))


def goal_critic(goal: tuple[float, float] | None) -> Net:
    """Q(a) = 1 - |a - goal|^2, or 0 without a goal, as an ensemble of one."""

    def apply(params: Params, observation: Array, action: Array) -> Array:
        if goal is None:
            return jnp.zeros((1, len(action)))
        return 1 - jnp.sum(jnp.square(action - jnp.asarray(goal)[None]), -1)[None]

    return Net(lambda key, *inputs: jnp.zeros(1), apply)


def losses(
    config: td3_bst.Config, network: morse.Morse, data: Transition
) -> tuple[dict[tuple[str, str], Loss], dict[tuple[str, str], Loss]]:
    """{(method, goal): its loss of a point}: those that use the Morse network, and the others.

    The goal "" is no value.
    """
    batch = jax.tree.map(lambda x: jnp.asarray(x[:SEEN]), data)
    asking: dict[tuple[str, str], Loss] = {}
    others: dict[tuple[str, str], Loss] = {}
    for goal in ("", *GOALS):
        shared: dict[str, Any] = dict(
            policy=point,
            critic=goal_critic(GOALS.get(goal)),
            critic_params=jnp.zeros(1),
            batch=batch,
        )

        def bst_loss(
            x: Params, morse_params: Params, *, gradient: str, shared: Any = shared
        ) -> Any:
            weight: dict[str, Any] = dict(mu=config.mu, gradient=gradient, distance=config.distance)
            return actor_losses.td3_bst_loss(
                x, **shared, **weight, morse=network, morse_params=morse_params
            )

        def cloned(x: Params, morse_params: Params, *, alpha: float, shared: Any = shared) -> Any:
            return actor_losses.td3_bc_loss(x, **shared, alpha=alpha)

        asking["TD3-BST", goal] = partial(bst_loss, gradient="full")
        if goal:
            others["TD3+BC", goal] = partial(cloned, alpha=2.5)
        else:
            asking["TD3-BST, weight detached", goal] = partial(bst_loss, gradient="detached")
            others["BC", goal] = partial(cloned, alpha=0.0)
    return asking, others


def walker(loss: Loss) -> Callable[[Params], np.ndarray]:
    """Gradient descent from a grid of starts, inside the box, as a function of the Morse network's
    parameters: -> [STEPS / EVERY + 1, K, 2]."""
    axis = jnp.linspace(-0.95, 0.95, STARTS)
    starts = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)

    @jax.jit
    def follow_gradient(morse_params: Params) -> Array:
        slope = jax.vmap(jax.grad(lambda x: loss(x, morse_params)[0]))

        def step(_: int, x: Array) -> Array:
            return jnp.clip(x - RATE * slope(x), -1, 1)

        def leg(x: Array, _: None) -> tuple[Array, Array]:
            return jax.lax.fori_loop(0, EVERY, step, x), x

        end, path = jax.lax.scan(leg, starts, length=STEPS // EVERY)
        return jnp.concatenate([path, end[None]])

    return lambda morse_params: np.asarray(follow_gradient(morse_params))


def summary(path: np.ndarray, goal: tuple[float, float] | None) -> dict[str, float]:
    """Shares of descents that end in a mode and between them, and the median way to a goal."""
    ends = path[-1]
    away = np.linalg.norm(ends[:, None] - CENTRES[None], axis=-1).min(1)
    shares = {
        "in_a_mode": float((away < INSIDE).mean()),
        "between": float((np.linalg.norm(ends, axis=-1) < BETWEEN).mean()),
    }
    if goal is None:
        return shares
    return shares | {"to_goal": float(np.median(np.linalg.norm(ends - np.array(goal), axis=-1)))}


# ----------------------------------------------------------------------------------- command


class Network(NamedTuple):
    """A trained Morse network."""

    steps: int
    params: Params
    metrics: dict[str, float]  # of its last updates
    certainty: dict[str, list[float]]  # at known places
    height: np.ndarray  # [G, G], over AXIS


def learned(
    config: td3_bst.Config, parts: td3_bst.Parts, data: Transition, seed: int, workdir: Path
) -> Network:
    """Trains a Morse network, and looks at it."""
    params, metrics = fitted(config, data, seed, workdir)

    @jax.jit
    def seen(action: Array) -> Array:
        return morse.certainty(parts.supervisor.morse, params, jnp.zeros((len(action), 1)), action)

    grid = jnp.stack(jnp.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    places = {"centres": CENTRES, "origin": 0 * CENTRES[:1], "corners": corners}
    known = {name: seen(jnp.asarray(x)).tolist() for name, x in places.items()}
    height = np.asarray(seen(grid)).reshape(len(AXIS), -1)
    return Network(config.pretrain_steps, params, metrics, known, height)


def configured(assignments: Sequence[str]) -> td3_bst.Config:
    """The study's settings, then the assignments.

    Raises:
        ConfigError: as `overrides.apply`, and for the distance that needs a clone.
    """
    config = overrides.apply(overrides.replace(td3_bst.Config(), SETTINGS), assignments)
    if config.distance == "standardised":
        raise ConfigError("these tasks have no clone of the data: distance is mean or sum here")
    return config


def execute(assignments: Sequence[str], seed: int, workdir: Path, console: Console) -> None:
    """Trains, descends, prints, and writes everything to `workdir`.

    Raises:
        ConfigError: for a field or value that TD3-BST does not take.
        NonFiniteError: if training breaks.
        OSError: if the workdir cannot be written.
    """
    config, data = configured(assignments), clusters(seed)
    try:
        parts = td3_bst.build(config, Spec.of(data))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    workdir.mkdir(parents=True, exist_ok=True)
    devices.prepare()
    lengths = config.pretrain_steps, LONGER * config.pretrain_steps
    networks = [
        learned(replace(config, pretrain_steps=steps), parts, data, seed, workdir)
        for steps in lengths
    ]
    descents = _descents(config, parts, data, networks)
    ends = {descent.title: summary(descent.path, descent.goal) for descent in descents}
    _show(console, config, networks, ends)
    title = f"descents over the Morse network of td3_bst, seed {seed}"
    landscape.draw(workdir / "landscape.png", AXIS, descents, np.asarray(data.action[:400]), title)
    results = {
        "config": config.__dict__,
        "seed": seed,
        "morse": {net.steps: net.metrics | {"certainty": net.certainty} for net in networks},
        "ends": ends,
    }
    write_json(workdir / "results.json", results)
    console.print(f"results and picture: {workdir}", soft_wrap=True, highlight=False)


def _descents(
    config: td3_bst.Config, parts: td3_bst.Parts, data: Transition, networks: Sequence[Network]
) -> list[Descent]:
    """A row of descents for each network, and a last one for the losses that use none."""

    def title(name: str, goal: str, after: str = "") -> str:
        return f"{name}, {f'goal {goal}' if goal else 'no value'}{after}"

    asking, others = losses(config, parts.supervisor.morse, data)
    walkers = {key: walker(loss) for key, loss in asking.items()}
    descents = [
        Descent(title(*key, f" ({net.steps})"), GOALS.get(key[1]), go(net.params), net.height)
        for net in networks
        for key, go in walkers.items()
    ]
    last = networks[-1]
    return descents + [
        Descent(title(*key), GOALS.get(key[1]), walker(loss)(last.params), last.height)
        for key, loss in others.items()
    ]


def _show(
    console: Console,
    config: td3_bst.Config,
    networks: Sequence[Network],
    ends: dict[str, dict[str, float]],
) -> None:
    for net in networks:
        text = "; ".join(f"{n} {min(x):.3f} to {max(x):.3f}" for n, x in net.certainty.items())
        console.print(f"certainty after {net.steps} updates: {text}", highlight=False)
    table = Table(title=f"four modes, kernel scale {config.kernel_scale}, mu {config.mu:g}")
    table.add_column("descents (updates of the Morse network)", no_wrap=True)
    for name in ("in a mode", "between", "to the goal"):
        table.add_column(name, justify="right")
    for title, found in ends.items():
        way = f"{found['to_goal']:.3f}" if "to_goal" in found else ""
        table.add_row(title, f"{found['in_a_mode']:.0%}", f"{found['between']:.0%}", way)
    console.print(table)
