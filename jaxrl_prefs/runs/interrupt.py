"""Ctrl-C and SIGTERM: what is under way is saved first, and the process leaves within ten seconds.

`catching` surrounds work that can be stopped between two steps: there a signal only sets a flag.
Everywhere else it raises KeyboardInterrupt, as Ctrl-C does. `watch` is for programs: it ends the
process if neither has got it to leave in time, as while something is compiled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 7.0  # seconds after a signal until the process is ended wherever it is
INTERRUPTED = 130  # the exit code
LINE = "interrupted; the same command continues"
said = threading.Event()  # set once LINE is printed


class Flag:
    """Whether a signal came."""

    def __init__(self) -> None:
        self._raised = False
        self._deferring = False

    def __call__(self) -> bool:
        return self._raised

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts a signal sets the flag and nothing else."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        del number, frame
        self._raised = True
        if not self._deferring:
            raise KeyboardInterrupt


@contextlib.contextmanager
def catching() -> Iterator[Flag]:
    """Gives a flag that signals set, in the main thread; elsewhere one that stays down.

    A signal that is ignored, or that would end the process at once, is left as it is: whoever calls
    this as a library has not asked for another way of leaving.
    """
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    caught = [each for each, found in before.items() if callable(found)]
    for each in caught:
        signal.signal(each, flag.handle)
    try:
        yield flag
    finally:
        for each in caught:
            signal.signal(each, before[each])


def watch() -> None:
    """Makes SIGTERM act as Ctrl-C, and sees to it that the process has left soon after either."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = _unraisable
    seen, told = socket.socketpair()
    told.setblocking(False)
    # C code that runs for minutes, as a compiler does, keeps Python's handlers from running, but
    # not this.
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_as_usual)
    threading.Thread(target=_end, args=(seen, told), daemon=True).start()


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """Where Python cannot pass KeyboardInterrupt on, as in a finaliser, it would print a traceback.

    The flag, or else the thread that waits, still ends the process.
    """
    if not issubclass(args.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(args)


def _as_usual() -> None:
    """A child process dies of its signals, and tells this one nothing of them."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(seen: socket.socket, told: socket.socket) -> None:
    """Waits for a signal, gives the process its time to leave, and ends it."""
    assert told.fileno() >= 0  # and stays open for as long as this thread lives
    while not any(number in SIGNALS for number in seen.recv(64)):
        pass
    time.sleep(PATIENCE)
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    text = show_cursor + ("" if said.is_set() else f"{LINE}\n")
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
    os._exit(INTERRUPTED)
