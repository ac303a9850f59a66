"""The checks by name, and what several of them use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex

from jaxrl_prefs.testing.subject import Subject

CHECKS: dict[str, Callable[[Subject], None]] = {}


def check(remedy: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Enters a check into CHECKS; its AssertionErrors name the method, the check and the remedy."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        @functools.wraps(function)
        def checked(subject: Subject) -> None:
            try:
                function(subject)
            except AssertionError as error:
                what = f"{subject.name} fails the check {function.__name__}"
                raise AssertionError(f"{what}: {error}\nRemedy: {remedy}") from error

        CHECKS[function.__name__] = checked
        return checked

    return register


def close(mine: Any, theirs: Any) -> None:
    """Equal but for the order of additions, after a dozen Adam steps."""
    chex.assert_trees_all_close(mine, theirs, rtol=1e-3, atol=1e-5)
