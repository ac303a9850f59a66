"""Trains one seed for a study, and resumes where the same training was stopped.

Checkpoints lie in the study's folder, below the name of what is trained: the method's settings, the
data and the seed. So a study with other settings starts again in the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl_prefs.method import Method
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import interrupt
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.load import abstract_state
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec, Transition

CHECKPOINTS = "checkpoints"
SAVE_SECONDS = 30.0  # between two checkpoints


class Trained(NamedTuple):
    """What training came to."""

    state: Any  # of the one seed
    metrics: dict[str, float]  # of the last log point
    seconds: float  # of all processes that took part


def _nobody(log_point: loop.LogPoint) -> None:
    """Watches nothing."""
    del log_point


def train(
    method: Method,
    config: Any,
    data: Transition,
    spec: Spec,
    seed: int,
    folder: Path | None,
    *,
    every: int,
    watch: Callable[[loop.LogPoint], None] = _nobody,
) -> Trained:
    """Trains `seed` on the first device.

    Args:
        method: without columns.
        config: the method's settings, which name the training together with data and seed.
        data: leaves [N, ...].
        spec: of the data.
        seed: of training.
        folder: of the study; None keeps nothing.
        every: updates between log points.
        watch: called at each.

    Raises:
        NonFiniteError: if training breaks.
        OSError: if a checkpoint cannot be written.
        KeyboardInterrupt: if a signal came; what was trained is saved.
    """
    mesh, total = seed_axis.seed_mesh(jax.devices()[:1]), sum(p.steps for p in method.phases)
    with (
        _place(folder, _name(config, data, seed, every)) as place,
        Checkpoints(place, keep=1) as checkpoints,
        interrupt.catching() as flag,
    ):
        found, progress = checkpoints.restore(abstract_state(method, spec, 1)), dict[str, Any]()
        state, start = found or (None, 0)
        if found:
            progress = checkpoints.progress(start)
        log_points = loop.run(
            method,
            data,
            [seed],
            mesh,
            every=every,
            state=state,
            start=start,
            totals={k: np.array(v, np.float32) for k, v in progress.get("totals", {}).items()},
            should_stop=lambda _: flag(),
        )
        spent, clock = progress.get("seconds", 0.0), time.monotonic()
        saved = clock
        while start < total:
            with flag.deferred():
                log_point = next(log_points)
                start, leaves = log_point.step, flag() or not log_point.complete
                if leaves or start == total or time.monotonic() - saved > SAVE_SECONDS:
                    saved = time.monotonic()
                    state = seed_axis.trim(log_point.state, 1)
                    progress = _progress(log_point, spent + saved - clock)
                    checkpoints.save(start, state, progress)
                    checkpoints.wait()
            if leaves:
                raise KeyboardInterrupt
            watch(log_point)
        return Trained(seed_axis.one(state, 0), progress["metrics"], progress["seconds"])


@contextlib.contextmanager
def _place(folder: Path | None, name: str) -> Iterator[Path]:
    if folder is not None:
        yield folder / CHECKPOINTS / name
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _name(config: Any, data: Transition, seed: int, every: int) -> str:
    digest = hashlib.sha256(f"{config!r} {seed} {every}".encode())
    for leaf in jax.tree.leaves(data):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


def _progress(log_point: loop.LogPoint, seconds: float) -> dict[str, Any]:
    totals = {} if log_point.complete else log_point.totals
    return {
        "totals": {name: np.asarray(x).tolist() for name, x in totals.items()},
        "metrics": {name: float(x[0]) for name, x in log_point.metrics.items()},
        "seconds": seconds,
    }
