"""What `make` checks of a config before it builds anything; every message names the field.

A field that holds an array is the setting of a member (settings.py): it was checked as a number
before, and cannot be looked at inside a compiled program.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax


def require_choice(field: str, value: str, options: Iterable[str]) -> str:
    """Returns `value` if it is one of `options`, else raises ValueError naming them.

    >>> require_choice("policy", "gaussian", ("gaussian", "deterministic"))
    'gaussian'
    """
    options = tuple(options)
    if value not in options:
        raise ValueError(f"{field} must be one of {', '.join(options)}, not {value!r}")
    return value


def require_nonnegative(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is negative."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, jax.Array) and value < 0:
            raise ValueError(f"{field} must not be negative, it is {value}")


def require_positive(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is not above 0."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, jax.Array) and not value > 0:
            least = "at least 1" if isinstance(value, int) else "above 0"
            raise ValueError(f"{field} must be {least}, not {value}")


def require_fraction(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is not strictly between 0 and 1."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, jax.Array) and not 0 < value < 1:
            raise ValueError(f"{field} must lie between 0 and 1, it is {value}")
