"""What --help says of the fields that --set takes: value, type, choices, meaning.

The meaning of a field is the comment on its line in the source of its dataclass or, without one,
the comment lines directly above it.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrl_prefs import data
from jaxrl_prefs.data import families, roots
from jaxrl_prefs.environments import ogbench_names, trust
from jaxrl_prefs.runs import config, overrides, presets, settings
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.workdir import NO_ENV


def usage(choices: Sequence[Choice]) -> str:
    """The fields of the run and of each choice's method, as they would run on the first dataset.

    Raises:
        ConfigError: for an unknown method or field, and for a wrong value.
    """
    lines: list[str] = []
    for choice in choices:
        config.check(choice)
        name, family, env_id = about(choice.dataset, choice.env)
        run, method = config.resolve(choice, name, family, env_id)
        row = presets.preset(name, family, choice.algo, env_id, run.preset).source
        said = f"as {choice.algo} on {name} would take them ({row})"
        if not lines:
            lines += [f"Fields of the run for --set, {said}:", *described(run)]
        lines += ["", f"Fields of {choice.algo} for --set, {said}:", *described(method)]
    return "\n".join(lines)


def described(values: Any) -> Iterator[str]:
    """A line for each field of a config: `eta=0.25 (float, default 0.05): strength of ...`."""
    said, default = meanings(type(values)), type(values)()
    for name, kind in overrides.field_types(type(values)).items():
        if name in config.OWN_FLAGS:
            continue
        value, usual = getattr(values, name), getattr(default, name)
        note = "" if value == usual else f", default {settings.text(usual)}"
        about = f": {said[name]}" if name in said else ""
        yield f"  {name}={settings.text(value)} ({overrides.kind(kind)}{note}){about}"


def about(dataset: str, env: str) -> tuple[str, str, str]:
    """A dataset's full name, its family and its environment; only metadata are read."""
    name = data.ALIASES.get(dataset, dataset)
    place = "" if env == NO_ENV else env
    folder = roots.find(name)
    if folder is not None and not env:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be damaged
            place = named_env(json.loads((folder / "metadata.json").read_text()))
    family = families.family_of(presets.known_as(name), place)
    if (found := ogbench_names.of_path(name)) is not None:  # as their reader calls them
        family, place = "ogbench", place or ("" if env == NO_ENV else found.env_id)
    return name, family, place


def named_env(metadata: dict[str, Any]) -> str:
    """The id of the environment that a Minari dataset's metadata name; empty if none."""
    spec = metadata.get("eval_env_spec") or metadata.get("env_spec")
    return str(trust.parsed(spec).get("id", "unreadable")) if spec else ""


def meanings(config_class: type) -> dict[str, str]:
    """Returns {field: its comment} of a dataclass and those that it inherits from.

    Fields without a comment, and classes without source, are left out.
    """
    found: dict[str, str] = {}
    for each in reversed(config_class.__mro__[:-1]):  # without object
        try:
            found |= comments(inspect.getsource(each))
        except (OSError, TypeError, SyntaxError):  # made at run time
            continue
    return found


def comments(source: str) -> dict[str, str]:
    """Returns {field: its comment} of the source of one class.

    A comment within the lines of a field is its own; else the comment lines directly above it are.

    >>> comments("class A:\\n    x: int = 1  # how many\\n    # how far, in m\\n    y: int = 2")
    {'x': 'how many', 'y': 'how far, in m'}
    """
    source = textwrap.dedent(source)
    trailing, whole = dict[int, str](), dict[int, str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            whole_line = not token.line[: token.start[1]].strip()
            (whole if whole_line else trailing)[token.start[0]] = token.string.lstrip("#").strip()
    found = {}
    (owner,) = ast.parse(source).body
    for node in getattr(owner, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            own = [trailing[line] for line in lines if line in trailing]
            if text := " ".join(own or _above(whole, node.lineno)):
                found[node.target.id] = text
    return found


def _above(whole: dict[int, str], line: int) -> list[str]:
    """The comment lines that end on the line before `line`; a line `# --- name` opens a section."""
    first = line
    while not whole.get(first - 1, "---").startswith("---"):
        first -= 1
    return [whole[each] for each in range(first, line)]
