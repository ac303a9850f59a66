"""Names and bounds are kept with data and compared where they meet again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import layout, writers
from jaxrl_prefs.data.layout import Layout
from jaxrl_prefs.errors import DataError
from tests.data.test_written import episodes

HERE = Layout(2, 1, (-1.0,), (1.0,), ("x", "y"), ("valve",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_dim": 3}, "the run has 2 observations, logs 3"),
        ({"observation_names": ("y", "x")}, "another order of observations .* number 0 is 'y'"),
        ({"action_names": ("pump",)}, "logs has other actions .* 'pump', and 'valve' there"),
        ({"action_high": (100.0,)}, "other bounds of actions .* action 0 is 100, and 1 there"),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        layout.check(HERE, HERE._replace(**changes), ("the run", "logs"))


def test_what_is_not_known_is_not_compared() -> None:
    layout.check(HERE, HERE._replace(observation_names=(), action_names=()), ("a", "b"))
    layout.check(HERE, HERE._replace(action_high=(1.0000001,)), ("a", "b"))


def test_json_keeps_a_layout_and_refuses_what_is_none() -> None:
    assert layout.from_json(layout.to_json(HERE), "here") == HERE
    for damage in (
        *({"observation_dim": 0}, {"action_low": ["a"]}, {"action_high": [float("nan")]}),
        *({"observation_names": ["x"]}, {"action_names": [3]}, {"observation_dim": True}),
    ):
        with pytest.raises(DataError, match="here is damaged"):
            layout.from_json(layout.to_json(HERE) | damage, "here")
    with pytest.raises(DataError, match="here is damaged"):
        layout.from_json(None, "here")


def test_minari_keeps_names_and_that_there_are_no_rewards(root: Path) -> None:
    named = episodes()._replace(observation_names=("x", "y"), action_names=("valve",))
    writers.minari(named, "mine/named-v0")
    assert data.load("mine/named-v0").observation_names == ("x", "y")
    writers.minari(named._replace(has_rewards=False), "mine/less-v0")
    found = data.load("mine/less-v0")
    assert not found.has_rewards and "there are no rewards" in found.notes[0]
    assert np.array_equal(found.action, named.action)
    with pytest.raises(DataError, match="has no rewards, and this format must have some"):
        writers.d4rl(found, root / "a.hdf5")
