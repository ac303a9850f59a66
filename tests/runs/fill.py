"""Fills the disk under a run: `python -m tests.runs.fill rows|checkpoint [flags of a run]`.

No file may grow beyond 500 bytes from the run's first evaluation on (`rows`), or while a checkpoint
is written (`checkpoint`). A process of its own: what Orbax's threads leave behind dies with it.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"  # its files are not the victims

from jaxrl_prefs.cli import commandline, run
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.recorder import Recorder, Step


def fill(*_: object) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))


def main(argv: list[str]) -> int:
    _, victim, *flags = argv
    if victim == "rows":
        record = Recorder.record

        def filled(self: Recorder, step: Step) -> None:
            if self.due(step):
                fill()
            record(self, step)

        Recorder.record = filled
    else:
        save = Checkpoints.save

        def fail(self: Checkpoints, step: int, tree: Any, progress: Any = None) -> None:
            fill()
            save(self, step, tree, progress)
            self.wait()

        Checkpoints.save = fail
    return commandline.guarded(run.main, ["run", *flags])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
