"""The programs and environments of a dataset's choice: refused by name, or run with --trust_env."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxrl_prefs.cli import compare, data, launchers, plan, run, sweep
from tests.data import files
from tests.small_runs import SHORT

PENDULUM = {
    "id": "Pendulum-v1",
    "entry_point": "gymnasium.envs.classic_control:PendulumEnv",
    "max_episode_steps": 5,
    "kwargs": {},
}
LAB = PENDULUM | {"id": "Lab/Arm-v0", "entry_point": "lab_module:Env"}
MONITOR = {"name": "Monitor", "entry_point": "lab_module:Monitor", "kwargs": None}
SETTINGS = [f"--set={k}={v}" for k, v in SHORT.items() if k != "critic_hidden"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `minari/`, and a module on the path that makes `code_was_run` on import."""
    (tmp_path / "lab_module.py").write_text(
        f"open({str(tmp_path / 'code_was_run')!r}, 'w').close()\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv as Env\n"
    )
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("lab_module", None)


def written(root: Path, spec: dict[str, Any], width: int = 3) -> str:
    rng = np.random.default_rng(0)
    episodes = [
        files.episode(
            list(rng.normal(size=(6, width)).astype(np.float32)),
            rng.uniform(-2, 2, (5, 1)),
            rng.normal(size=5),
            terminated=False,
        )
        for _ in range(4)
    ]
    space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
    folder = files.write_minari(root / "minari", "a/set-v0", episodes, observation_space=space)
    about = json.loads((folder / "metadata.json").read_text())
    about["env_spec"] = json.dumps(spec)
    (folder / "metadata.json").write_text(json.dumps(about))
    return "a/set-v0"


def command(root: Path, *more: str) -> list[str]:
    argv = ["run", "--algo=bc", "--dataset=a/set-v0", "--seeds=1", f"--workdir={root / 'run'}"]
    return [*argv, *SETTINGS, *more]


def test_a_run_is_refused_before_training_and_names_the_remedies(
    root: Path, fails: Callable[..., str]
) -> None:
    written(root, LAB)
    message = fails(command(root))
    for text in ("a/set-v0", "not trusted: Lab/Arm-v0", "'lab_module:Env'"):
        assert text in message
    for remedy in ("--trust_env", "--env=ID", "--env=none"):
        assert remedy in message
    assert not (root / "code_was_run").exists() and not (root / "run").exists()


def test_trust_helps_no_damaged_record(root: Path, fails: Callable[..., str]) -> None:
    written(root, {"entry_point": "x:y"})
    for more in ([], ["--trust_env"]):
        message = fails(command(root, *more))
        assert "unreadable: env_spec in metadata.json has no id" in message
        assert "--env=none" in message and "--trust_env" not in message


def test_without_an_environment_it_trains(root: Path) -> None:
    written(root, LAB)
    assert run.main(command(root, "--env=none")) == 0
    assert not (root / "code_was_run").exists()
    assert (root / "run" / "result.json").exists()


def test_with_trust_it_is_evaluated_and_trust_is_no_part_of_the_run(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(root, LAB)
    assert run.main(command(root, "--trust_env")) == 0
    assert (root / "code_was_run").exists()
    assert "evaluated in Lab/Arm-v0" in capsys.readouterr().out
    assert "trust" not in (root / "run" / "config.json").read_text()


def test_a_wrapper_that_is_lost_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(root, PENDULUM | {"additional_wrappers": [MONITOR]})
    assert run.main(command(root)) == 0
    assert "Pendulum-v1 is evaluated without the recorded wrapper(s) 'Monitor'" in (
        capsys.readouterr().out
    )
    result = json.loads((root / "run" / "result.json").read_text())
    assert result["policies"]  # evaluated
    assert run.main(command(root, "--trust_env")) == 0
    assert "is finished" in capsys.readouterr().out  # the same run


def test_an_environment_of_other_sizes_is_refused_all_the_same(
    root: Path, fails: Callable[..., str]
) -> None:
    written(root, PENDULUM | {"additional_wrappers": [MONITOR]}, width=4)
    assert "has 3 observations and 1 actions" in fails(command(root))


def test_info_and_list_show_what_is_not_trusted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(root, PENDULUM | {"entry_point": "os:system", "kwargs": {"command": "[/red]"}})
    assert data.main(["data", "info", "a/set-v0"]) == 0
    shown = capsys.readouterr().out
    assert "not trusted: Pendulum-v1: its entry point 'os:system'" in shown
    assert "random policy" not in shown
    assert data.main(["data", "list"]) == 0
    assert "a/set-v0" in capsys.readouterr().out


def test_info_with_trust_plays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(root, LAB)
    assert data.main(["data", "info", "a/set-v0", "--random=1", "--trust_env"]) == 0
    assert "random policy" in capsys.readouterr().out


def test_a_converted_set_lacks_what_is_not_trusted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(root, LAB)
    assert data.main(["data", "convert", "a/set-v0", "b/copy-v0"]) == 0
    assert "not trusted: Lab/Arm-v0" in capsys.readouterr().out
    about = json.loads((root / "minari/b/copy-v0/data/metadata.json").read_text())
    assert "env_spec" not in about


def test_every_program_passes_trust_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(root, LAB)
    asked: list[list[str]] = []
    monkeypatch.setattr(compare.run, "main", lambda argv, *_: asked.append(argv) or 0)
    assert compare.main(["compare", "--algo=bc", "--dataset=a/set-v0", "--trust_env"]) == 0
    assert compare.main(["compare", "--algo=bc", "--dataset=a/set-v0"]) == 0
    assert ["--trust_env" in argv for argv in asked] == [True, False]

    jobs: list[launchers.Task] = []
    monkeypatch.setattr(launchers, "attempt", lambda job, console: jobs.append(job) or "")
    monkeypatch.chdir(root)
    argv = ["sweep", "--algo=bc", "--dataset=a/set-v0", "--grid=train_steps=2,4"]
    assert sweep.main([*argv, "--trust_env"]) == 0
    assert [job.choice.trust_env for job in jobs] == [True, True]

    choices: list[Any] = []
    monkeypatch.setattr(plan, "plan", lambda choice, *_: choices.append(choice) or plan_of_nothing)
    monkeypatch.setattr(plan, "phase_table", lambda _: [[""]])
    monkeypatch.setattr(plan, "summary", lambda _: [])
    assert plan.main(["plan", "--algo=bc", "--dataset=a/set-v0", "--trust_env"]) == 0
    assert choices[0].trust_env


plan_of_nothing = plan.Plan(1, 1, 0, 0, 0, ())
