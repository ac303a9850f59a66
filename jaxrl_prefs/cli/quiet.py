"""What a command keeps off its terminal. A library may not do this to the process of others."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any


class _NotOrbax(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        told = record.getMessage() if record.name == "asyncio" else record.pathname
        return "orbax" not in told


def quieten_orbax() -> None:
    """Drops what Orbax logs and leaves behind; what matters is raised, or warned of by ours.

    It reads and writes all arrays at once and closes its event loop at the first failure. Those
    still under way then complain from their own threads, and their tasks when they are collected.
    """
    for name in ("absl", "asyncio", None):
        logger = logging.getLogger(name)
        if not any(isinstance(found, _NotOrbax) for found in logger.filters):
            logger.addFilter(_NotOrbax())
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


class _Hook:
    """Passes on what Python could not raise, but for results that come after a loop's end."""

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._before(unraisable)
