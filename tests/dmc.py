"""Whether dm_control is here and draws, for tests that need it."""

from __future__ import annotations

import functools
import importlib.util

import pytest

from jaxrl_prefs.environments import task
from jaxrl_prefs.errors import DataError

installed = pytest.mark.skipif(
    importlib.util.find_spec("dm_control") is None,
    reason="the package dm_control is not installed (the extra dmc)",
)


@functools.cache
def _fault() -> str:
    try:
        task.named("jaxrl_prefs/DmControl-walker-walk-8px-v0").make().close()
    except DataError as fault:
        return str(fault)
    return ""


def require_drawing() -> None:
    """Skips a test where there is no renderer."""
    if fault := _fault():
        pytest.skip(fault)
