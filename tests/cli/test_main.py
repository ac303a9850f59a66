"""The command jaxrl-prefs itself, and what all of its commands share."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import flags

from jaxrl_prefs import __main__, __version__
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_alone_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["help"], ["--help"]):
        assert __main__.main(["jaxrl-prefs", *words]) == 0
        out = capsys.readouterr().out
        for name, (_, about) in __main__.COMMANDS.items():
            assert any(line.split() == [name, *about.split()] for line in out.splitlines())
        assert "130 interrupted" in out


def test_help_version_and_typos(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["jaxrl-prefs", "help", "table"]) == 0
    assert "    jaxrl-prefs table runs/compare" in capsys.readouterr().out
    assert __main__.main(["here/jaxrl_prefs/__main__.py", "table", "--help"]) == 0
    assert "    python -m jaxrl_prefs table runs/compare" in capsys.readouterr().out
    assert __main__.main(["jaxrl-prefs", "--version"]) == 0
    assert capsys.readouterr().out == f"jaxrl-prefs {__version__}\n"
    assert __main__.main(["jaxrl-prefs", "swep"]) == commandline.WRONG_USE
    assert "no command 'swep'. Did you mean 'sweep'?" in capsys.readouterr().err


def test_a_flag_means_the_same_in_every_command() -> None:
    texts: dict[str, set[str]] = {}
    commands = ("run", "compare", "sweep", "table", "evaluate", "plan", "data", "export")
    for name in (*commands, "play", "report"):
        own = importlib.import_module(f"jaxrl_prefs.cli.{name}").FLAGS
        for flag in (own[each] for each in own):
            text = flag.help.partition(";\n")[0].removesuffix("; or several, separated by commas")
            texts.setdefault(flag.name, set()).add(text)
    assert {name: found for name, found in texts.items() if len(found) > 1} == {}
    for name in ("run", "compare", "sweep"):
        own = importlib.import_module(f"jaxrl_prefs.cli.{name}").FLAGS
        shared = ("algo", "dataset", "env", "trust_env", "seeds", "workdir", "set", "overwrite")
        assert {*shared, *commandline.WITH_FLAGS} <= set(own)


def test_an_unknown_flag_names_the_closest() -> None:
    own = flags.FlagValues()
    commandline.define_flags(own, workdir="", last=1)
    with pytest.raises(ConfigError, match=r"^no flag --lst\. Did you mean --last\?$"):
        commandline.words(own, ["table", "--lst=3"])
    with pytest.raises(ConfigError, match=r"^no flag --xyz\. Valid: --last, --workdir$"):
        commandline.words(own, ["table", "--xyz"])


def test_an_encoding_without_letters_breaks_nothing() -> None:
    """A process of its own, whose standard output is ASCII and a pipe."""
    source = (
        "from jaxrl_prefs.cli import commandline\n"
        "from jaxrl_prefs.runs import tables\n"
        "console = commandline.console()\n"
        "tables.show(console, 'scores \\u2192', [['data', 'x' * 200], ['a', '1 \\xb1 2']])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "20"},
        capture_output=True,
        check=True,
    )
    title, head, row = done.stdout.decode("ascii").splitlines()
    assert title == "scores \\u2192" and "x" * 200 in head and row.split() == ["a", "1", "+-", "2"]


def documented() -> Iterator[tuple[str, list[str]]]:
    """Every command line of the documents: the command's name and its words."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            words = line.split("#")[0].replace("'", "").split()
            if words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
                words = ["jaxrl-prefs", words[2].removeprefix("experiments."), *words[3:]]
            if words[:1] == ["jaxrl-prefs"] and words[1:2] and words[1] in __main__.COMMANDS:
                yield words[1], words[2:]


def test_the_flags_of_the_documents_exist() -> None:
    found = list(documented())
    assert {"run", "compare"} <= {name for name, _ in found}
    for name, words in found:
        own = importlib.import_module(__main__.COMMANDS[name][0]).FLAGS
        commandline.words(own, [name, *(word for word in words if not word.startswith("$"))])
