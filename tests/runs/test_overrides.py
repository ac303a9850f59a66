from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import overrides


@dataclasses.dataclass(frozen=True)
class Fields:
    steps: int = 10
    eta: float = 0.5
    clip: bool = True
    name: str = "vp"
    hidden: tuple[int, ...] = (256, 256)
    mapping: Literal["auto", "loop"] = "auto"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must not be negative")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("steps=3", {"steps": 3}),
        ("steps=2_000", {"steps": 2000}),
        ("steps=1e5", {"steps": 100_000}),
        ("eta=1", {"eta": 1.0}),
        ("eta = -2.5e-3", {"eta": -0.0025}),
        ("clip=false", {"clip": False}),
        ("clip=0", {"clip": False}),
        ("clip=Yes", {"clip": True}),
        ("name=a=b", {"name": "a=b"}),
        ("name=", {"name": ""}),
        ("hidden=8", {"hidden": (8,)}),
        ("hidden=64,32", {"hidden": (64, 32)}),
        ("hidden=(64, 32,)", {"hidden": (64, 32)}),
        ("mapping=loop", {"mapping": "loop"}),
    ],
)
def test_a_value_is_read_by_its_fields_type(assignment: str, expected: dict) -> None:
    changed = overrides.apply(Fields(), [assignment])
    assert changed == dataclasses.replace(Fields(), **expected)
    for name, value in expected.items():
        assert type(getattr(changed, name)) is type(value)


def test_the_last_assignment_of_a_field_wins() -> None:
    assert overrides.apply(Fields(), ["steps=1", "eta=2", "steps=3"]) == Fields(steps=3, eta=2.0)


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("steps=1.5", ["'steps'", "an int", "'1.5'"]),
        ("steps=1e400", ["'steps'", "an int", "'1e400'"]),
        ("steps=", ["'steps'", "an int", "''"]),
        ("eta=much", ["'eta'", "a float", "'much'"]),
        ("eta=nan", ["'eta'", "a float", "'nan'"]),
        ("clip=maybe", ["'clip'", "true or false", "'maybe'"]),
        ("hidden=8,x", ["'hidden'", "an int values separated by commas", "'8,x'"]),
        ("mapping=vmap", ["'mapping'", "one of auto, loop", "'vmap'"]),
        ("stepz=1", ["'stepz'", "Did you mean 'steps'?", "clip, eta, hidden, mapping, name"]),
        ("steps", ["field=value", "'steps'"]),
        ("=3", ["field=value"]),
        ("steps=-1", ["steps must not be negative"]),
    ],
)
def test_a_wrong_assignment_is_explained(assignment: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as failure:
        overrides.apply(Fields(), [assignment])
    for part in parts:
        assert part in str(failure.value)
