"""TD3+BC and IQL of this library against plain versions of them, in one run on one core.

    python -m benchmarks.plain

A plain version is what a single-file implementation does: flax modules, a train state per network,
eight updates unrolled in a jitted call, the batch gathered inside, no metrics but the losses. It is
written for this measurement, with the networks, batch and constants of ours (2x256, 256). Rounds of
all four and of a matrix product are interleaved and medians taken; rates are per CPU-second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax.training.train_state import TrainState
from rich.console import Console
from rich.table import Table

from benchmarks import speed
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.types import Array, Key, Spec, Transition

FLAGS = flags.FLAGS
UNROLLED, BATCH, HIDDEN, RATE, TAU, GAMMA = 8, 256, (256, 256), 3e-4, 0.005, 0.99
NOISE, NOISE_CLIP, ALPHA = 0.2, 0.5, 2.5  # TD3+BC
EXPECTILE, TEMPERATURE, LARGEST = 0.7, 3.0, 100.0  # IQL

Models = dict[str, TrainState]  # "q'" is the average of "q"


class Plain(NamedTuple):
    """A method as one function of its train states."""

    models: Models
    update: Callable[[Models, Transition, Key, int], Models]


class Mlp(nn.Module):
    """Hidden layers of HIDDEN units with ReLU, and a linear one."""

    size: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """Concatenates the inputs."""
        x = jnp.concatenate(inputs, -1)
        for width in HIDDEN:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.size)(x)


class Twin(nn.Module):
    """Two networks of observation and action, one after the other."""

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        """Gives [2, B]."""
        return jnp.stack([Mlp(1)(observation, action)[..., 0] for _ in range(2)])


class Gaussian(nn.Module):
    """Mean by a network, one standard deviation for all states."""

    size: int

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        """Gives the log-density of the actions, up to a constant, [B]."""
        log_std = self.param("log_std", nn.initializers.zeros, (self.size,))
        error = (action - Mlp(self.size)(observation)) / jnp.exp(log_std)
        return -0.5 * jnp.sum(error**2, -1) - jnp.sum(log_std)


def trained(net: nn.Module, *inputs: Array) -> TrainState:
    """A fresh train state."""
    params = net.init(jax.random.key(0), *inputs)
    return TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(RATE))


def stepped(model: TrainState, loss: Callable[[Any], Array]) -> TrainState:
    """One gradient step."""
    return model.apply_gradients(grads=jax.grad(loss)(model.params))


def averaged(models: Models, name: str) -> TrainState:
    """The moving average after one step."""
    new, old = models[name].params, models[name + "'"].params
    return models[name + "'"].replace(params=optax.incremental_update(new, old, TAU))


def call(model: TrainState, *inputs: Array) -> Array:
    """The network's output."""
    return model.apply_fn(model.params, *inputs)


def td3_bc(batch: Transition) -> Plain:
    """TD3+BC."""

    def update(models: Models, batch: Transition, key: Key, turn: int) -> Models:
        models = dict(models)
        observation, action, after = batch.observation, batch.action, batch.next_observation
        noise = jnp.clip(NOISE * jax.random.normal(key, action.shape), -NOISE_CLIP, NOISE_CLIP)
        then = jnp.clip(jnp.tanh(call(models["pi'"], after)) + noise, -1, 1)
        target = batch.reward + batch.discount * call(models["q'"], after, then).min(0)
        models["q"] = stepped(
            models["q"],
            lambda p: jnp.mean((models["q"].apply_fn(p, observation, action) - target[None]) ** 2),
        )
        if turn % 2:
            return models

        def loss(p: Any) -> Array:
            mine = jnp.tanh(models["pi"].apply_fn(p, observation))
            q = call(models["q"], observation, mine)[0]
            scale = ALPHA / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
            return -scale * jnp.mean(q) + jnp.mean((mine - action) ** 2)

        models["pi"] = stepped(models["pi"], loss)
        return models | {name + "'": averaged(models, name) for name in ("q", "pi")}

    q = trained(Twin(), batch.observation, batch.action)
    pi = trained(Mlp(batch.action.shape[-1]), batch.observation)
    return Plain({"q": q, "q'": q, "pi": pi, "pi'": pi}, update)


def iql(batch: Transition) -> Plain:
    """IQL, whose policy reads the online critics, as public single-file versions do."""

    def update(models: Models, batch: Transition, key: Key, turn: int) -> Models:
        del key, turn
        models = dict(models)
        observation, action = batch.observation, batch.action
        target_q = call(models["q'"], observation, action).min(0)

        def value_loss(p: Any) -> Array:
            error = target_q - models["v"].apply_fn(p, observation)[..., 0]
            return jnp.mean(jnp.where(error > 0, EXPECTILE, 1 - EXPECTILE) * error**2)

        models["v"] = stepped(models["v"], value_loss)
        value = call(models["v"], observation)[..., 0]
        advantage = call(models["q"], observation, action).min(0) - value
        weight = jnp.minimum(jnp.exp(TEMPERATURE * advantage), LARGEST)
        models["pi"] = stepped(
            models["pi"],
            lambda p: -jnp.mean(weight * models["pi"].apply_fn(p, observation, action)),
        )
        after = call(models["v"], batch.next_observation)[..., 0]
        target = batch.reward + batch.discount * after
        models["q"] = stepped(
            models["q"],
            lambda p: jnp.mean((models["q"].apply_fn(p, observation, action) - target[None]) ** 2),
        )
        return models | {"q'": averaged(models, "q")}

    q = trained(Twin(), batch.observation, batch.action)
    pi = trained(Gaussian(batch.action.shape[-1]), batch.observation, batch.action)
    return Plain({"q": q, "q'": q, "v": trained(Mlp(1), batch.observation), "pi": pi}, update)


def runner(plain: Plain, data: Transition) -> Callable[[int], None]:
    """Compiles eight updates; returns a function that runs so many calls of them."""

    @partial(jax.jit, donate_argnums=0)
    def several(models: Models, key: Key, data: Transition) -> Models:
        for turn, each in enumerate(jax.random.split(key, UNROLLED)):
            rows, noise = jax.random.split(each)
            index = jax.random.randint(rows, (BATCH,), 0, len(data.reward))
            batch = jax.tree.map(lambda x, index=index: x[index], data)
            models = plain.update(models, batch, noise, turn)
        return models

    carry = {"models": jax.tree.map(jnp.copy, plain.models), "key": jax.random.key(1)}

    def run(calls: int) -> None:
        for _ in range(calls):
            carry["key"], key = jax.random.split(carry["key"])
            carry["models"] = several(carry["models"], key, data)
        jax.block_until_ready(carry["models"])

    run(2)
    return run


def measure(data: Transition) -> dict[str, np.ndarray]:
    """Updates per CPU-second of all four and the product's GFLOP, [rounds] each."""
    spec, data = Spec.of(data), jax.tree.map(jnp.asarray, data)
    sample = jax.tree.map(lambda x: x[:1], data)
    calls = FLAGS.updates // UNROLLED
    runs: dict[str, Callable[[], None]] = {}
    for name, plain in {"td3_bc": td3_bc, "iql": iql}.items():
        method = METHODS[name].make(METHODS[name].Config(), spec)
        ours = speed.compiled(method, 0, data, 1, round_seconds=FLAGS.round_seconds)
        runs[f"{name}, plain"] = partial(
            runner(plain(sample), jax.tree.map(jnp.asarray, data)), calls
        )
        runs[name] = partial(ours.run, calls * UNROLLED)
    product = speed.yardstick()
    rates: dict[str, list[float]] = {name: [] for name in (*runs, "product")}
    for _ in range(FLAGS.rounds):
        for name, run in runs.items():
            start = speed.clock()
            run()
            rates[name].append(calls * UNROLLED / (speed.clock() - start))
            rates["product"].append(product() / 1e9)
    return {name: np.asarray(each) for name, each in rates.items()}


def main(_: list[str]) -> None:
    """Measures and prints; ratios are taken round by round."""
    os.sched_setaffinity(0, {FLAGS.core})
    devices.use_cores()
    rates = measure(speed.dataset(speed.ROWS))
    table = Table("method", "updates/CPU-s", "min-max", "times the plain one")
    for name in ("td3_bc", "iql"):
        for kind in (f"{name}, plain", name):
            found, ratio = rates[kind], rates[kind] / rates[f"{name}, plain"]
            spread = f"{found.min():.0f}-{found.max():.0f}"
            table.add_row(kind, f"{np.median(found):.1f}", spread, f"{np.median(ratio):.2f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"matrix product: {np.median(rates['product']):.0f} GFLOP/CPU-s")


if __name__ == "__main__":
    flags.DEFINE_integer("core", 0, "the core that everything runs on (Linux)")
    flags.DEFINE_integer("rounds", 5, "interleaved rounds", lower_bound=1)
    flags.DEFINE_integer("updates", 400, "updates in a round", lower_bound=UNROLLED)
    flags.DEFINE_float("round_seconds", 1.0, "about how long the pace is measured for")
    app.run(main)
