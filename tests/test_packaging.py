"""The files around the package: Dockerfile, citation, changelog, metadata."""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import jaxrl_prefs

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# --- Dockerfile -----------------------------------------------------------------------------------

KNOWN = {"ARG", "FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


class Instruction(NamedTuple):
    word: str
    rest: str


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile: comments left out, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [Instruction(word, rest.strip()) for word, _, rest in pairs]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile; empty if nothing is."""
    found, instructions = [], parse(text)
    words = [instruction.word for instruction in instructions]
    rests = {word: [i.rest for i in instructions if i.word == word] for word in KNOWN}
    if unknown := set(words) - KNOWN:
        found.append(f"unknown instructions {sorted(unknown)}")
    if words.count("FROM") != 1 or set(words[: words.index("FROM")]) - {"ARG"}:
        found.append("one FROM, with nothing but ARG before it")
    bases = [rest.partition("=") for rest in rests["ARG"]]
    defaults = {name: value.strip('"') for name, _, value in bases}
    bases = [re.sub(r"\$\{(\w+)\}", lambda m: defaults.get(m[1], ""), b) for b in rests["FROM"]]
    bases += re.findall(r"BASE=(\S+)", text)  # those that the comments name
    for base in bases:
        if not re.fullmatch(r"[\w./-]+:[\w.-]+", base) or base.endswith(":latest"):
            found.append(f"base {base!r} has no version")
    if re.search(r"\w://", text) or re.search(r"index-url|trusted-host", text):
        found.append("an address")
    if not rests["USER"] or rests["USER"][-1] in ("root", "0"):
        found.append("runs as root")
    for rest in rests["COPY"]:
        *sources, _ = rest.split()
        found += [f"copies {name}, which is not there" for name in sources if not exists(name)]
    for rest in rests["RUN"]:
        if "pip install" in rest and "-c /source/constraints.txt" not in rest:
            found.append("installs without constraints.txt")
    for word in ("ENTRYPOINT", "CMD"):
        if not all(isinstance(json.loads(rest), list) for rest in rests[word]):
            found.append(f"{word} runs in a shell")
    return found


def exists(name: str) -> bool:
    ignored = (ROOT / ".dockerignore").read_text().split()
    return (ROOT / name).exists() and not any(fnmatch.fnmatch(name, line) for line in ignored)


def test_the_dockerfile_has_no_fault() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert faults(text) == []
    (entry,) = [json.loads(i.rest) for i in parse(text) if i.word == "ENTRYPOINT"]
    assert entry[0] in PROJECT["scripts"]
    extras = {word for line in re.findall(r"EXTRAS=\[([\w,]+)\]", text) for word in line.split(",")}
    assert extras and extras <= set(PROJECT["optional-dependencies"])
    copied = " ".join(i.rest for i in parse(text) if i.word == "COPY").split()
    needed = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "jaxrl_prefs"}
    assert needed <= set(copied)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.12-slim-bookworm", "python:latest", "has no version"),
        ("python:3.12-slim-bookworm", "python", "has no version"),
        ("USER trainer", "USER root", "runs as root"),
        ("USER trainer", "", "runs as root"),
        ("constraints.txt README.md", "constraints.txt READYOU.md", "READYOU.md"),
        ("COPY jaxrl_prefs", "COPY .git", "copies .git"),
        ("ARG BASE", "RUN true\nARG BASE", "nothing but ARG"),
        ("WORKDIR", "WORKDIRS", "unknown"),
        ("-c /source/constraints.txt", "", "without constraints"),
        ('CMD ["--help"]', "ADD x://y /z", "unknown"),
        ('CMD ["--help"]', "RUN pip download x://y", "an address"),
    ],
)
def test_faults_of_a_dockerfile_are_found(old: str, new: str, fault: str) -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert old in text
    assert any(fault in line for line in faults(text.replace(old, new)))


# --- Metadata -------------------------------------------------------------------------------------


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks
    allowed = {"type", "version", "license", "abstract", "keywords", "date-released", "references"}
    assert set(citation) <= {"cff-version", "message", "title", "authors"} | allowed
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == jaxrl_prefs.__version__
    assert citation["license"] == PROJECT["license"]
    assert all({"name"} <= set(a) or {"family-names"} <= set(a) for a in citation["authors"])


def test_the_changelog_has_its_format() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    dated = r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}"
    assert all(re.fullmatch(dated, line) for line in releases[1:])
    kinds = {line[4:] for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for before, line in itertools.pairwise(lines):
        if line.startswith("### "):
            assert before == "", line
