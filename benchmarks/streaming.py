"""What data cost that stay in mapped files: updates beside those on data in memory, and loading.

    python -m benchmarks.streaming --rows=100000000 --folder=rows   # vectors
    python -m benchmarks.streaming --frames=500000                  # images

Vectors have HalfCheetah's size, 17 observations and 6 actions, and lie in a folder of arrays (.npy)
in `--parts` parts, which is written if it is not there. It is loaded as `jaxrl-prefs run` does, and
seconds and memory are printed. Images are 64x64x3 in one file. TD3+BC trains on them and on `--few`
rows or frames on the device, in turns of `--updates` updates: the ratio of the rates is the median
of the rounds' ratios. Both go through the training loop, which gathers batches while the device
works.
"""

from __future__ import annotations

import functools
import json
import math
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import pixels
from jaxrl_prefs import data as datasets
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.data import PreparedDataset, Processing
from jaxrl_prefs.data.readers import folders
from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.rows import in_memory, kept
from jaxrl_prefs.runs import fingerprints
from jaxrl_prefs.runs.job import mesh_for
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec, Transition

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_integer("rows", 0, "of vectors in a folder of files", **_OWN)
flags.DEFINE_integer("frames", 0, "of images in a file", **_OWN)
flags.DEFINE_string("folder", "", "where files are written, and stay; a temporary one", **_OWN)
flags.DEFINE_integer("parts", 10, "of the folder of vectors", 1, **_OWN)
flags.DEFINE_integer("few", 100_000, "rows or frames on the device", 1, **_OWN)
flags.DEFINE_integer("batch", 256, "rows per update", 1, **_OWN)
flags.DEFINE_integer("seeds", 1, "trained together", 1, **_OWN)
flags.DEFINE_integer("updates", 1000, "per turn", 1, **_OWN)
flags.DEFINE_integer("rounds", 9, "turns of each", 1, **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)
OBSERVATIONS, ACTIONS, EPISODE = 17, 6, 1000
AT_ONCE = 10**6  # rows that are written at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code."""
    commandline.read(FLAGS, argv)
    if FLAGS.help or not (FLAGS.rows or FLAGS.frames):
        print(commandline.usage(__doc__, FLAGS, argv))
        return 0
    devices.use_cores()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(FLAGS.folder or temporary)
        if FLAGS.rows:
            print(json.dumps(of_vectors(folder / f"rows-{FLAGS.rows}"), indent=2))
        if FLAGS.frames:
            print(json.dumps(of_images(folder / f"frames-{FLAGS.frames}"), indent=2))
    return 0


# --- Vectors --------------------------------------------------------------------------------------


def of_vectors(folder: Path) -> dict[str, Any]:
    """Loading, and the rates on all rows in files and on a few on the device."""
    if not folder.exists():
        write_vectors(folder)
    forget(folder)
    told: dict[str, Any] = {"gb_in_files": round(sum(map(size, files(folder))) / 1e9, 2)}
    with anonymous_memory(told, "anonymous_gb_before", "largest_anonymous_gb"):
        prepared = loaded(folder, told)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it is in KiB
    told["largest_resident_gb"] = round(largest / 1e9, 2)
    told["anonymous_gb_afterwards"] = round(anonymous() / 1e9, 2)
    few = in_memory(kept(prepared.transitions, np.arange(FLAGS.few)))
    method = td3_bc.make(td3_bc.Config(batch_size=FLAGS.batch, train_steps=2**30), prepared.spec)
    return told | compared(method, few, prepared.transitions)


def loaded(folder: Path, told: dict[str, Any]) -> PreparedDataset:
    """The folder as a run takes it, mapped whether it fits in memory or not; notes the seconds."""
    folders.COPIES = math.inf  # type: ignore[assignment]
    hints = datasets.read_hints(action_low=-1.0, action_high=1.0)
    recording = timed(told, "loading_s", lambda: datasets.load(folder, hints=hints))
    prepared = timed(told, "preparing_s", lambda: datasets.prepare(recording, Processing()))
    timed(told, "checksum_s", lambda: fingerprints.of(prepared))
    return prepared


def write_vectors(folder: Path) -> None:
    """Episodes of random numbers, cut off by a time limit, in parts of as many rows.

    The folder has its name only once it is whole, so that an interrupted one is not taken for it.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng, count = np.random.default_rng(0), -(-FLAGS.rows // FLAGS.parts)
    widths = {"observations": OBSERVATIONS, "actions": ACTIONS, "rewards": 0}
    for part in range(FLAGS.parts):
        place = unfinished / f"part-{part:03}"
        place.mkdir(parents=True)
        for name, width in widths.items():
            shape = (count, width) if width else (count,)
            file = np.lib.format.open_memmap(place / f"{name}.npy", "w+", np.float32, shape)
            for start in range(0, count, AT_ONCE):
                block = file[start : start + AT_ONCE]
                block[:] = rng.random(block.shape, np.float32) * 2 - 1
            file.flush()
        last = np.arange(count) % EPISODE == EPISODE - 1
        np.save(place / "terminals.npy", np.zeros(count, bool))
        np.save(place / "timeouts.npy", last)
    unfinished.rename(folder)


# --- Images ---------------------------------------------------------------------------------------


def of_images(file: Path) -> dict[str, Any]:
    """The rates on frames in a file and on a few on the device."""
    stacked = Processing(frame_stack=3)
    few = datasets.prepare(pixels.recording(FLAGS.few, None), stacked).transitions
    method = on_images(
        functools.partial(td3_bc.make, td3_bc.Config(batch_size=FLAGS.batch, train_steps=2**30)),
        Spec.of(few),
        EncoderConfig(encoder="two_layers"),
    )
    many = datasets.prepare(pixels.recording(FLAGS.frames, file), stacked).transitions
    forget(file.parent)
    return {"gb_in_files": round(size(file) / 1e9, 2), **compared(method, few, many)}


# --- Rates ----------------------------------------------------------------------------------------


def compared(method: Method, few: Transition, many: Transition) -> dict[str, Any]:
    """Updates per second and seed on `few` rows on the device and on `many` in files, in turns."""
    mesh = mesh_for(FLAGS.seeds, jax.devices())
    common: dict[str, Any] = {"every": FLAGS.updates}
    seeds = range(FLAGS.seeds)
    turns = [
        _seconds(loop.run(method, few, seeds, mesh, **common)),
        _seconds(loop.run(method, many, seeds, mesh, stream=True, **common)),
    ]
    for turn in turns * 2:  # compilation, and calls of full length
        next(turn)
    rounds = [[FLAGS.updates / next(turn) for turn in turns] for _ in range(FLAGS.rounds)]
    here, there = zip(*rounds, strict=True)
    ratios = [stream / own for own, stream in rounds]
    return {
        "updates_per_second_on_device": round(statistics.median(here), 1),
        "updates_per_second_from_files": round(statistics.median(there), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(each, 3) for each in sorted(ratios)],
    }


def _seconds(log_points: Iterator[loop.LogPoint]) -> Iterator[float]:
    """How long each turn takes."""
    while True:
        start = time.perf_counter()
        jax.block_until_ready(next(log_points).state)
        yield time.perf_counter() - start


# --- Seconds and memory ---------------------------------------------------------------------------


def timed(told: dict[str, Any], name: str, function: Callable[[], Any]) -> Any:
    """The function's result; notes how long it took, on the clock and of the cores."""
    start, spent = time.perf_counter(), time.process_time()
    found = function()
    told[name] = round(time.perf_counter() - start, 1)
    told[f"{name}_of_cpu"] = round(time.process_time() - spent, 1)
    return found


def anonymous() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


@contextmanager
def anonymous_memory(told: dict[str, Any], before: str, largest: str) -> Iterator[None]:
    """Notes this process's anonymous memory before, and the largest meanwhile."""
    found, over = [anonymous()], threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            found.append(anonymous())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    told |= {before: round(found[0] / 1e9, 2), largest: round(max(found) / 1e9, 2)}


def files(folder: Path) -> list[Path]:
    """All files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def size(file: Path) -> int:
    """Bytes."""
    return file.stat().st_size


def forget(folder: Path) -> None:
    """Lets the system drop what it has of the files in its cache, so that disks are read."""
    for path in files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
