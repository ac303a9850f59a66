"""Checks of a config that `make` does before it builds anything; every message names the field.

In a sweep a field may hold an array instead of a number. The number was checked before the sweep
put it into the array, and an array cannot be read inside a compiled program: arrays pass.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import jax


def require_choices(config: Any) -> None:
    """Raises ValueError for the first field whose value is not one that its Literal type lists.

    Fields of type `Literal[...]` and `tuple[Literal[...], ...]` are checked, others are not.
    """
    types = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        kind, value = types[field.name], getattr(config, field.name)
        is_tuple = typing.get_origin(kind) is tuple
        kind = typing.get_args(kind)[0] if is_tuple else kind
        if typing.get_origin(kind) is typing.Literal:
            options = typing.get_args(kind)
            for each in value if is_tuple else (value,):
                if each not in options:
                    listed = ", ".join(map(str, options))
                    raise ValueError(f"{field.name} must be one of {listed}, not {each!r}")


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
            is_count = typing.get_type_hints(type(config)).get(field) is int
            least = "at least 1" if is_count else "above 0"
            raise ValueError(f"{field} must be {least}, not {value}")


def require_fraction(config: Any, *fields: str) -> None:
    """Raises ValueError for the first of `fields` that is not strictly between 0 and 1."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, jax.Array) and not 0 < value < 1:
            raise ValueError(f"{field} must lie between 0 and 1, it is {value}")
