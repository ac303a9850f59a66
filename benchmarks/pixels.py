"""How fast encoders train, and what frames cost in memory, as shares of what this machine can do.

    python -m benchmarks.pixels --encoder=drq --size=64 --batch=128

Prints and returns: the rate of the encoder's second convolution alone (forward, by XLA), the rate
of whole updates of TD3+BC on images in the same unit, their ratio; and the resident memory that a
set of `--frames` frames adds once it is being trained on, over the frames' own bytes. For frames in
a mapped file see `benchmarks.streaming`.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from absl import flags

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data import Dataset, Processing, prepare
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.parallel import devices, seed_axis
from jaxrl_prefs.training import chunk, loop
from jaxrl_prefs.types import Spec

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("encoder", "drq", "a name in nets.ENCODERS", **_OWN)
flags.DEFINE_integer("size", 64, "pixels of a side", **_OWN)
flags.DEFINE_integer("batch", 128, "rows per update", **_OWN)
flags.DEFINE_integer("frames", 20_000, "in the data", **_OWN)
flags.DEFINE_integer("updates", 10, "per round, of three", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)
ROUNDS = 3
FEW = 404  # frames of the set whose memory is taken off


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    commandline.read(FLAGS, argv)
    if FLAGS.help:
        print(commandline.usage(__doc__, FLAGS, argv))
        return 0
    devices.prepare()
    print(json.dumps(measured(), indent=2))
    return 0


def measured() -> dict[str, Any]:
    """All figures, by name."""
    few = prepare(recording(FEW, None, FLAGS.size), Processing(frame_stack=3)).transitions
    method = on_images(
        functools.partial(td3_bc.make, td3_bc.Config(batch_size=FLAGS.batch)),
        Spec.of(few),
        EncoderConfig(encoder=FLAGS.encoder),
    )
    _, _, before = _updates(method, few)  # the memory of programs and of what they need
    data = recording(FLAGS.frames, None, FLAGS.size)
    images = data.images["image"].frames
    run, flops, own = _updates(method, prepare(data, Processing(frame_stack=3)).transitions)
    resident = own - before
    product = max(_convolution_rate() for _ in range(ROUNDS))
    seconds = min(_timed(run) for _ in range(ROUNDS)) / FLAGS.updates
    return {
        "encoder": FLAGS.encoder,
        "size": FLAGS.size,
        "batch": FLAGS.batch,
        "updates_per_second": round(1 / seconds, 2),
        "gflop_per_second": round(flops / seconds / 1e9, 1),
        "convolution_gflop_per_second": round(product / 1e9, 1),
        "share": round(flops / seconds / product, 3),
        "frames_mb": round(images.nbytes / 1e6, 1),
        "resident_over_frames": round(resident / images.nbytes, 3),
    }


def recording(frames: int, file: Path | None, size: int = 64) -> Dataset:
    """Episodes of 100 steps whose frames are random, in memory or in a mapped file."""
    count = frames // 101
    shape = (count * 101, size, size, 3)
    rng = np.random.default_rng(0)
    shown: np.ndarray
    if file is None:
        shown = np.empty(shape, np.uint8)
    else:
        shown = np.memmap(file, np.uint8, "w+", shape=shape)
    for start in range(0, shape[0], 1000):  # not all at once: that would count as memory
        part = shown[start : start + 1000]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
    steps = count * 100
    before = np.arange(steps) + np.arange(steps) // 100
    data = Dataset.from_arrays(
        np.zeros((steps, 1)),
        rng.uniform(-1, 1, (steps, 2)),
        rng.normal(size=steps),
        np.zeros(steps),
        np.arange(steps) % 100 == 99,
        next_observations=np.zeros((steps, 1)),
    )
    return data._replace(images={"image": Images(shown, before, before + 1).aligned()})


def _updates(method: Method, data: Any) -> tuple[Callable[[], Any], float, int]:
    """A round of updates of one seed, the operations of one, and the resident memory after one."""
    placement = chunk.SeedPlacement((0,), seed_axis.seed_mesh(jax.devices()[:1]))
    state = loop.init_members(method, data, placement)
    compiled = chunk.compile_chunk(method, 0, data, placement, state=state)
    count = min(FLAGS.updates, compiled.longest)
    held = [compiled(state, 0, count)[0]]
    jax.block_until_ready(held)
    cost = compiled.compiled.cost_analysis()
    own = psutil.Process().memory_info().rss

    def run() -> Any:
        for first in range(0, FLAGS.updates, count):
            held[0] = compiled(held[0], first, first + count)[0]
        return jax.block_until_ready(held[0])

    return run, float(cost["flops"]), own


def _convolution_rate() -> float:
    """Operations per second of DrQ's second convolution, forward, by XLA."""
    side = (FLAGS.size - 1) // 2
    x = jnp.ones((FLAGS.batch, side, side, 32))
    kernel = jnp.ones((3, 3, 32, 32))
    convolve = jax.jit(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    jax.block_until_ready(convolve(x, kernel))
    seconds = min(_timed(lambda: jax.block_until_ready(convolve(x, kernel))) for _ in range(5))
    return 2 * FLAGS.batch * (side - 2) ** 2 * 32 * 32 * 9 / seconds


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
