"""Checks of configs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxrl_prefs import validation

CONFIG = SimpleNamespace(none=0, one=1, less=-0.5, tenth=0.1)


def test_an_unknown_choice_is_told_with_the_options():
    with pytest.raises(ValueError, match="field must be one of a, b, not 'c'"):
        validation.require_choice("field", "c", (name for name in "ab"))


def test_numbers_have_bounds():
    validation.require_positive(CONFIG, "one")
    validation.require_nonnegative(CONFIG, "none", "one", "tenth")
    validation.require_fraction(CONFIG, "tenth")
    validation.require_positive(CONFIG, "one", "tenth")
    for check, name, message in (
        (validation.require_positive, "none", "none must be at least 1, not 0"),
        (validation.require_nonnegative, "less", "less must not be negative, it is -0.5"),
        (validation.require_positive, "less", "less must be above 0, not -0.5"),
        (validation.require_fraction, "one", "one must lie between 0 and 1, it is 1"),
        (validation.require_fraction, "none", "none must lie between 0 and 1, it is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check(CONFIG, "one" if check is validation.require_positive else "tenth", name)
