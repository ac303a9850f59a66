"""Simulators are compared with Gymnasium's in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from tests.data.conftest import root

__all__ = ["root", "x64"]


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
