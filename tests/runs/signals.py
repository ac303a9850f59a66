"""Sends SIGTERM over and over: `python -m tests.runs.signals COMMAND FOLDER SIGNALS [flags]`.

COMMAND is run, compare or sweep. Every process is forked before JAX has started anything, and gets
its signal after a drawn time, from its first moment to the time that an undisturbed one took; the
next process goes on in the same workdir. Prints {"undisturbed": workdir, "signalled": workdir,
"left": [[seconds until the process had left, exit code], ...]}.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

# So that no process must import them.
import gymnasium  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import minari  # noqa: F401

import jaxrl_prefs.runs.prepare  # noqa: F401
from jaxrl_prefs.__main__ import COMMANDS
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.runs import estimate


def start(argv: list[str], log: Path) -> int:
    """Forks a process that runs a command line."""
    if process := os.fork():
        return process
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), number)
    main = importlib.import_module(COMMANDS[argv[0]][0]).main
    code = commandline.guarded(main, argv)
    sys.stdout.flush()
    os._exit(code)


def finish(process: int) -> int:
    """Waits for a process; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Runs once undisturbed; then signals until enough were sent, and lets the last one finish."""
    estimate.PATIENCE = 0.0
    command, folder, wanted, argv = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    folder.mkdir(parents=True, exist_ok=True)
    log, draw = folder / "log", random.Random(0)
    paths = [folder / "undisturbed", folder / "signalled"]
    whole, left = 0.0, []
    for path in (paths[0], folder / "warm"):  # the second finds everything compiled
        clock = time.monotonic()
        if code := finish(start([command, f"--workdir={path}", *argv], log)):
            sys.exit(f"the undisturbed process ended with {code}: {log.read_text()[-3000:]}")
        whole = time.monotonic() - clock
    argv = [command, f"--workdir={paths[1]}", *argv]
    while len(left) < wanted:
        process = start(argv, log)
        time.sleep(draw.uniform(0.3, 0.8 * whole))
        clock = time.monotonic()
        os.kill(process, signal.SIGTERM)
        code = finish(process)
        if code == 0 and not left:  # quicker than the undisturbed one: an earlier signal
            shutil.rmtree(paths[1])
            whole /= 2
            continue
        left.append([time.monotonic() - clock, code])
        if code == 0:
            break
    if code := finish(start(argv, log)):
        sys.exit(f"the last process ended with {code}: {log.read_text()[-3000:]}")
    print(json.dumps({"undisturbed": str(paths[0]), "signalled": str(paths[1]), "left": left}))


if __name__ == "__main__":
    main()
