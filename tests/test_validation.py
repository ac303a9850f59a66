"""Checks of configs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jaxrl_prefs import validation as fields

CONFIG = SimpleNamespace(none=0, one=1, less=-1, tenth=0.1)


def test_an_unknown_choice_is_told_with_the_options():
    with pytest.raises(ValueError, match="field must be one of a, b, not 'c'"):
        fields.chosen("field", "c", (name for name in "ab"))


def test_counts_strengths_and_shares_have_bounds():
    fields.counts(CONFIG, "one")
    fields.strengths(CONFIG, "none", "one", "tenth")
    fields.shares(CONFIG, "tenth")
    fields.positive(CONFIG, "one", "tenth")
    for check, name, message in (
        (fields.counts, "none", "none must be at least 1, not 0"),
        (fields.strengths, "less", "less must not be negative, it is -1"),
        (fields.positive, "none", "none must be above 0, not 0"),
        (fields.positive, "less", "less must be above 0, not -1"),
        (fields.shares, "one", "one must lie between 0 and 1, it is 1"),
        (fields.shares, "none", "none must lie between 0 and 1, it is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check(CONFIG, "one" if check is fields.counts else "tenth", name)
