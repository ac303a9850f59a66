"""The sweep command: one ensemble for numbers, one run after the other for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import run, session, sweep
from experiments.config import Choice
from experiments.sweep import Axis, Group
from tests.experiments.conftest import SHORT


@pytest.fixture
def argv(pendulum_file: Path, tmp_path: Path) -> list[str]:
    return [
        "sweep",
        "--algo=td3_bc",
        f"--dataset={pendulum_file}",
        "--env=Pendulum-v1",
        "--seeds=2",
        f"--workdir={tmp_path / 'sweep'}",
        *(f"--set={name}={value}" for name, value in SHORT.items() if name != "batch_size"),
    ]


def test_points_train_together_where_they_can_and_equal_runs_of_their_own(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--grid=actor_learning_rate=0.001,0.3", "--grid=batch_size=8,16"]
    assert sweep.main([*argv, *grid]) == 0
    folder = tmp_path / "sweep"
    content = json.loads((folder / "sweep.json").read_text())
    found = [point["settings"] for point in content["points"]]
    assert found == [
        {"batch_size": "8", "actor_learning_rate": "0.001"},
        {"batch_size": "8", "actor_learning_rate": "0.3"},
        {"batch_size": "16", "actor_learning_rate": "0.001"},
        {"batch_size": "16", "actor_learning_rate": "0.3"},
    ]
    runs = sorted(path.parent.name for path in folder.rglob("result.json"))
    assert runs == ["batch_size=16", "batch_size=8"]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    head, _, first, *_ = (folder / "sweep.md").read_text().splitlines()
    assert head == "| actor_learning_rate | batch_size | actor |"
    assert first.startswith("| 0.001 | 8 |")

    alone = [*argv[:5], f"--workdir={tmp_path / 'alone'}", *argv[6:]]
    assert run.main([*alone, "--set=actor_learning_rate=0.3", "--set=batch_size=16"]) == 0
    expected = json.loads((tmp_path / "alone" / "result.json").read_text())["policies"]["actor"]
    slow, fast = (point["policies"]["actor"] for point in content["points"][2:])
    assert fast["returns"] == pytest.approx(expected["returns"], rel=1e-3)
    assert slow["returns"] != pytest.approx(expected["returns"], rel=1e-2)

    # Finished points are not trained again.
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoints/*")}
    capsys.readouterr()
    assert sweep.main([*argv, *grid]) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoints/*")}


def test_a_scale_in_action_dimensions_is_a_number_to_a_sweep(pendulum_file: Path) -> None:
    choice = Choice("td3_bst", str(pendulum_file), "Pendulum-v1", (0, 1), ())
    points = [{"kernel_scale": text} for text in ("k/2", "2k")]
    trial, about = session.prepare(choice, Path("unused"), points)
    assert trial.settings == {"kernel_scale": [0.5, 0.5, 2.0, 2.0]} and trial.seeds == (0, 1) * 2
    assert about["sweep"] == {"kernel_scale": [0.5, 2.0]}


def test_groups_join_what_may_differ_in_one_program() -> None:
    axes = [Axis("eta", ("1", "2")), Axis("policy", ("a", "b"))]
    assert sweep.groups(axes, ["eta"]) == [
        Group({"policy": "a"}, [{"eta": "1"}, {"eta": "2"}]),
        Group({"policy": "b"}, [{"eta": "1"}, {"eta": "2"}]),
    ]
    assert len(sweep.groups(axes, [])) == 4
    assert sweep.axis("actor_hidden=8;16,16") == Axis("actor_hidden", ("8", "16,16"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--grid names what to vary"),
        (["--grid=alfa=1,2"], "Did you mean 'alpha'?"),
        (["--grid=alpha=1,much"], "takes a float"),
        (["--grid=alpha=1,1"], "each once"),
        (["--grid=alpha=1", "--grid=alpha=2"], "names a field twice"),
        (["--grid=alpha=1", "--set=alpha=2"], "both name alpha"),
        (["--grid=alpha=1,-2"], "alpha must not be negative"),
        (["--algo=nothing", "--grid=alpha=1"], "no algorithm"),
    ],
)
def test_a_wrong_command_is_one_clear_line(
    argv: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert sweep.main([*argv, *more]) == run.WRONG_USE
    assert message in capsys.readouterr().err
