"""Nothing that was trained is lost: evaluations that fail, rows and columns that are damaged."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from rich.console import Console

from jaxrl_prefs.cli import run, table
from jaxrl_prefs.evaluation.evaluator import Evaluator
from jaxrl_prefs.runs import curves, fit, prepare, recorder
from jaxrl_prefs.runs.load import load_run
from jaxrl_prefs.runs.recorder import Recorder
from tests.small_runs import SHORT

FIELDS = SHORT | {"train_steps": "8", "eval_every": "4", "checkpoint_every": "8"}
Flags = Callable[..., list[str]]


@pytest.fixture
def flags(pendulum_file: Path, tmp_path: Path) -> Flags:
    """Gives `flags(*more, field=value)`: a run of TD3+BC in `tmp_path / "run"`."""

    def build(*more: str, env: str = "Pendulum-v1", **fields: object) -> list[str]:
        settings = FIELDS | {name: str(value) for name, value in fields.items()}
        return [
            *("run", "--algo=td3_bc", f"--dataset={pendulum_file}", f"--env={env}", "--seeds=2"),
            f"--workdir={tmp_path / 'run'}",
            *(f"--set={name}={value}" for name, value in settings.items()),
            *more,
        ]

    return build


def rows(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def test_checkpoints_are_due_by_updates_or_by_minutes() -> None:
    def due(before: int, now: int, seconds: float, minutes: float) -> bool:
        fields = SimpleNamespace(checkpoint_every=10, checkpoint_minutes=minutes)
        job: Any = SimpleNamespace(config=fields, steps=100)
        step: Any = SimpleNamespace(before=before, log_point=SimpleNamespace(step=now))
        return fit._saves(job, step, seconds)

    assert due(8, 12, 0.0, minutes=0.0)
    assert not due(12, 16, 1e6, minutes=0.0)
    assert not due(8, 12, 119.0, minutes=2.0)
    assert due(12, 16, 120.0, minutes=2.0)
    assert due(96, 100, 0.0, minutes=2.0)  # the end


def test_warnings_of_a_method_are_printed_once_with_their_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    method = SimpleNamespace(warn=lambda metrics: ["it is flat"] if metrics["slope"] < 1 else [])
    labels = [{"mu": 0.5, "seed": 0}, {"mu": 0.5, "seed": 1}, {"mu": 2.0, "seed": 0}]
    job = SimpleNamespace(labels=labels, method=method)
    recorder: Any = SimpleNamespace(_job=job, _warned=set(), _console=Console())
    found = {"slope": np.array([0.5, 3.0, 0.9])}
    log_point: Any = SimpleNamespace(phase="morse", phase_step=300)
    for _ in range(2):
        Recorder._warn(recorder, found, log_point)
    told = capsys.readouterr().out.strip()
    assert told == "warning, morse 300, mu 0.5 seed 0, mu 2 seed 0: it is flat"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which playing fails: all of them, until the list is changed."""
    score, steps = Evaluator.score, [0, 4, 8]

    def play(self: Evaluator, name: str, state: Any, step: int) -> Any:
        if step in steps:
            raise RuntimeError("no display\nis attached")
        return score(self, name, state, step)

    monkeypatch.setattr(Evaluator, "score", play)
    return steps


def test_a_score_that_cannot_be_had_is_null_and_the_run_is_finished(
    flags: Flags, tmp_path: Path, failing: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.remove(4)
    assert run.main(flags()) == 0
    told = capsys.readouterr().out
    named = "actor could not be played at update 8: RuntimeError: no display is attached"
    assert told.count(named) == 1 and "no score" in told
    played = rows(tmp_path / "run", "evaluations.jsonl")
    assert [row["score"] is None for row in played] == [False, False, True, True]
    assert played[-1]["returns"] == [] and played[0]["returns"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["score_mean"] is None and result["score_ci"] is None
    assert result["scores"] == [None, None] and result["headline"] == "actor"
    assert load_run(tmp_path / "run").step == 8
    assert run.main(flags()) == 0 and "no score" in capsys.readouterr().out
    assert table.main(["table", str(tmp_path / "run")]) == 0
    assert table.main(["table", "--last=2", str(tmp_path / "run")]) == 0


def test_one_fault_is_told_once(
    flags: Flags, failing: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing
    assert run.main(flags()) == 0
    assert capsys.readouterr().out.count("could not be played") == 1


def test_one_seed_that_cannot_be_scored_costs_no_other(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Evaluator.score

    def play(self: Evaluator, name: str, state: Any, step: int) -> Any:
        found = score(self, name, state, step)
        found.returns[1] = np.nan
        return found

    monkeypatch.setattr(Evaluator, "score", play)
    assert run.main(flags()) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["scores"][1] is None and result["score_mean"] == result["scores"][0]


def test_a_process_that_dies_in_an_evaluation_has_saved(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an environment that aborts does. Without it the run goes on, and without scores."""

    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "score", die)
        with pytest.raises(Death):
            run.main(flags())
        assert load_run(tmp_path / "run").step == 4
        with pytest.raises(Death):
            run.main(flags())
    assert run.main(flags(env="none")) == 0
    assert load_run(tmp_path / "run").step == 8
    assert [row["score"] for row in rows(tmp_path / "run", "evaluations.jsonl")] == [None] * 4
    assert json.loads((tmp_path / "run" / "result.json").read_text())["score_mean"] is None


class Raises(PendulumEnv):
    """A simulator that breaks in the third step of an episode."""

    steps = 0

    def step(self, u: Any) -> Any:
        self.steps += 1
        if self.steps % 3 == 0:
            raise RuntimeError("the simulator is broken")
        return super().step(u)


def test_an_environment_that_raises(flags: Flags, tmp_path: Path) -> None:
    gymnasium.register("Raises-v0", f"{__name__}:Raises", max_episode_steps=20)
    try:
        assert run.main(flags(env="Raises-v0")) == 0
    finally:
        del gymnasium.registry["Raises-v0"]
    assert load_run(tmp_path / "run").step == 8
    assert json.loads((tmp_path / "run" / "result.json").read_text())["scores"] == [None, None]


# --- Damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `flags`."""
    path = tmp_path_factory.mktemp("whole") / "run"
    argv = [f"--set={name}={value}" for name, value in FIELDS.items()]
    data = ["--algo=td3_bc", f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2"]
    assert run.main(["run", *data, f"--workdir={path}", *argv]) == 0
    return path


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path) -> Path:
    """The run before its end: all is there but the result."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def test_a_lost_tail_is_evaluated_again(flags: Flags, whole: Path, unfinished: Path) -> None:
    """And no earlier evaluation is taken for the last one."""
    path = unfinished / "evaluations.jsonl"
    kept = path.read_text().splitlines(keepends=True)[:-2]
    path.write_text("".join(kept))
    assert run.main(flags()) == 0
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (unfinished / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_a_row_that_is_damaged_in_the_middle_is_named_and_costs_no_other(
    flags: Flags, whole: Path, unfinished: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = (unfinished / name).read_bytes().splitlines(keepends=True)
    step = json.loads(found[1])["step"]
    (unfinished / name).write_bytes(b"".join([found[0], b"\x00\xff\n", *found[2:]]))
    assert run.main(flags()) == 0
    told = capsys.readouterr().out
    assert told.count(f"damaged or missing rows: {name} at step {step}") == 2  # and in the report
    result = json.loads((unfinished / "result.json").read_text())
    assert result["lost_rows"] == {name: [step]}
    assert result["scores"] == json.loads((whole / "result.json").read_text())["scores"]
    assert (unfinished / name).read_bytes().splitlines(keepends=True)[2:] == found[2:]


def test_a_missing_file_is_not_a_missing_environment(
    flags: Flags, whole: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (unfinished / "evaluations.jsonl").unlink()
    assert run.main(flags()) == 0
    told = capsys.readouterr().out
    assert "evaluations.jsonl at step 4" in told and "names no environment" not in told
    result = json.loads((unfinished / "result.json").read_text())
    assert result["scores"] == json.loads((whole / "result.json").read_text())["scores"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"updates": 3}', '{"updates": {}}'])
def test_a_damaged_estimate_is_measured_again(flags: Flags, unfinished: Path, content: str) -> None:
    for checkpoint in (unfinished / "checkpoints").iterdir():
        if checkpoint.name == "8":
            shutil.rmtree(checkpoint)
    (unfinished / "forecast.json").write_text(content)
    assert run.main(flags()) == 0
    assert set(json.loads((unfinished / "forecast.json").read_text())) >= {"updates", "last"}


@pytest.mark.parametrize("content", ["", "{}"])
def test_a_damaged_result_is_written_again(flags: Flags, unfinished: Path, content: str) -> None:
    (unfinished / "result.json").write_text(content)
    assert run.main(flags()) == 0
    assert json.loads((unfinished / "result.json").read_text())["step"] == 8


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(
    flags: Flags,
    unfinished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        assert (unfinished / "result.json").exists()
        raise OSError("No space left on device")

    monkeypatch.setattr(prepare, "curves", curves)
    monkeypatch.setattr(curves, "draw", fail)
    assert run.main(flags()) == 0
    assert "curves could not be drawn: No space left" in capsys.readouterr().out


def test_curves_grow_while_a_run_trains(
    flags: Flags, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(path: Path, evaluations: Any, *_: object) -> None:
        drawn.append(list(evaluations)[-1]["step"])

    monkeypatch.setattr(recorder, "REDRAW_SECONDS", 0)
    monkeypatch.setattr(prepare, "curves", curves)
    monkeypatch.setattr(curves, "draw", draw)
    assert run.main(flags()) == 0
    evaluated = [row["step"] for row in rows(whole, "evaluations.jsonl")]
    assert drawn == [*dict.fromkeys(evaluated), evaluated[-1]]


def test_curves_need_no_backend(whole: Path, tmp_path: Path) -> None:
    evaluations, metrics = (rows(whole, f"{x}.jsonl") for x in ("evaluations", "metrics"))
    import matplotlib

    before = matplotlib.rcParams["backend"]
    curves.draw(tmp_path / "curves.png", evaluations, metrics)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.rcParams["backend"] == before


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    flags: Flags, whole: Path, unfinished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its progress too: the sums of metrics are as safe as the weights."""
    files = [path for path in (unfinished / "checkpoints" / "8").rglob("*") if path.is_file()]
    (about,) = (path for path in files if b"progress_checksum" in path.read_bytes())
    text = about.read_text()
    changed = re.sub(r'"before": *', r"\g<0>1", text, count=1)
    assert changed != text
    about.write_text(changed)
    with caplog.at_level(logging.WARNING):
        assert run.main(flags()) == 0
    assert "checkpoint of step 8" in caplog.text and "progress" in caplog.text
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (unfinished / name).read_bytes() == (whole / name).read_bytes()
