"""Kills a run over and over: `python -m tests.runs.crash FOLDER KILLS [flags of a run]`.

Every run is a process of its own, forked before JAX has started anything. It counts its file
operations from a drawn update on, and sends itself SIGKILL in front of a drawn one of them; the
next process goes on in the same workdir. Prints {"finished": [workdir, ...], "kills": [[phase,
operation, path], ...]}; the first workdir is that of a run that nobody disturbed.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# So that no process must import them.
import gymnasium  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import minari  # noqa: F401

import jaxrl_prefs.runs.prepare  # noqa: F401
from jaxrl_prefs.cli import run
from jaxrl_prefs.runs import estimate, recorder

ON_PATHS = ("rename", "replace", "mkdir", "rmdir", "unlink", "remove", "truncate", "open")


class Moment(NamedTuple):
    """Where a process dies: before operation `operation` of those since update `step` was done."""

    step: int
    operation: int


NEVER = Moment(0, sys.maxsize)
STARTING = 8  # operations of a process before its first update


class Bomb:
    """Counts the operations on files of a workdir, and kills the process at its moment."""

    def __init__(self, moment: Moment, workdir: Path, log: Path) -> None:
        self.moment, self.workdir = moment, str(workdir)
        self.phase, self.step, self.log_points, self.operations = "start", 0, 0, 0
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._turn = threading.Lock()  # Orbax saves in threads; one of them lights the fuse

    def arm(self) -> None:
        """Stands in front of every operation on files, and of every log point's record."""
        for name in ON_PATHS:
            setattr(os, name, self._watched(getattr(os, name), name))
        os.fsync = self._watched(os.fsync, "fsync")
        builtins.open = io.open = self._watched(builtins.open, "open")
        record = recorder.Recorder.record

        def counted(self_: recorder.Recorder, step: recorder.Step) -> None:
            self.log_points, self.step, self.phase = (
                self.log_points + 1,
                step.log_point.step,
                step.log_point.phase,
            )
            record(self_, step)

        recorder.Recorder.record = counted

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._counts(name, *args, **kwargs) and self.step >= self.moment.step:
                with self._turn:
                    if self.operations == self.moment.operation:
                        place = [self.phase, name, str(args[0]).replace(self.workdir, "")]
                        os.write(self._log, (json.dumps(place) + "\n").encode())
                        os.kill(os.getpid(), signal.SIGKILL)
                    self.operations += 1
            return function(*args, **kwargs)

        return call

    def _counts(self, name: str, path: Any, mode: Any = "r", *_: Any, **more: Any) -> bool:
        if name == "fsync":
            return True
        if name == "open":
            mode = more.get("mode", mode)
            reads = mode in ("r", "rb", "rt") if isinstance(mode, str) else not mode & 3
            if reads:
                return False
        return self.workdir in str(path)


def run_in_child(argv: list[str], workdir: Path, log: Path, moment: Moment) -> int:
    """Runs one process to its end or its death; returns its wait status."""
    if process := os.fork():
        return os.waitpid(process, 0)[1]
    bomb = Bomb(moment, workdir, log)
    bomb.arm()
    code = run.main(["run", f"--workdir={workdir}", *argv])
    if moment is NEVER:
        log.with_suffix(".count").write_text(f"{bomb.operations} {bomb.log_points} {bomb.step}")
    os._exit(code)


def drawn_steps(wanted: int, last: int, draw: random.Random) -> list[int]:
    """Updates to die after, rising but for every fifth: 0, the start of a run or continuation.

    One is drawn from each of as many equal stretches of the run, so that all phases have theirs.
    """
    steps, stretches = [0] * wanted, wanted - len(range(0, wanted, 5))
    places = [place for place in range(wanted) if place % 5]
    for stretch, place in enumerate(places):
        steps[place] = 1 + int((stretch + draw.random()) * last / stretches)
    return steps


def main() -> None:
    """Runs once undisturbed; then kills until enough were killed, and lets the last one finish."""
    estimate.PATIENCE = 0.0
    folder, wanted, argv = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    log, draw = folder / "kills.jsonl", random.Random(0)
    finished, kills, steps, each, status = [], 0, [0], 1, -1
    while kills < wanted or status:
        workdir = folder / ("killed" if finished else "undisturbed") / str(len(finished))
        moment = NEVER
        if finished and kills < wanted:
            moment = Moment(steps[kills], draw.randrange(each if steps[kills] else STARTING))
        status = run_in_child(argv, workdir, log, moment)
        if status == signal.SIGKILL:
            kills += 1
        elif status:
            sys.exit(f"a process ended with status {status}")
        else:
            finished.append(str(workdir))
        if len(finished) == 1 and not kills:
            operations, log_points, last = map(int, log.with_suffix(".count").read_text().split())
            each = operations // log_points
            steps = drawn_steps(wanted, last, draw)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    print(json.dumps({"finished": finished, "kills": found}))


if __name__ == "__main__":
    main()
