"""Checks of configs."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from jaxrl_prefs import validation


@dataclasses.dataclass(frozen=True)
class Config:
    none: int = 0
    one: int = 1
    less: float = -0.5
    tenth: float = 0.1
    whole: float = 0  # a float that was written as an integer
    letter: Literal["a", "b"] = "a"
    letters: tuple[Literal["a", "b"], ...] = ("a", "b")


CONFIG = Config()


def test_an_unknown_choice_is_refused_with_the_options():
    validation.require_choices(CONFIG)
    for field, value in (("letter", "c"), ("letters", ("a", "c"))):
        with pytest.raises(ValueError, match=f"{field} must be one of a, b, not 'c'"):
            validation.require_choices(dataclasses.replace(CONFIG, **{field: value}))


def test_numbers_have_bounds():
    validation.require_positive(CONFIG, "one")
    validation.require_nonnegative(CONFIG, "none", "one", "tenth")
    validation.require_fraction(CONFIG, "tenth")
    validation.require_positive(CONFIG, "one", "tenth")
    for check, name, message in (
        (validation.require_positive, "none", "none must be at least 1, not 0"),
        (validation.require_nonnegative, "less", "less must not be negative, it is -0.5"),
        (validation.require_positive, "whole", "whole must be above 0, not 0"),
        (validation.require_positive, "less", "less must be above 0, not -0.5"),
        (validation.require_fraction, "one", "one must lie between 0 and 1, it is 1"),
        (validation.require_fraction, "none", "none must lie between 0 and 1, it is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check(CONFIG, "one" if check is validation.require_positive else "tenth", name)
