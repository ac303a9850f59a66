"""What every Config promises to whoever lists its fields: one line of meaning for each.

The meaning of a field is the comment behind it on its line; where there is none, the comment lines
directly above it. A line `# --- name` opens a section and belongs to no field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from types import ModuleType

import pytest

from jaxrl_prefs import validation
from jaxrl_prefs.behavior import morse
from jaxrl_prefs.methods import METHODS, bdpo
from jaxrl_prefs.ops import schedules


def meanings(config: type) -> dict[str, str]:
    """{field: its comment}, "" where it has none."""
    source = inspect.getsource(config)
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = comment(lines[(node.end_lineno or 1) - 1][node.end_col_offset or 0 :])
            above = node.lineno - 2
            while not ends_here(text, lines[above]):
                above -= 1
            found[node.target.id] = text or " ".join(
                map(comment, lines[above + 1 : node.lineno - 1])
            )
    return found


def ends_here(text: str, line: str) -> bool:
    """Whether no more comment lines belong to a field with this comment behind it."""
    return bool(text) or not comment(line) or comment(line).startswith("---")


def comment(line: str) -> str:
    """The text of a line, or of the end of one, that is nothing but a comment."""
    line = line.strip()
    return line.removeprefix("#").strip() if line.startswith("#") else ""


@pytest.mark.parametrize("name", METHODS)
def test_every_field_says_what_it_means(name: str) -> None:
    config = METHODS[name].Config
    found = meanings(config)
    assert list(found) == [field.name for field in dataclasses.fields(config)]
    assert not [field for field, text in found.items() if len(text) < 8]


def test_sections_belong_to_no_field() -> None:
    found = meanings(bdpo.Config)
    assert found["eta"] == "strength of the path KL, in units of the transformed reward per nat"
    assert found["policy"].startswith("class of actor and behaviour")
    assert not [field for field, text in found.items() if "---" in text]


@pytest.mark.parametrize("name", METHODS)
def test_text_is_a_choice_of_a_list(name: str) -> None:
    """Free text is left to the kernel scale, which is a number or a multiple of k."""
    method: ModuleType = METHODS[name]
    kinds = typing.get_type_hints(method.Config)
    assert {field for field, kind in kinds.items() if kind is str} <= {"kernel_scale"}
    for field, kind in kinds.items():
        if typing.get_origin(kind) is typing.Literal:
            config = dataclasses.replace(method.Config(), **{field: "misspelt"})
            listed = ", ".join(typing.get_args(kind))
            with pytest.raises(ValueError, match=f"^{field} must be one of {listed}, not 'misspe"):
                validation.require_choices(config)


def test_choices_of_a_tuple_are_checked_one_by_one() -> None:
    config = METHODS["arq"].Config(policies=("explicit", "other"))
    with pytest.raises(ValueError, match=r"policies must be one of explicit, .* not 'other'"):
        validation.require_choices(config)


def test_choices_are_those_that_exist() -> None:
    def options(config: type, field: str) -> list[str]:
        return list(typing.get_args(typing.get_type_hints(config)[field]))

    assert options(METHODS["td3_bst"].Config, "kernel") == list(morse.KERNELS)
    assert options(METHODS["iql_bst"].Config, "kernel") == list(morse.KERNELS)
    assert options(bdpo.Config, "schedule") == list(schedules.SCHEDULES)
    assert options(bdpo.Config, "sampler") == list(bdpo.REVERSE_STEPS)
