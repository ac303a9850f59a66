"""Updates per second of every phase at D4RL size, against this machine's matrix products.

    python -m benchmarks.speed                      # all cores or the accelerator
    python -m benchmarks.speed --cores=1 --seeds=1,5
    python -m benchmarks.speed --cores=1 --seeds=1 --precisions=float32,bfloat16

What is timed is the runner's own compiled chunk (`chunk.compile_chunk`) on random data of
HalfCheetah's size, method defaults otherwise; what earlier phases fill per row is zeros. Rounds of
every case are interleaved with rounds of a float32 matrix product, and medians are taken of each:
the machine's speed drifts. "Rate" is in updates of one seed per CPU-second on a CPU (all threads of
the process added), per second on an accelerator; "of peak" is the model's matrix-product FLOPs over
the product's rate, "of first" the rate over that of the phase's first row in the same round.
"""

from __future__ import annotations

import math
import operator
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from jaxrl_prefs.cli.flops import update_flops
from jaxrl_prefs.method import Method, Phase, with_precision
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import devices, seed_axis
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.training import chunk, loop
from jaxrl_prefs.types import Spec, Transition

FLAGS = flags.FLAGS
OBSERVATION, ACTION, ROWS = 17, 6, 100_000
PRODUCT, REPEATS = 1024, 20  # of the yardstick
SETTLED = 2.0  # seconds of a call beside which what it costs once counts little


class Case(NamedTuple):
    """One phase for so many seeds at a precision, compiled and warm."""

    name: str
    seeds: int
    precision: str
    run: Callable[[int], None]  # (updates of each seed)
    updates: int  # in a round
    flops: float  # of one update of one seed
    compile_seconds: float
    temporary_bytes: int
    program_bytes: int  # arguments, results and temporary memory of the compiled program
    period: int = 1  # updates after which their cost repeats


def dataset(rows: int) -> Transition:
    """Random transitions of HalfCheetah's sizes."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    index = np.arange(rows, dtype=np.int32)
    action = np.clip(normal(rows, ACTION), -1, 1)
    return Transition(
        observation=normal(rows, OBSERVATION),
        action=action,
        reward=normal(rows),
        discount=np.full(rows, 0.99, np.float32),
        next_observation=normal(rows, OBSERVATION),
        next_action=action,
        has_next_action=np.ones(rows, np.float32),
        index=index,
        next_index=index,
    )


def clock() -> float:
    """Seconds that count: of the processor on a CPU, of the wall on an accelerator."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def yardstick(
    rows: int = PRODUCT,
    width: int = PRODUCT,
    repeats: int = REPEATS,
    product: Callable[[jax.Array, jax.Array], jax.Array] = operator.matmul,
) -> Callable[[], float]:
    """A function that measures products [rows, width] @ [width, width] once, in FLOP per second.

    Numbers keep their size from one product to the next: an accelerator is faster on zeros.
    """
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(rows, width)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(width, width)) / np.sqrt(width), jnp.float32)

    @jax.jit
    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, repeats, lambda _, y: product(y, kernel), x)

    products(x, kernel).block_until_ready()

    def measure() -> float:
        start = clock()
        products(x, kernel).block_until_ready()
        return repeats * 2.0 * rows * width**2 / (clock() - start)

    return measure


def compiled(
    method: Method,
    index: int,
    data: Transition,
    seeds: int,
    precision: str = "float32",
    *,
    round_seconds: float,
    settled: float = SETTLED,
) -> Case:
    """Compiles one phase for `seeds` seeds on the devices that they can fill.

    A round takes about `round_seconds` a seed; `settled` is the time of a call from which it is
    known how many updates that is.
    """
    method = with_precision(method, precision)
    devices = jax.devices()[: min(seeds, jax.device_count())]
    placement = chunk.SeedPlacement(tuple(range(seeds)), seed_axis.seed_mesh(devices))
    state = loop.init_members(method, data, placement)
    one = jax.tree.map(lambda x: np.asarray(x[0]), state)
    start = time.perf_counter()
    before = method.phases[:index]
    columns = earlier_columns(before, len(data.reward))
    common = {name for phase in before if phase.shared for name in phase.columns}
    placed = {
        name: x if name in common else np.broadcast_to(x, (seeds, *x.shape))
        for name, x in columns.items()
    }
    program = chunk.compile_chunk(method, index, data, placement, state=state, columns=placed)
    seconds = time.perf_counter() - start
    phase = method.phases[index]
    _tell(f"{phase.name}, {seeds} seeds, {precision}: compiled in {seconds:.1f} s")
    run = runner(program, state)
    pace = _pace(run, settled)
    flops, period = phase_flops(phase, one, data, columns)
    period = math.lcm(period, program.round_length)
    memory = program.compiled.memory_analysis()
    # Whole cycles, else the mean over updates would depend on where a round starts. Long
    # calls, as a run's: each costs something of its own, more with more seeds.
    updates = period * max(1, round(round_seconds * seeds / pace / period))
    return Case(
        phase.name,
        seeds,
        precision,
        run,
        updates,
        flops,
        seconds,
        memory.temp_size_in_bytes,
        program_bytes(memory),
        period,
    )


def earlier_columns(phases: Sequence[Phase], rows: int) -> dict[str, np.ndarray]:
    """Zeros [N, ...] for what these phases fill."""
    columns = {name: column for phase in phases for name, column in phase.columns.items()}
    return {name: np.zeros((rows, *each.shape), each.dtype) for name, each in columns.items()}


def runner(program: chunk.Chunk, state: Any) -> Callable[[int], None]:
    """A function that runs so many further updates and waits for them.

    A phase that fills columns begins again after the last row.
    """
    holder = {"state": state, "step": 0}

    def run(updates: int) -> None:
        while updates > 0:
            first = -(-holder["step"] // program.round_length) * program.round_length
            if program.phase.columns and first >= program.phase.steps:
                first = 0
            last = min(first + updates, program.end(first))
            holder["state"], report = program(holder["state"], first, last)
            holder["step"], updates = last, updates - (last - first)
            jax.block_until_ready(report.bad_step)

    return run


def phase_flops(
    phase: Phase, state: Any, data: Transition, columns: Mapping[str, np.ndarray]
) -> tuple[float, int]:
    """FLOPs of one seed's update, the mean over a cycle of updates, and the cycle's length."""
    filled = {f"{prefix}{name}": x for prefix in ("", "next_") for name, x in columns.items()}
    batch = jax.tree.map(lambda x: x[: phase.batch_size], data._replace(columns=filled))
    return update_flops(phase.update, state, batch, jax.random.key(0), period=phase.period)


def program_bytes(memory: Any) -> int:
    """Memory of a program on one device, by XLA's analysis; donated arguments count once."""
    parts = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(parts + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def _pace(run: Callable[[int], None], settled: float) -> float:
    """Seconds of one update, by the first call that takes `settled` of them."""
    run(1)
    updates = 1
    while True:
        start = time.perf_counter()
        run(updates)
        seconds = time.perf_counter() - start
        if seconds >= settled:
            return seconds / updates
        updates *= 2


def measure(cases: list[Case], rounds: int) -> tuple[np.ndarray, float]:
    """Updates of one seed per counted second, [case, round] and the product's median rate."""
    rates, product, products = np.zeros((len(cases), rounds)), yardstick(), []
    for turn in range(rounds):
        for place, case in enumerate(cases):
            products.append(product())
            start = clock()
            case.run(case.updates)
            rates[place, turn] = case.seeds * case.updates / (clock() - start)
        _tell(f"round {turn + 1} of {rounds}: {', '.join(f'{r:.2f}' for r in rates[:, turn])}")
    return rates, float(np.median([*products, product()]))


def _tell(what: str) -> None:
    """Says on standard error how far the benchmark is: it takes minutes."""
    print(what, file=sys.stderr, flush=True)


def show(algo: str, cases: list[Case], rates: np.ndarray, peak: float) -> None:
    """Prints the table, and the machine."""
    console = Console(width=130)
    unit = "CPU-s" if jax.default_backend() == "cpu" else "s"
    table = Table(title=f"{algo} on {jax.devices()[0].device_kind}, {jax.device_count()} x")
    columns = (
        "phase",
        "seeds",
        "precision",
        f"updates/{unit}",
        "min-max",
        "GFLOP/update",
        "of peak",
    )
    for column in (*columns, "of first", "compile s", "temp MB"):
        table.add_column(column, justify="right")
    first: dict[str, np.ndarray] = {}
    for case, rate in zip(cases, rates, strict=True):
        least = first.setdefault(case.name, rate)
        table.add_row(
            case.name,
            str(case.seeds),
            case.precision,
            f"{np.median(rate):.2f}",
            f"{rate.min():.2f}-{rate.max():.2f}",
            f"{case.flops / 1e9:.2f}",
            f"{np.median(rate) * case.flops / peak:.2f}",
            f"{np.median(rate / least):.2f}",
            f"{case.compile_seconds:.1f}",
            f"{case.temporary_bytes / 1e6:.0f}",
        )
    console.print(table)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    console.print(f"matrix product: {peak / 1e9:.0f} GFLOP/{unit}; peak memory {resident:.0f} MB")
    console.print(f"jax {jax.__version__}, load average {os.getloadavg()[0]:.1f}")


def main(_: list[str]) -> None:
    """Compiles every phase for every number of seeds, measures, prints."""
    if FLAGS.cores:
        os.sched_setaffinity(0, range(FLAGS.cores))
    devices.use_cores()
    module = METHODS[FLAGS.algo]
    config = overrides.apply(module.Config(), FLAGS.set)
    data = dataset(ROWS)
    spec = Spec.of(data)
    method = module.make(config, spec)
    chosen = [i for i, p in enumerate(method.phases) if not FLAGS.phases or p.name in FLAGS.phases]
    cases = [
        compiled(method, index, data, int(seeds), precision, round_seconds=FLAGS.round_seconds)
        for index in chosen
        for seeds in FLAGS.seeds
        for precision in FLAGS.precisions
    ]
    rates, peak = measure(cases, FLAGS.rounds)
    show(FLAGS.algo, cases, rates, peak)


if __name__ == "__main__":
    flags.DEFINE_enum("algo", "bdpo", sorted(METHODS), "method")
    flags.DEFINE_list("seeds", ["1", "5"], "numbers of seeds")
    flags.DEFINE_list("phases", [], "phases to time; all if empty")
    flags.DEFINE_list("precisions", ["float32"], "of the products of hidden layers")
    flags.DEFINE_integer("cores", 0, "run on so many cores (Linux); 0 for all", lower_bound=0)
    flags.DEFINE_integer("rounds", 5, "interleaved rounds", lower_bound=1)
    flags.DEFINE_float("round_seconds", 4.0, "about how long a round takes a seed")
    flags.DEFINE_multi_string("set", [], "method field=value")
    app.run(main)
