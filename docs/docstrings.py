"""Shows examples as code and comments of fields as text: an extension of Griffe for mkdocs.yml."""

from __future__ import annotations

import re
from typing import Any

import griffe

COMMENT = re.compile(r"^[^#\"']*(?:\"[^\"]*\"[^#\"']*|'[^']*'[^#\"']*)*  # (?!type:|noqa)(.+)$")


class Docstrings(griffe.Extension):
    """Fences blocks of `>>>`; takes the comment beside a field as its text."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of a module, class, function or field."""
        is_field = obj.is_attribute and obj.parent is not None and obj.parent.is_class
        text = comment(obj.lines[-1]) if is_field and obj.lines else ""
        if text and obj.docstring is None:
            obj.docstring = griffe.Docstring(text, lineno=obj.lineno, parent=obj)
        if obj.docstring and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)


def comment(line: str) -> str:
    """The comment at the end of a line of code.

    >>> comment("    eta: float = 0.05  # strength of the path KL")
    'strength of the path KL'
    >>> comment('    form: str = "# no"'), comment("    x: int = 1  # noqa: RUF012")
    ('', '')
    """
    found = COMMENT.match(line)
    return found[1].strip() if found else ""


def fenced(text: str) -> str:
    """The text with its examples, up to the next empty line, between fences.

    >>> fenced("Adds.\\n>>> 1 + 1\\n2\\n\\nMore.").splitlines()
    ['Adds.', '```pycon', '>>> 1 + 1', '2', '```', '', 'More.']
    """
    lines: list[str] = []
    margin: str | None = None
    for line in [*text.splitlines(), ""]:
        if margin is None and line.lstrip().startswith(">>>"):
            margin = line[: len(line) - len(line.lstrip())]
            lines.append(f"{margin}```pycon")
        elif margin is not None and not line.strip():
            lines.append(f"{margin}```")
            margin = None
        lines.append(line.split("  # doctest:")[0].rstrip())
    return "\n".join(lines[:-1])
