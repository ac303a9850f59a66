"""The documents keep their word: examples run, commands parse, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs
from jaxrl_prefs.cli import export, run
from jaxrl_prefs.runs import config
from tests.small_runs import brisk  # noqa: F401 - for the runs here too

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def example(containing: str) -> dict[str, Any]:
    """Runs the README's one example with this text as somebody's own script; returns its names."""
    (source,) = [code for code in blocks(ROOT / "README.md", "python") if containing in code]
    names: dict[str, Any] = {"__name__": "somebody"}
    exec(compile(source, "README.md", "exec"), names)
    return names


def test_every_example_has_a_test() -> None:
    assert len(blocks(ROOT / "README.md", "python")) == 3


def test_one_update_in_your_own_code() -> None:
    found = example("phase.update(")
    losses, actions = np.asarray(found["losses"]), np.asarray(found["actions"])
    assert losses.shape == (3, 200)
    assert (losses[:, -20:].mean(1) < 0.7 * losses[:, :20].mean(1)).all()
    assert len(np.unique(losses[:, -1])) == 3  # three seeds, not one three times
    assert actions.shape == (5, 1)
    assert (np.abs(actions) <= 1).all()
    assert np.abs(actions - found["action"][:5]).max() < 1  # the behaviour is a = -s with noise


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a few updates, with seeds 3 and 4, below runs/."""
    folder = tmp_path_factory.mktemp("readme")
    small = ["actor_hidden=8,8", "critic_hidden=8,8", "critic_ensemble_size=2", "candidates=2"]
    short = ["pretrain_steps=2", "train_steps=0", "warmup_steps=0"]  # one phase to compile
    fields = [f"--set={field}" for field in (*small, *short)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.chdir(folder)
        assert run.main(["run", "--seeds=3:5", "--env=none", *fields]) == 0
    return folder


@pytest.fixture
def trained(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory holds the run."""
    monkeypatch.chdir(run_folder)


@pytest.mark.usefixtures("trained")
def test_one_policy_out_of_a_run() -> None:
    found = example("load_run(")
    again = found["run"].policy(seed=3)(found["observation"])
    other = found["run"].policy(seed=4)(found["observation"])
    assert found["action"].shape == (1,)
    assert np.abs(found["action"]) <= 2  # Pendulum's own units
    assert (found["action"] == again).all()
    assert (found["action"] != other).any()


@pytest.mark.usefixtures("trained")
def test_a_policy_as_one_file() -> None:
    assert export.main(["export", "--run=runs/bdpo-pendulum-mixed"]) == 0
    found = example("jax.export.deserialize(")
    assert found["step"] == 200
    assert -2000 < found["total"] < -100
    # The first seed's headline, in the environment's units.
    policy = jaxrl_prefs.load_run("runs/bdpo-pendulum-mixed").policy(seed=3)
    observation = np.float32([[1, 0, 0.5]])
    first = np.asarray(found["policy"](observation, np.uint32(0)))
    assert first.shape == policy(observation).shape == (1, 1)
    assert np.abs(first) <= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    commands = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    for line in commands.splitlines():
        words = line.split("#")[0].replace("'", "").split()
        if words[:3] == ["python", "-m", "experiments.run"]:
            config.check(run.parse(["run", *words[3:]]).choice)


def test_the_main_job_is_the_one_that_is_described() -> None:
    makefile = (ROOT / "Makefile").read_text()
    command = re.search(r"^run:.*\n\t.*python -m experiments\.run (.*)$", makefile, re.MULTILINE)
    assert command is not None
    choice = run.parse(["run", *command.group(1).split()]).choice
    five = (0, 1, 2, 3, 4)
    assert (choice.algo, choice.dataset, choice.seeds) == ("bdpo", "pendulum-mixed", five)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"^make (?:\w+=\S+ )?(\w+)|`make (\w+)`", page.read_text(), re.MULTILINE)
        assert {first or second for first, second in named} <= targets, page.name
