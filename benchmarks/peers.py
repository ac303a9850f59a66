"""BDPO, TD3+BC and IQL of this library against public code, in one run on one core.

    git clone https://github.com/typoverflow/flow-rl
    git clone https://github.com/nissymori/JAX-CORL
    pip install hydra-core distrax pydantic tqdm
    python -m benchmarks.peers --flow_rl=flow-rl --jax_corl=JAX-CORL

flow-rl is BDPO's authors' code. Its two training steps are called as its scripts call them, on one
batch that stays in memory; drawing batches, which it does on the host, is left out. JAX-CORL's
`update_n_times` makes eight updates in a compiled call and draws the batches itself. Ours is the
runner's compiled chunk. All use the networks, batches and constants of our defaults, and data of
HalfCheetah's size. JAX-CORL normalises the layers of TD3+BC's critics, so ours does, too; its IQL
also does so in V, and ours does not.

Rounds are interleaved, beside a float32 matrix product, and ratios are taken round by round. Rates
are per CPU-second. "Bound" is the ratio that a program with the same products as ours would reach
if it ran at the rate of the matrix product, with nothing else to do.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import flow_rl, speed
from benchmarks.parity import jax_corl
from jaxrl_prefs.cli.flops import matmul_flops
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.types import Spec, Transition

FLAGS = flags.FLAGS
Run = Callable[[int], None]  # so many updates, waited for
CHANGES: dict[str, dict[str, Any]] = {"td3_bc": {"critic_layer_norm": True}}  # as JAX-CORL's


class Subject(NamedTuple):
    """A phase of a method, by our code or a peer's."""

    name: str
    run: Run
    updates: int  # in a round
    flops: float  # of one update's matrix products


def ours(algo: str, phase: str, data: Transition, precision: str) -> Subject:
    """A phase of ours, for one seed."""
    config = overrides.replace(METHODS[algo].Config(), CHANGES.get(algo, {}))
    method = METHODS[algo].make(config, Spec.of(data))
    index = [each.name for each in method.phases].index(phase)
    seconds = FLAGS.round_seconds
    case = speed.compiled(method, index, data, 1, precision, round_seconds=seconds)
    return Subject(f"ours, {precision}", case.run, case.updates, case.flops)


def paced(name: str, run: Run, period: int, flops: float) -> Subject:
    """A peer's, with as many updates as fill a round."""
    run(period)
    updates, seconds = period, 0.0
    while seconds < FLAGS.round_seconds / 2:
        updates *= 2
        start = speed.clock()
        run(updates)
        seconds = speed.clock() - start
    wanted = updates * FLAGS.round_seconds / seconds
    return Subject(name, run, period * max(1, round(wanted / period)), flops)


# --- flow-rl --------------------------------------------------------------------------------------


def bdpo_of_flow_rl(phase: str, data: Transition) -> Subject:
    """Its BDPO, either phase."""
    config = METHODS["bdpo"].Config()
    agent = flow_rl.agent(FLAGS.flow_rl, config, speed.OBSERVATION, speed.ACTION)
    rows = flow_rl.batch(jax.tree.map(lambda x: x[: config.batch_size], data))
    if phase == "train":
        agent.prepare_training()
    step = agent.pretrain_step if phase == "behavior" else agent.train_step
    steps: Iterator[int] = itertools.count()

    def run(count: int) -> None:
        for _ in range(count):
            step(rows, next(steps))
        jax.block_until_ready((agent.behavior.params, agent.vt.params, agent.actor.params))

    period = 1 if phase == "behavior" else agent.cfg.critic.update_ratio
    return paced("flow-rl", run, period, 0.0)


# --- JAX-CORL -------------------------------------------------------------------------------------


def method_of_jax_corl(algo: str, data: Transition) -> Subject:
    """Its TD3+BC or IQL."""
    module = jax_corl.imported({"td3_bc": "td3bc"}.get(algo, algo), FLAGS.jax_corl)
    short = algo.replace("_", "")
    settings = {"td3bc": "TD3BCConfig", "iql": "IQLConfig"}[short]
    config = getattr(module, settings)()
    own = {
        "observations": data.observation,
        "actions": data.action,
        "rewards": data.reward,
        "next_observations": data.next_observation,
    }
    none = np.zeros_like(data.reward)
    fields = module.Transition._fields
    rows = module.Transition(**{name: jnp.asarray(own.get(name, none)) for name in fields})
    make = getattr(module, f"create_{short}_train_state")
    state = make(jax.random.key(0), rows.observations[0], rows.actions[0], config)
    update = jax.jit(getattr(module, short.upper())().update_n_times, static_argnums=3)
    carry = {"state": state, "key": jax.random.key(1)}

    def run(count: int) -> None:
        for _ in range(count // config.n_jitted_updates):
            carry["key"], key = jax.random.split(carry["key"])
            carry["state"], _ = update(carry["state"], rows, key, config)
        jax.block_until_ready(carry["state"])

    per_call = config.n_jitted_updates
    flops = matmul_flops(lambda s, r, k: update(s, r, k, config), state, rows, jax.random.key(0))
    return paced("JAX-CORL", run, per_call, flops / per_call)


# --- Measuring ------------------------------------------------------------------------------------


def pair(target: str, data: Transition) -> list[Subject]:
    """The peer and ours, in every precision."""
    algo, phase = target.split(".")
    peer = bdpo_of_flow_rl(phase, data) if algo == "bdpo" else method_of_jax_corl(algo, data)
    return [peer, *[ours(algo, phase, data, each) for each in FLAGS.precisions]]


def measure(subjects: list[Subject]) -> tuple[np.ndarray, np.ndarray]:
    """Updates per CPU-second [subject, round] and products [round] in FLOP per CPU-second."""
    product = speed.yardstick()
    rates, products = np.zeros((len(subjects), FLAGS.rounds)), np.zeros(FLAGS.rounds)
    for turn in range(FLAGS.rounds):
        products[turn] = product()
        for place, each in enumerate(subjects):
            start = speed.clock()
            each.run(each.updates)
            rates[place, turn] = each.updates / (speed.clock() - start)
    return rates, products


def main(_: list[str]) -> None:
    """Measures one target after the other and prints a table."""
    os.sched_setaffinity(0, {FLAGS.core})
    devices.use_cores()
    data = speed.dataset(speed.ROWS)
    columns = ("target", "code", "updates/CPU-s", "times the peer", "min-max", "of peak", "bound")
    table = Table(*columns)
    for target in FLAGS.targets:
        subjects = pair(target, data)
        rates, products = measure(subjects)
        for each, rate in zip(subjects, rates, strict=True):
            ratio = rate / rates[0]
            of_peak = rate * each.flops / products
            bounded = each.name == "ours, float32"
            table.add_row(
                target,
                each.name,
                f"{np.median(rate):.4g}",
                f"{np.median(ratio):.2f}",
                f"{ratio.min():.2f}-{ratio.max():.2f}",
                f"{np.median(of_peak):.2f}" if each.flops else "",
                f"{np.median(ratio / of_peak):.2f}" if bounded else "",
            )
        Console(width=100).print(table)
        print(f"matrix product: {np.median(products) / 1e9:.0f} GFLOP/CPU-s", flush=True)


if __name__ == "__main__":
    targets = ["bdpo.behavior", "bdpo.train", "td3_bc.train", "iql.train"]
    flags.DEFINE_string("flow_rl", None, "folder of flow-rl", required=True)
    flags.DEFINE_string("jax_corl", None, "folder of JAX-CORL", required=True)
    flags.DEFINE_list("targets", targets, "method.phase")
    flags.DEFINE_list("precisions", ["float32", "bfloat16"], "of ours")
    flags.DEFINE_integer("core", 0, "the core that everything runs on (Linux)")
    flags.DEFINE_integer("rounds", 5, "interleaved rounds", lower_bound=1)
    flags.DEFINE_float("round_seconds", 3.0, "about how long a round takes each code")
    app.run(main)
