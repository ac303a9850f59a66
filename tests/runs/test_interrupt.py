"""Signals: a run that is told to stop saves where it stands, and goes on to the same end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_prefs.cli import commandline, run
from jaxrl_prefs.runs import interrupt
from jaxrl_prefs.runs.load import load_run
from jaxrl_prefs.runs.recorder import Recorder
from jaxrl_prefs.training import loop
from tests.small_runs import SHORT


@pytest.fixture
def term() -> Iterator[None]:
    """SIGTERM as programs have it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


def flags(path: Path, pendulum_file: Path, **more: object) -> list[str]:
    fields = SHORT | {"train_steps": "12", "log_every": "5", "checkpoint_every": "10"}
    fields |= {"eval_every": "6"} | {name: str(value) for name, value in more.items()}
    return [
        "run",
        *("--algo=td3_bc", f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2"),
        f"--workdir={path}",
        *(f"--set={name}={value}" for name, value in fields.items()),
    ]


def assert_same(one: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = load_run(one), load_run(other)
    assert first.step == second.step
    jax.tree.map(np.testing.assert_array_equal, first.state, second.state)


@pytest.mark.usefixtures("term")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_updates_loses_none(
    tmp_path: Path, pendulum_file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Signals after updates 1, 3, 4, ...: inside of intervals of 5, at log points, at the end."""
    assert run.main(flags(tmp_path / "whole", pendulum_file)) == 0
    monkeypatch.setattr(loop, "FIRST_CALL_STEPS", 1)
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)
    passed, left = Recorder.passed, [1, 3, 4, 5, 7, 10, 12]

    def signalled(self: Recorder, step: int) -> None:
        passed(self, step)
        if left and step >= left[0]:
            left.pop(0)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Recorder, "passed", signalled)
    argv = flags(tmp_path / "signalled", pendulum_file)
    for step in list(left):
        assert run.main(argv) == commandline.INTERRUPTED
        assert load_run(tmp_path / "signalled").step == step
    assert run.main(argv) == 0
    assert_same(tmp_path / "signalled", tmp_path / "whole")


def test_a_signal_during_an_evaluation_costs_the_evaluation_only(
    tmp_path: Path, pendulum_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.main(flags(tmp_path / "whole", pendulum_file)) == 0
    score, left = Recorder._score, [10, 12]

    def signalled(self: Recorder, name: str, state: Any, step: int) -> Any:
        if left and step == left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, name, state, step)

    monkeypatch.setattr(Recorder, "_score", signalled)
    argv = flags(tmp_path / "signalled", pendulum_file)
    for step in list(left):
        assert run.main(argv) == commandline.INTERRUPTED
        assert load_run(tmp_path / "signalled").step == step
    assert run.main(argv) == 0
    assert_same(tmp_path / "signalled", tmp_path / "whole")


def test_a_flag_is_raised_where_it_is_looked_at_and_else_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupt.catching() as flag:
        with flag.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            assert flag()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_signals_alone() -> None:
    found = []

    def look() -> None:
        with interrupt.catching() as flag:
            found.append((signal.getsignal(signal.SIGINT), flag()))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(before, False)]


BUSY = """
import hashlib, os, signal, sys, time
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.runs import interrupt
interrupt.PATIENCE = 0.5
def busy(argv):
    if argv == ["forks"]:
        child = os.fork()
        if not child:
            signal.pause()
        print(child, flush=True)
        return 0 if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15 else 1
    if argv == ["finaliser"]:
        class Interrupted:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
        Interrupted()
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, as a compiler
code = commandline.guarded(busy, sys.argv[1:])
time.sleep(3 * interrupt.PATIENCE)
commandline.leave(code)
"""


def test_a_process_that_cannot_listen_is_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        clock = time.monotonic()
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == commandline.INTERRUPTED
    assert time.monotonic() - clock < 10
    assert errors == interrupt.LINE + "\n"


def test_a_signal_in_a_finaliser_leaves_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY, "finaliser"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (commandline.INTERRUPTED, interrupt.LINE + "\n")


def test_a_child_that_is_terminated_does_not_end_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, "forks"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
