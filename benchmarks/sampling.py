"""Candidates per second of ARQ's samplers, with log-densities and without, against matrix products.

    python -m benchmarks.sampling --cores=1            # one core
    python -m benchmarks.sampling --batch=4096         # states for each call, on an accelerator

Timed are what the phase `candidates` calls: its sampler alone, and its update, which adds the
log-densities. Networks and numbers of samples are the defaults, or what --set says; data are
random. Rounds of every case are interleaved with rounds of a float32 matrix product, and medians
are taken of each. "Of peak" is the network's matrix-product FLOPs over the product's rate; where
steps are adaptive their number is not known and neither is that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks.speed import clock, yardstick
from jaxrl_prefs.behavior import score
from jaxrl_prefs.cli.flops import matmul_flops
from jaxrl_prefs.methods import arq
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.types import Spec, Transition

FLAGS = flags.FLAGS
REFERENCE = 145e9  # FLOP per second, of one core of the machine that the issue speaks of

CASES: dict[str, dict[str, Any]] = {
    "500 steps": {},
    "500 steps predictor alone": {"sampler": "predictor"},
    "few steps": {"sampler": "few_step", "sampler_steps": 24},
    "few steps and log-density in 32": {
        **{"sampler": "few_step", "sampler_steps": 24, "density": "fixed", "density_nodes": 32}
    },
    "few steps and log-density adaptive": {"sampler": "few_step", "sampler_steps": 24},
}


class Case(NamedTuple):
    """One call, compiled and warm."""

    name: str
    run: Callable[[int], None]  # (number of the call)
    samples: int  # of one call
    flops: float  # of one sample; 0 where unknown


class Calls(NamedTuple):
    """What the phase `candidates` calls, each a function of (state, key)."""

    init: Callable[[Any], Any]  # key -> state
    samples: Callable[[Any, Any], Any]
    densities: Callable[[Any, Any], Any]  # samples and their log-densities: the whole update
    total: int  # samples of one call


def calls(config: arq.Config, observation: int, action: int) -> Calls:
    """Builds the phase's sampler and its update, for a random batch of states."""
    rows = config.candidate_batch_size
    rng = np.random.default_rng(0)
    zero, one = np.zeros(action, np.float32), np.ones(action, np.float32)
    moments = np.zeros(observation, np.float32), np.ones(observation, np.float32)
    spec = Spec(observation, action, 10 * rows, -one, one, *moments, zero, one)
    parts, method = arq.build(config, spec), arq.make(config, spec)
    batch = example(rng, rows, observation, action)
    fill = next(phase for phase in method.phases if phase.name == "candidates")

    def densities(state: Any, key: Any) -> Any:
        return fill.update(state, batch, key, jnp.int32(0))[2]

    def samples(state: Any, key: Any) -> Any:
        streams = arq.keys_of_rows(key, batch.index)
        params, count = state.behavior.target, config.candidates
        return score.sample(parts.model, params, batch.observation, streams, count, parts.sampler)

    def init(key: Any) -> Any:
        return method.init(key, batch)

    return Calls(init, samples, densities, rows * config.candidates)


def prepared(name: str, changes: dict[str, Any], observation: int, action: int) -> Case:
    """Compiles the phase's sampler, or its whole update where log-densities are asked for."""
    config = overrides.replace(arq.Config(), {"candidate_batch_size": FLAGS.batch, **changes})
    found = calls(overrides.apply(config, FLAGS.set), observation, action)
    state = found.init(jax.random.key(0))
    call = partial(found.densities if "density" in name else found.samples, state)
    compiled = jax.jit(call)

    def run(number: int) -> None:
        jax.block_until_ready(compiled(jax.random.key(number)))

    run(0)
    known = "adaptive" not in name
    flops = matmul_flops(call, jax.random.key(0)) / found.total if known else 0.0
    return Case(name, run, found.total, flops)


def example(rng: np.random.Generator, rows: int, observation: int, action: int) -> Transition:
    """Random rows."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    row, index = np.zeros(rows, np.float32), np.arange(rows, dtype=np.int32)
    states, actions = normal(rows, observation), normal(rows, action)
    return Transition(states, actions, row, row, states, actions, row, index, index)  # type: ignore[arg-type]


def main(_: list[str]) -> None:
    """Compiles all cases, measures them in turn, prints."""
    if FLAGS.cores:
        os.sched_setaffinity(0, range(FLAGS.cores))
    devices.use_cores()
    chosen = {name: CASES[name] for name in CASES if not FLAGS.cases or name in FLAGS.cases}
    cases = [prepared(name, set_, FLAGS.observation, FLAGS.action) for name, set_ in chosen.items()]
    product, products = yardstick(), []
    rates = np.zeros((len(cases), FLAGS.rounds))
    for turn in range(FLAGS.rounds):
        for place, case in enumerate(cases):
            products.append(product())
            start = clock()
            case.run(1 + turn)
            rates[place, turn] = case.samples / (clock() - start)
    show(cases, rates, float(np.median([*products, product()])))


def show(cases: list[Case], rates: np.ndarray, peak: float) -> None:
    """Prints the table, and the machine."""
    unit = "CPU-s" if jax.default_backend() == "cpu" else "s"
    console = Console(width=110)
    sizes = f"{FLAGS.batch} states, {FLAGS.observation} observations, {FLAGS.action} actions"
    table = Table(title=sizes)
    for column in ("", f"samples/{unit}", "min-max", "GFLOP/sample", "of peak", "at 145 GFLOP/s"):
        table.add_column(column, justify="right")
    for case, rate in zip(cases, rates, strict=True):
        middle = float(np.median(rate))
        share = middle * case.flops / peak
        table.add_row(
            case.name,
            f"{middle:.1f}",
            f"{rate.min():.1f}-{rate.max():.1f}",
            f"{case.flops / 1e9:.4f}" if case.flops else "?",
            f"{share:.2f}" if case.flops else "?",
            f"{middle * REFERENCE / peak:.0f}",
        )
    console.print(table)
    console.print(
        f"matrix product: {peak / 1e9:.0f} GFLOP/{unit}; jax {jax.__version__} on "
        f"{jax.devices()[0].device_kind}, load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    flags.DEFINE_integer("batch", 16, "states for each call", lower_bound=1)
    flags.DEFINE_integer("observation", 17, "dimensions of an observation", lower_bound=1)
    flags.DEFINE_integer("action", 6, "dimensions of an action", lower_bound=1)
    flags.DEFINE_integer("cores", 0, "run on so many cores (Linux); 0 for all", lower_bound=0)
    flags.DEFINE_integer("rounds", 3, "interleaved rounds", lower_bound=1)
    flags.DEFINE_list("cases", [], f"which to time, of: {', '.join(CASES)}; all if empty")
    flags.DEFINE_multi_string("set", [], "field=value of ARQ, for every case")
    app.run(main)
