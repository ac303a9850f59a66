"""Checks a method against the contract (method.py): what a run, or anybody else's loop, relies on.

    from jaxrl_prefs import testing
    import my_method

    def test_my_method():
        config = my_method.Config(train_steps=4, batch_size=8, actor_hidden=(8,))
        testing.check_method(my_method, config)

The method is trained for a few steps on random data, with three seeds, in several ways that must
agree: at once and with a break, with each seed alone, as members of a sweep. Its policies must act
from exported files as they do here, and fitted Q evaluation must take them. Where the host has
several devices the seeds are spread over up to four of them. Our own methods pass the same checks
(tests/test_contract.py).
"""

from __future__ import annotations

import dataclasses
import unittest
import warnings
from collections.abc import Sequence
from typing import Any

from jaxrl_prefs.encoded import EncoderConfig
from jaxrl_prefs.testing import phases, programs, trained_policies  # noqa: F401  enter their checks
from jaxrl_prefs.testing.checks import CHECKS
from jaxrl_prefs.testing.random_data import episodes, fitted_data, transitions
from jaxrl_prefs.testing.subject import DEVICES, FEWEST, SEEDS, Changes, Subject
from jaxrl_prefs.types import Spec

__all__ = [
    "CHECKS",
    "DEVICES",
    "SEEDS",
    "Subject",
    "check_method",
    "episodes",
    "fitted_data",
    "transitions",
]


def check_method(
    module: Any,
    config: Any = None,
    spec: Spec | None = None,
    *,
    encoder: EncoderConfig | None = None,
    changes: Changes | None = None,
    enters: Changes | None = None,
    only: Sequence[str] = (),
) -> None:
    """Runs every check of CHECKS on a method, which takes a minute or so.

    >>> from jaxrl_prefs.methods import bc
    >>> config = bc.Config(train_steps=3, batch_size=8, actor_hidden=(8,))
    >>> check_method(bc, config, only=["phases_have_names_of_their_own"])

    Args:
        module: has `Config`, `State` and `make`, like a file of jaxrl_prefs/methods/.
        config: a small config: 3 updates in the first and the last phase at least, 200 in all at
            most. None takes `module.Config()` with 4 steps a phase, batches of 8 and hidden layers
            of 8 units, by the names of the fields: `*steps`, `*batch_size`, `*hidden`.
        spec: sizes and action bounds of the random data to try it on; its size and moments are not
            used. None takes 3 observations and 2 actions in [-1, 1].
        encoder: how images are encoded, where `spec` has any; None takes the default. A method with
            `Encoder.shared_with` should pass with both values of `sharing`.
        changes: {phase: fields of the state that its updates change}; a field that changes and is
            not listed, or the other way round, fails. None does not look at fields.
        enters: {phase: fields that entering it may change}, used together with `changes`.
        only: names of the checks to run; empty runs all. ONNX files need the extra `onnx`: without
            it their check is left out, with a warning.

    Raises:
        AssertionError: for every check that fails a line that names it, with a remedy.
        ValueError: if the config is not small, and for a name in `only` that is no check.
    """
    if unknown := set(only) - set(CHECKS):
        raise ValueError(f"no check {sorted(unknown)}; the checks are {', '.join(CHECKS)}")
    config = _small(module) if config is None else config
    subject = Subject(module, config, spec, encoder=encoder, changes=changes, enters=enters)
    failures = []
    for name in only or CHECKS:
        try:
            CHECKS[name](subject)
        except unittest.SkipTest as reason:
            warnings.warn(f"{subject.name} is not checked for {name}: {reason}", stacklevel=2)
        except AssertionError as error:
            failures.append(str(error))
    if failures:
        raise AssertionError("\n\n".join(failures))


def _small(module: Any) -> Any:
    """The module's config with few steps, small batches and narrow layers."""
    config, small = module.Config(), dict[str, Any]()
    for name, value in vars(config).items():
        if name.endswith("steps") and isinstance(value, int) and value > FEWEST:
            small[name] = FEWEST + 1
        elif name.endswith("batch_size") and isinstance(value, int):
            small[name] = 8
        elif name.endswith("hidden") and isinstance(value, tuple):
            small[name] = (8,) * min(len(value), 2)
    return dataclasses.replace(config, **small)
