"""How updates scale with devices and seeds, beside how the machine itself scales.

    python -m benchmarks.scaling --devices=1,2,4 --seeds=1,2,4,8,16 --figure=scaling.png

Every (devices, seeds) runs in a process of its own, since JAX fixes the number of host devices when
it starts; rounds are in wall-clock seconds. Updates per second count every seed's. The yardstick is
a float32 matrix product in one process and in two at once: cores may share hardware.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import commandline
from experiments.overrides import OverrideError

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("algo", "td3_bc", "the method", **_OWN)
flags.DEFINE_multi_string("set", [], "field=value of the method's config", **_OWN)
flags.DEFINE_list("devices", ["1", "2", "4"], "host devices", **_OWN)
flags.DEFINE_list("seeds", ["1", "2", "4", "8", "16"], "seeds", **_OWN)
flags.DEFINE_integer("updates", 200, "of each seed in a round", **_OWN)
flags.DEFINE_integer("rounds", 3, "rounds of each; the median counts", **_OWN)
flags.DEFINE_string("figure", "", "a picture to write", **_OWN)
flags.DEFINE_string("cell", "", "devices,seeds: measures these in this process", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)
PRODUCT, REPEATS = 768, 30


def updates_per_second(devices: int, seeds: int) -> float:
    """Measures the last phase of the method, in this process, all seeds counted."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from benchmarks.speed import dataset
    from experiments import overrides
    from experiments.trial import mesh_for
    from jaxrl_prefs import chunk, train
    from jaxrl_prefs.methods import METHODS
    from jaxrl_prefs.types import Spec

    data = dataset(10_000)
    module = METHODS[FLAGS.algo]
    method = module.make(overrides.apply(module.Config(), FLAGS.set), Spec.of(data))
    crew = chunk.Ensemble(tuple(range(seeds)), mesh_for(seeds, jax.devices()))
    state = train.begin(method, data, crew)
    program = chunk.compile_chunk(method, len(method.phases) - 1, data, crew, state=state)
    pace = []
    for turn in range(FLAGS.rounds + 1):  # the first warms up
        start = time.perf_counter()
        state, report = program(state, turn * FLAGS.updates, (turn + 1) * FLAGS.updates)
        jax.block_until_ready(report.bad_step)
        pace.append(time.perf_counter() - start)
    return seeds * FLAGS.updates / float(np.median(pace[1:]))


def cell(devices: int, seeds: int) -> float:
    """As `updates_per_second`, in a new process."""
    own = [f"--algo={FLAGS.algo}", f"--updates={FLAGS.updates}", f"--rounds={FLAGS.rounds}"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.scaling", f"--cell={devices},{seeds}"),
            *(*own, *(f"--set={text}" for text in FLAGS.set)),
        ],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(json.loads(done.stdout.splitlines()[-1]))


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


def draw(path: Path, found: dict[int, dict[int, float]], machine: float) -> None:
    """Draws updates per second over seeds, a line for each number of devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="seeds", ylabel="updates per second, all seeds")
    for devices, rates in found.items():
        axes.plot(list(rates), list(rates.values()), "o-", label=f"{devices} device(s)")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{FLAGS.algo}; two processes' product runs {machine:.2f} times one's")
    axes.legend()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table of updates per second, and draws it if asked."""
    try:
        commandline.read(FLAGS, argv)
    except (flags.Error, OverrideError) as error:
        print(error, file=sys.stderr)
        return 2
    if FLAGS.help:
        print(commandline.usage(__doc__, FLAGS))
        return 0
    if FLAGS.cell:
        devices, seeds = map(int, FLAGS.cell.split(","))
        print(json.dumps(updates_per_second(devices, seeds)))
        return 0
    machine = machine_scaling()
    print(f"a matrix product in two processes at once: {machine:.2f} times one process", flush=True)
    seeds, found = [int(text) for text in FLAGS.seeds], {}
    print("| devices | " + " | ".join(f"{count} seeds" for count in seeds) + " |")
    print("|" + "---|" * (len(seeds) + 1), flush=True)
    for devices in map(int, FLAGS.devices):
        found[devices] = {count: cell(devices, count) for count in seeds}
        rates = " | ".join(f"{rate:,.0f}" for rate in found[devices].values())
        print(f"| {devices} | {rates} |", flush=True)
    if FLAGS.figure:
        draw(Path(FLAGS.figure), found, machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
