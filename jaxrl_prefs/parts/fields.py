"""What `make` checks of a config before it builds anything; every message names the field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def chosen(field: str, value: str, options: Iterable[str]) -> str:
    """Returns `value` if it is one of `options`, else raises ValueError naming them.

    >>> chosen("policy", "gaussian", ("gaussian", "deterministic"))
    'gaussian'
    """
    options = tuple(options)
    if value not in options:
        raise ValueError(f"{field} must be one of {', '.join(options)}, not {value!r}")
    return value


def counts(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is below 1."""
    for field in fields:
        if getattr(config, field) < 1:
            raise ValueError(f"{field} must be at least 1, not {getattr(config, field)}")


def strengths(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is negative."""
    for field in fields:
        if getattr(config, field) < 0:
            raise ValueError(f"{field} must not be negative, it is {getattr(config, field)}")


def shares(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is not strictly between 0 and 1."""
    for field in fields:
        if not 0 < getattr(config, field) < 1:
            raise ValueError(f"{field} must lie between 0 and 1, it is {getattr(config, field)}")
