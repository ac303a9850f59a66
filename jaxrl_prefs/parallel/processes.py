"""Several processes as one run: the leader, and how its results reach the others.

Every process runs the same program on its own devices. The leader, process 0, owns the workdir, and
what it reads there reaches the others by `run_on_leader`. Only the checkpoints are read and written
by all, since Orbax wants it so: the workdir lies on a file system that all see.
"""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

Value = TypeVar("Value")
AUTO = "auto"
PATIENCE = 60  # seconds without a sign of life after which a process counts as lost
LONG = 24 * 3600 * 1000  # milliseconds; a lost process is found by PATIENCE
LOST = "another process was lost; the same command resumes"
_MEETINGS = itertools.count()

# JAX ends a process whose run has lost another by an abort, with a stack of C++ functions; what it
# could call instead cannot be a function of Python's. So what is written to standard error passes
# through this program, which says in one line what has happened. It ends with its input.
_FILTER = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
lost = sys.argv[1]
told = stack = False
for line in iter(sys.stdin.buffer.readline, b""):
    if lost.encode() in line:
        told = True
    stack = stack or b"coordination_service" in line or b"distributed service detected" in line
    if stack and not told:
        told, line = True, lost.encode() + b"\\n"
    elif stack:
        continue
    sys.stderr.buffer.write(line)
    sys.stderr.flush()
"""


def join(coordinator: str, process_id: int | None = None, num_processes: int | None = None) -> None:
    """Makes this process part of a run of several. Call it before anything touches a device.

    Args:
        coordinator: address and port of process 0; "auto" asks the cluster's own environment
            (Slurm, Kubernetes, a TPU pod), which knows the numbers too.
        process_id: this process's number, from 0.
        num_processes: how many there are.

    Raises:
        RuntimeError, ValueError: if there is no such cluster, or the others do not come.
    """
    _filter_errors()
    # A scheduler's SIGTERM is ours: the run stops and resumes.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=PATIENCE,
            shutdown_timeout_seconds=PATIENCE // 2,  # so long a failed process waits for the others
        )
    except ValueError as error:
        if coordinator != AUTO:
            raise
        raise ValueError(
            f"no Slurm, Kubernetes or TPU pod started this process ({error}); give the address and "
            "port of process 0, this process's number and how many there are"
        ) from error


def _filter_errors() -> None:
    read, write = os.pipe()
    command = [sys.executable, "-c", _FILTER, LOST]
    subprocess.Popen(command, stdin=read, stdout=subprocess.DEVNULL, close_fds=True)
    sys.stderr.flush()
    os.dup2(write, 2)
    os.close(read)
    os.close(write)


def is_leader() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def barrier() -> None:
    """Waits until every process has come here, as often as this one.

    Before any two processes' devices exchange something: gloo, which connects those of CPUs, gives
    up after half a minute, and one process may be at an evaluation while the other waits.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost  # JAX itself has no public wait that spares the devices

    wait = multihost.get_barrier_sync_fn()
    wait(key=f"jaxrl_prefs/{next(_MEETINGS)}", timeout_ms=LONG)


def run_on_leader(function: Callable[[], Value]) -> Value:
    """Calls `function` only in the leader; every process gets its result, or its exception.

    All processes must come here in the same order. What is returned must be picklable.
    """
    if jax.process_count() == 1:
        return function()
    outcome: tuple[bool, Any] = (False, None)
    if is_leader():
        try:
            outcome = (True, function())
        except Exception as error:  # whatever it is, the others must not wait for ever
            outcome = (False, error)
    passed, value = pickle.loads(_told(_pickled(outcome)))
    if not passed:
        raise value
    result: Value = value
    return result


def gathered(value: Value) -> list[Value]:
    """The value of every process, in the order of their numbers; it must be picklable.

    All processes must come here in the same order.
    """
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    own = np.frombuffer(pickle.dumps(value), np.uint8)
    (size,) = largest(len(own))
    padded = np.zeros(int(size), np.uint8)
    padded[: len(own)] = own
    barrier()
    found = np.asarray(multihost_utils.process_allgather(padded))
    return [pickle.loads(row.tobytes()) for row in found.reshape(-1, int(size))]


def largest(*values: float) -> tuple[float, ...]:
    """The largest of each value over all processes, which must come here in the same order."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    barrier()
    gathered = np.asarray(multihost_utils.process_allgather(np.array(values, np.float32)))
    return tuple(gathered.reshape(-1, len(values)).max(0).tolist())


def _pickled(outcome: tuple[bool, Any]) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # the others wait for an answer, whatever it is
        return pickle.dumps((False, RuntimeError(f"the leader's {outcome[1]!r}: {error}")))


def _told(message: bytes) -> bytes:
    """The leader's bytes, in every process."""
    from jax.experimental import multihost_utils

    barrier()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    own = np.frombuffer(message, np.uint8) if is_leader() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own), np.uint8).tobytes()
