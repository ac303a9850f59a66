"""What --help reads from the source of a config, and from a dataset's name."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from jaxrl_prefs.cli import fields
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs.config import Choice, RunConfig


@dataclasses.dataclass(frozen=True)
class Base:
    """A docstring # with a mark."""

    # a heading
    eta: float = 0.5  # strength, in units of # the reward
    # how many,
    # at least one
    steps: int = 10
    bare: bool = False

    name: str = "a # b"
    hidden: tuple[int, ...] = (
        64,  # of the first
        32,
    )


@dataclasses.dataclass(frozen=True)
class Config(Base):
    sampler: Literal["ddpm", "ddim"] = "ddpm"  # how actions are drawn

    def method(self) -> int:
        local: int = 3  # not a field
        return local


def test_a_comment_on_the_line_or_the_lines_above() -> None:
    assert fields.meanings(Config) == {
        "eta": "strength, in units of # the reward",
        "steps": "how many, at least one",
        "hidden": "of the first",
        "sampler": "how actions are drawn",
    }


def test_a_class_made_at_run_time_has_no_comments() -> None:
    made = dataclasses.make_dataclass("Made", [("eta", float, 0.5)], frozen=True)
    assert fields.meanings(made) == {}
    assert list(fields.described(made())) == ["  eta=0.5 (float)"]


def test_every_line_has_value_type_and_default() -> None:
    lines = list(fields.described(Config(eta=2.0, hidden=(8,))))
    assert lines == [
        "  eta=2.0 (float, default 0.5): strength, in units of # the reward",
        "  steps=10 (int): how many, at least one",
        "  bare=false (true|false)",
        "  name=a # b (text)",
        "  hidden=8 (int,int,..., default 64,32): of the first",
        "  sampler=ddpm (ddpm|ddim): how actions are drawn",
    ]


@pytest.mark.parametrize(
    ("dataset", "env", "expected"),
    [
        ("pendulum-mixed", "", ("pendulum/mixed-v0", "pendulum")),
        ("downloads/hopper_medium-v2.hdf5", "", ("downloads/hopper_medium-v2.hdf5", "locomotion")),
        ("lift/ph/low_dim_v15.hdf5", "", ("lift/ph/low_dim_v15.hdf5", "robomimic")),
        ("mine/set-v0", "Hopper-v5", ("mine/set-v0", "locomotion")),
        ("mine/set-v0", "none", ("mine/set-v0", "other")),
        *(
            (name, "", (name, "ogbench"))
            for name in ("antmaze-large-navigate-singletask-v0", "there/scene-play-v0.npz")
        ),
    ],
)
def test_the_family_is_known_without_the_data(
    dataset: str, env: str, expected: tuple[str, str]
) -> None:
    assert fields.about(dataset, env)[:2] == expected


@pytest.mark.parametrize("algo", METHODS)
def test_every_method_is_described(algo: str) -> None:
    text = fields.usage([Choice(algo, "hopper/medium-v0", "", (0,), ("eval_episodes=7",))])
    names = [line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  ")]
    own = [field.name for field in dataclasses.fields(METHODS[algo].Config)]
    run = [field.name for field in dataclasses.fields(RunConfig)][4:]
    assert names == run + own
    meaning = "episodes for each seed, policy and evaluation"
    assert f"  eval_episodes=7 (int, default 10): {meaning}" in text
