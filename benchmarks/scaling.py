"""How updates scale with devices and seeds, beside how the machine itself scales.

    python -m benchmarks.scaling --devices=1,2,4 --seeds=1,2,4,8,16 --figure=scaling.png

Every (devices, seeds) has a process of its own, since JAX fixes the number of host devices when it
starts; D devices get D of the cores, as far as there are so many. The processes take turns, round
by round, because a machine's speed drifts: a speed-up is the median of the rounds' own ratios.
Updates per wall-clock second count every seed's. The yardstick, once a round, is a float32 matrix
product in one process and in two at once: cores may share hardware.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import config

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("algo", "td3_bc", "the method", **_OWN)
flags.DEFINE_multi_string("set", [], "field=value of the method's config", **_OWN)
flags.DEFINE_list(
    "devices", ["1", "2", "4"], "host devices; the first is what others scale", **_OWN
)
flags.DEFINE_list("seeds", ["1", "2", "4", "8", "16"], "seeds", **_OWN)
flags.DEFINE_integer("updates", 200, "of each seed in a round", 1, **_OWN)
flags.DEFINE_integer("rounds", 5, "rounds of each; medians count", 1, **_OWN)
flags.DEFINE_string("figure", "", "a picture to write", **_OWN)
flags.DEFINE_string("cell", "", "devices,seeds: plays a round for each line of input", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)
PRODUCT, REPEATS = 768, 30


def play(devices: int, seeds: int) -> None:
    """Trains for a round at each line of input; prints updates per second, all seeds counted."""
    import jax

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:devices])
    jax.config.update("jax_num_cpu_devices", devices)
    from benchmarks.speed import dataset
    from jaxrl_prefs.methods import METHODS
    from jaxrl_prefs.runs import overrides
    from jaxrl_prefs.runs.job import mesh_for
    from jaxrl_prefs.training import chunk, loop
    from jaxrl_prefs.types import Spec

    data = dataset(10_000)
    module = METHODS[FLAGS.algo]
    method = module.make(overrides.apply(module.Config(), FLAGS.set), Spec.of(data))
    placement = chunk.SeedPlacement(tuple(range(seeds)), mesh_for(seeds, jax.devices()))
    state = loop.init_members(method, data, placement)
    program = chunk.compile_chunk(method, len(method.phases) - 1, data, placement, state=state)
    done = 0
    for _ in sys.stdin:
        start = time.perf_counter()
        state, report = program(state, done, done + FLAGS.updates)
        jax.block_until_ready(report.bad_step)
        done += FLAGS.updates
        print(seeds * FLAGS.updates / (time.perf_counter() - start), flush=True)


class Cell:
    """The process of one (devices, seeds)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def round(self) -> float:
        """Updates per second of one round. Raises RuntimeError if the process has failed."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # the empty answer tells
            print(file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("a cell has failed; its message stands above")
        return float(answer)


@contextmanager
def cell(devices: int, seeds: int) -> Iterator[Cell]:
    """Starts the process of a cell, compiled and warm, and ends it."""
    command = [
        *(sys.executable, "-m", "benchmarks.scaling", f"--cell={devices},{seeds}"),
        *(f"--algo={FLAGS.algo}", f"--updates={FLAGS.updates}"),
        *(f"--set={text}" for text in FLAGS.set),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        made = Cell(process)
        made.round()
        yield made
        process.communicate()


def measure(devices: Sequence[int], seeds: Sequence[int]) -> tuple[np.ndarray, list[float]]:
    """Updates per second, [devices, seeds, round], and two processes' product over one's."""
    rates = np.zeros((len(devices), len(seeds), FLAGS.rounds))
    with ExitStack() as stack:
        cells = {
            place: stack.enter_context(cell(devices[place[0]], seeds[place[1]]))
            for place in np.ndindex(rates.shape[:2])
        }
        machine = []
        for turn in range(FLAGS.rounds):
            machine.append(machine_scaling())
            for place, each in cells.items():
                rates[(*place, turn)] = each.round()
            print(f"round {turn + 1} of {FLAGS.rounds}", file=sys.stderr, flush=True)
    return rates, machine


def _products(barrier: Any, results: Any) -> None:
    x = np.random.default_rng(0).normal(size=(PRODUCT, PRODUCT)).astype(np.float32)
    x @ x
    barrier.wait()
    start = time.perf_counter()
    for _ in range(REPEATS):
        x @ x
    results.put(time.perf_counter() - start)


def machine_scaling() -> float:
    """Matrix products per second of two processes at once, over those of one."""
    spawn = multiprocessing.get_context("spawn")
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

    def rate(count: int) -> float:
        barrier, results = spawn.Barrier(count), spawn.Queue()
        workers = [spawn.Process(target=_products, args=(barrier, results)) for _ in range(count)]
        for worker in workers:
            worker.start()
        seconds = [results.get() for _ in workers]
        for worker in workers:
            worker.join()
        return count * REPEATS / max(seconds)

    return rate(2) / rate(1)


def table(devices: Sequence[int], seeds: Sequence[int], rates: np.ndarray) -> list[str]:
    """Medians of updates per second, and how they compare with the first number of devices."""
    speed, gain = np.median(rates, -1), np.median(rates / rates[:1], -1)
    lines = [
        "| devices | " + " | ".join(f"{count} seeds" for count in seeds) + " |",
        "|" + "---|" * (len(seeds) + 1),
    ]
    for row, count in enumerate(devices):
        cells = [f"{x:,.0f} ({y:.2f})" for x, y in zip(speed[row], gain[row], strict=True)]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def draw(
    path: Path, devices: Sequence[int], seeds: Sequence[int], rates: np.ndarray, machine: float
) -> None:
    """Draws updates per second over seeds with their range, a line for each number of devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="seeds", ylabel="updates per second, all seeds")
    for count, found in zip(devices, rates, strict=True):
        middle = np.median(found, -1)
        spread = np.abs(np.stack([found.min(-1), found.max(-1)]) - middle)
        axes.errorbar(seeds, middle, spread, fmt="o-", capsize=3, label=f"{count} device(s)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(seeds, map(str, seeds))
    axes.set_ylim(bottom=0)
    axes.set_title(f"{FLAGS.algo}; two processes' product runs {machine:.2f} times one's")
    axes.legend()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table of updates per second, and draws it if asked."""
    try:
        commandline.read(FLAGS, argv, "; lists are separated by commas")
        if FLAGS.help:
            print(commandline.usage(__doc__, FLAGS))
            return 0
        config.check(config.Choice(FLAGS.algo, "", "", (0,), tuple(FLAGS.set)))
    except (flags.Error, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    if FLAGS.cell:
        play(*map(int, FLAGS.cell.split(",")))
        return 0
    devices, seeds = ([int(text) for text in axis] for axis in (FLAGS.devices, FLAGS.seeds))
    rates, products = measure(devices, seeds)
    machine = float(np.median(products))
    span = f"{min(products):.2f} to {max(products):.2f}"
    print(f"a matrix product in two processes at once: {machine:.2f} times one process ({span})")
    print("\n".join(table(devices, seeds, rates)), flush=True)
    if FLAGS.figure:
        draw(Path(FLAGS.figure), devices, seeds, rates, machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
