"""How long an exported policy takes to answer one observation, in a process of its own.

Run as a script, it needs numpy and the file's own runtime, and nothing of this library:

    python latency.py policy.onnx 1000
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CALLS = 1000
IMAGES = 16  # different ones, which the calls take in turn


class Latency(NamedTuple):
    """Milliseconds, but for `load` and `first`, which are seconds."""

    load: float  # opening the file
    first: float  # the first call, which may compile
    median: float
    p99: float  # the 99th percentile
    largest: float
    calls: int
    runtime: str

    def __str__(self) -> str:
        return (
            f"one observation takes {self.median:.3g} ms (median of {self.calls}; 99th percentile "
            f"{self.p99:.3g} ms, largest {self.largest:.3g} ms) with {self.runtime}, in a fresh "
            f"process; loading took {self.load:.2g} s, the first call {self.first:.2g} s"
        )


def measured(path: Path, calls: int = CALLS) -> Latency:
    """Times a file of `export` in a fresh process.

    Raises:
        OSError: if the process fails; the message ends in its last line.
    """
    command = [sys.executable, __file__, str(path), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise OSError(f"{path} does not run in a process of its own: {lines[-1]}")
    return Latency(**json.loads(done.stdout.splitlines()[-1]))


def timed(path: str, calls: int) -> Latency:
    """Times a file of `export` in this process."""
    begun = time.perf_counter()
    call, shapes, runtime = (_onnx if path.endswith(".onnx") else _jax)(path)
    loaded = time.perf_counter()
    inputs = [_examples(shape, calls) for shape in shapes]
    seconds = []
    for draw in range(calls + 1):
        row = [each[draw % len(each)] for each in inputs]
        start = time.perf_counter()
        np.asarray(call(row, np.asarray(draw, np.uint32)))
        seconds.append(time.perf_counter() - start)
    first, *others = seconds
    milliseconds = 1000 * np.asarray(others)
    middle, late = np.percentile(milliseconds, [50, 99])
    largest = float(milliseconds.max())
    return Latency(loaded - begun, first, float(middle), float(late), largest, calls, runtime)


def _examples(shape: Sequence[Any], calls: int) -> np.ndarray:
    """Batches of one, [n, 1, ...]: vectors for all calls, or a few images, which take space."""
    rng, size = np.random.default_rng(0), [int(str(each)) for each in shape[1:]]
    if len(size) == 1:
        return rng.normal(size=(calls + 1, 1, *size)).astype(np.float32)
    return rng.integers(256, size=(IMAGES, 1, *size), dtype=np.uint8)


def _jax(path: str) -> tuple[Callable[..., Any], list[Sequence[Any]], str]:
    import jax
    import jax.export

    with open(path, "rb") as file:
        whole = jax.export.deserialize(bytearray(file.read()))
    runtime = f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    program = jax.jit(whole.call)

    def call(row: list[Any], draw: Any) -> Any:
        places, _ = jax.tree.unflatten(whole.in_tree, [*row, draw])
        return program(*places)

    return call, [each.shape for each in whole.in_avals[:-1]], runtime


def _onnx(path: str) -> tuple[Callable[..., Any], list[Sequence[Any]], str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small networks: waking threads takes longer than they save
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    shapes = {each.name: each.shape for each in session.get_inputs() if each.name != "draw"}
    return (
        lambda row, draw: session.run(None, {**dict(zip(shapes, row)), "draw": draw})[0],  # noqa: B905
        list(shapes.values()),
        f"onnxruntime {onnxruntime.__version__} on cpu, one thread",
    )


if __name__ == "__main__":
    print(json.dumps(timed(sys.argv[1], int(sys.argv[2]))._asdict()))
