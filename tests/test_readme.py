"""The documents keep their word: examples run, commands and settings exist, links lead on."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs
from jaxrl_prefs.__main__ import COMMANDS, main
from jaxrl_prefs.cli import export, run
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import config
from tests.small_runs import brisk  # noqa: F401 - for the runs here too

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md")]
PAGES += [ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md"))]
TUTORIALS = DOCS / "tutorials"

# Fields that make a method small. What an example sets itself is kept, but for the updates.
SMALL: dict[str, dict[str, Any]] = {
    "td3_bc": {"actor_hidden": (8,), "critic_hidden": (8,), "train_steps": 4, "batch_size": 16},
    "bdpo": {
        **{"policy": "gaussian", "actor_hidden": (8,), "critic_hidden": (8,)},  # quick to compile
        **{
            "critic_ensemble_size": 2,
            "q_samples": 2,
            "v_samples": 2,
            "actor_samples": 2,
            "candidates": 2,
            "batch_size": 16,
        },
        **{"pretrain_steps": 2, "train_steps": 0, "warmup_steps": 0},
    },
}


def of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each_page(pages: list[Path] = PAGES) -> Any:
    return pytest.mark.parametrize("page", pages, ids=of)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def example(page: Path, containing: str) -> dict[str, Any]:
    """Runs a page's one example with this text as somebody's own script; returns its names."""
    (source,) = [code for code in blocks(page, "python") if containing in code]
    names: dict[str, Any] = {"__name__": "somebody"}
    exec(compile(source, of(page), "exec"), names)
    return names


# --- Examples -------------------------------------------------------------------------------------

RUN_HERE = {"README.md": 2, "docs/tutorials/first_run.md": 3, "docs/tutorials/own_data.md": 1}
RUN_HERE["docs/tutorials/own_method.md"] = 4
RUN_HERE["docs/pixels.md"] = 1
RUN_HERE["docs/formats.md"] = 12  # by tests/docs/test_formats.py
RUN_HERE["docs/tutorials/logs_to_policy.md"] = 2  # by tests/docs/test_logs_to_policy.py
QUOTED = {"CONTRIBUTING.md": 2}  # lines of the code


@each_page()
def test_every_example_has_a_test(page: Path) -> None:
    expected = RUN_HERE.get(of(page), 0) + QUOTED.get(of(page), 0)
    assert len(blocks(page, "python")) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all examples; a run of one is read by the next."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`jp.train` makes small runs, in a working directory of the tests."""
    whole: Callable[..., Any] = jaxrl_prefs.train

    def train(method: Any, data: Any, **given: Any) -> Any:
        less = SMALL.get(method, {"train_steps": 4}) if isinstance(method, str) else {}
        fields = {**given, **less, "eval_episodes": 1, "log_every": 2}
        return whole(method, data, **fields)

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(jaxrl_prefs, "train", train, raising=False)
    return folder


def test_one_update_in_your_own_loop() -> None:
    found = example(TUTORIALS / "own_method.md", "phase.update(")
    losses, actions = np.asarray(found["losses"]), np.asarray(found["actions"])
    assert losses.shape == (3, 200)
    assert (losses[:, -20:].mean(1) < 0.7 * losses[:, :20].mean(1)).all()
    assert len(np.unique(losses[:, -1])) == 3  # three seeds, not one three times
    assert actions.shape == (5, 1)
    assert (np.abs(actions) <= 1).all()
    assert np.abs(actions - found["action"][:5]).max() < 1  # the behaviour is a = -s with noise


@pytest.mark.usefixtures("small")
def test_from_python() -> None:
    found = example(ROOT / "README.md", "load_dataset(")
    assert set(found["run"].scores["actor"]) == {0, 1, 2, 3, 4}
    assert found["action"].shape == (1,)
    assert np.abs(found["action"]) <= 2  # Pendulum's own units


@pytest.mark.usefixtures("small")
def test_with_your_own_data() -> None:
    found = example(ROOT / "README.md", "from_arrays(")
    assert found["action"].shape == (1,)
    assert np.abs(found["action"]) <= 1


@pytest.mark.usefixtures("small")
def test_images() -> None:
    found = example(DOCS / "pixels.md", "from_arrays(")
    assert found["action"].shape == (2,)
    assert (np.abs(found["action"]) <= 1).all()


@pytest.mark.usefixtures("small")
def test_the_tutorial_on_your_own_data() -> None:
    found = example(TUTORIALS / "own_data.md", "from_arrays(")
    assert found["valve"].shape == (1,)
    assert 0 <= found["valve"][0] <= 100  # in per cent, as recorded


def test_the_tutorial_of_a_first_run(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = TUTORIALS / "first_run.md"
    trained = example(page, "jp.train(")["run"]
    assert set(trained.scores["actor"]) == {0, 1, 2}
    found = example(page, "load_run(")
    assert -2000 < found["total"] < -100
    assert export.main(["export", "--run=runs/tutorial"]) == 0
    exported = example(page, "jax.export.deserialize(")
    assert exported["step"] == 200
    assert -2000 < exported["total"] < -100
    observation = np.float32([[1, 0, 0.5]])
    assert np.asarray(exported["policy"](observation, np.uint32(0))) == pytest.approx(
        found["policy"](observation), abs=1e-5
    )


def test_the_tutorial_on_your_own_method(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = TUTORIALS / "own_method.md"
    (source,) = [code for code in blocks(page, "python") if "class Config" in code]
    (small / "weighted_bc.py").write_text(source)
    monkeypatch.syspath_prepend(str(small))
    module: ModuleType = importlib.import_module("weighted_bc")
    try:
        found = example(page, "import weighted_bc")
        assert set(found["run"].scores["actor"]) == {0, 1, 2}
        (check,) = [code for code in blocks(page, "python") if "check_method" in code]
        exec(compile(check, of(page), "exec"), {"weighted_bc": module})
    finally:
        sys.modules.pop("weighted_bc", None)
        while "." in sys.path[:1]:  # the example's own line
            sys.path.remove(".")


def test_quoted_code_is_in_the_code() -> None:
    files = [path.read_text() for path in (ROOT / "jaxrl_prefs").rglob("*.py")]
    together = re.sub(r"\s+", "", "".join(files))
    for page, count in QUOTED.items():
        found = blocks(ROOT / page, "python")
        assert len(found) == count
        for code in found:
            assert re.sub(r"\s+", "", code) in together, code


# --- Commands -------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """The words of every command of this library in a page's shell examples."""
    shell = re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    text = "\n".join(shell).replace("\\\n", " ")
    text += "\n" + "\n".join(re.findall(r"`(jaxrl-prefs [^`]+)`", page.read_text()))
    plain = re.sub(r"#.*|['\"]", "", text)
    lines = [line.split() for line in plain.splitlines()]
    return [line[line.index("jaxrl-prefs") + 1 :] for line in lines if "jaxrl-prefs" in line]


@cache
def help_of(command: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(["jaxrl-prefs", command, "--help"]) == 0
    return shown.getvalue()


@each_page()
def test_commands_have_their_flags(page: Path) -> None:
    for words in commands(page):
        if not words or words[0].startswith("-"):
            continue
        name, *rest = words
        assert name in COMMANDS, f"{of(page)}: jaxrl-prefs {name}"
        for word in rest:
            if found := re.match(r"--(\w+)", word):
                assert re.search(rf"--{found[1]}\b", help_of(name)), f"{of(page)}: {name} {word}"


@each_page()
def test_runs_have_their_settings(page: Path) -> None:
    for name, *rest in filter(None, commands(page)):
        known = not any("$" in word or "weighted_bc" in word for word in rest)
        if name == "run" and known and not {"DIR", "--help"} & set(rest):
            config.check(run.parse(["run", *rest]).choice)


def test_the_main_job_is_the_one_that_is_described() -> None:
    makefile = (ROOT / "Makefile").read_text()
    command = re.search(r"^run:.*\n\t.*python -m experiments\.run (.*)$", makefile, re.MULTILINE)
    assert command is not None
    choice = run.parse(["run", *command.group(1).split()]).choice
    five = (0, 1, 2, 3, 4)
    assert (choice.algo, choice.dataset, choice.seeds) == ("bdpo", "pendulum-mixed", five)


def test_the_script_for_slurm() -> None:
    script = TUTORIALS / "slurm.sh"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert script.read_text() in blocks(TUTORIALS / "cluster.md", "bash")


@each_page()
def test_shell_examples_are_shell(page: Path) -> None:
    for code in blocks(page, "bash"):
        checked = subprocess.run(
            ["bash", "-n"], input=code, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{of(page)}: {checked.stderr}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        shell = "\n".join(blocks(page, "bash"))
        named = re.findall(r"^make (?:\w+=\S+ )?(\w+)", shell, re.MULTILINE)
        named += re.findall(r"`make (?:\w+=\S+ )?(\w+)`", page.read_text())
        assert set(named) <= targets, page.name


# --- Methods and links ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_in_one_form(name: str) -> None:
    text = (DOCS / "methods" / f"{name}.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    wanted = ["Equations", "When to use it", "Settings", "Results", "Known limits"]
    assert [head for head in heads if head in wanted] == wanted
    assert f"methods/{name}.md" in (ROOT / "mkdocs.yml").read_text()
    assert f"docs/methods/{name}.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_those_of_the_code(name: str) -> None:
    text = (DOCS / "methods" / f"{name}.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    defaults = {field.name: field.default for field in dataclasses.fields(METHODS[name].Config)}
    assert rows
    for field, default in rows:
        assert field in defaults, f"{name} has no field {field}"
        value = defaults[field]
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert default == shown, f"{name}.{field} is {shown}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()).strip() for head in heads]
    return {head.replace(" ", "-") for head in plain}


@each_page()
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        place = page.parent / target if target else page
        assert place.exists(), f"{of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{of(page)} links to {target}#{anchor}"


SOURCES = [p for folder in ("jaxrl_prefs", "benchmarks") for p in (ROOT / folder).rglob("*.py")]


def test_pages_that_the_source_names_exist() -> None:
    for path in SOURCES:
        for named in re.findall(r"\b(docs/[\w/]+\.md)", path.read_text()):
            assert (ROOT / named).exists(), f"{of(path)} names {named}"


@each_page()
def test_files_that_a_page_names_exist(page: Path) -> None:
    for named in re.findall(r"`([\w-]+/[\w/-]+\.(?:py|sh|json|md|ipynb))`", page.read_text()):
        places = (ROOT, ROOT / "jaxrl_prefs", ROOT / "jaxrl_prefs" / "data")
        assert any((place / named).exists() for place in places), f"{of(page)} names {named}"
