"""The sweep command: one ensemble for numbers, one run after the other for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxrl_prefs.cli import commandline, run, sweep
from jaxrl_prefs.cli.sweep import Axis, Group
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import prepare
from jaxrl_prefs.runs.config import Choice


def test_points_train_together_where_they_can_and_equal_runs_of_their_own(
    sweep_argv: list[str],
    pendulum_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep_argv.append("--set=eval_every=2")
    grid = ["--grid=actor_learning_rate=0.001,0.3", "--grid=batch_size=8,16"]
    assert sweep.main([*sweep_argv, *grid]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "sweep"
    content = json.loads((folder / "sweep.json").read_text())
    found = [point["settings"] for point in content["points"]]
    assert found == [
        {"batch_size": "8", "actor_learning_rate": "0.001"},
        {"batch_size": "8", "actor_learning_rate": "0.3"},
        {"batch_size": "16", "actor_learning_rate": "0.001"},
        {"batch_size": "16", "actor_learning_rate": "0.3"},
    ]
    # Scores on the way are shown point by point.
    for value, point in zip(("0.001", "0.3"), content["points"], strict=False):
        mean = point["policies"]["actor"]["score_mean"]
        assert f"train 4, actor_learning_rate={value}: actor {mean:.1f}" in shown
    runs = sorted(path.parent.name for path in folder.rglob("result.json"))
    assert runs == ["batch_size=16", "batch_size=8"]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    head, _, first, *_ = (folder / "sweep.md").read_text().splitlines()
    assert head == "| dataset | algo | actor_learning_rate | batch_size | actor |"  # as in the grid
    assert f"{pendulum_file} | td3_bc | 0.001 | 8 |" in first

    alone = [*sweep_argv[:5], f"--workdir={tmp_path / 'alone'}", *sweep_argv[6:]]
    assert run.main([*alone, "--set=actor_learning_rate=0.3", "--set=batch_size=16"]) == 0
    expected = json.loads((tmp_path / "alone" / "result.json").read_text())["policies"]["actor"]
    slow, fast = (point["policies"]["actor"] for point in content["points"][2:])
    assert fast["returns"] == pytest.approx(expected["returns"], rel=1e-3)
    assert slow["returns"] != pytest.approx(expected["returns"], rel=1e-2)

    # Finished points are not trained again.
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoints/*")}
    capsys.readouterr()
    assert sweep.main([*sweep_argv, *grid]) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoints/*")}

    # Of two evaluations, after 2 and 4 updates, both can be averaged.
    assert sweep.main([*sweep_argv, *grid, "--last=2"]) == 0
    played = next(folder.rglob("batch_size=8/evaluations.jsonl")).read_text().splitlines()
    rows = [row for row in map(json.loads, played) if row["actor_learning_rate"] == 0.3]
    first = [np.mean([row["score"] for row in rows if row["seed"] == seed]) for seed in (0, 1)]
    late = json.loads((folder / "sweep.json").read_text())
    assert late["last"] == 2 and len(rows) == 4
    assert late["points"][1]["policies"]["actor"]["scores"] == pytest.approx(first)
    assert late["points"][1] != content["points"][1]
    fresh = f"--workdir={tmp_path / 'fresh'}"  # all points are trained all the same
    assert sweep.main([*sweep_argv, *grid, fresh, "--last=3"]) == commandline.WRONG_USE
    assert len(list((tmp_path / "fresh").rglob("result.json"))) == 2
    assert "batch_size=8 has 2 evaluations in its last phase, 3 asked" in capsys.readouterr().err


def test_a_scale_in_action_dimensions_is_a_number_to_a_sweep(pendulum_file: Path) -> None:
    choice = Choice("td3_bst", str(pendulum_file), "Pendulum-v1", (0, 1), ())
    points = [{"kernel_scale": text} for text in ("k/2", "2k")]
    task, about = prepare.prepare(choice, Path("unused"), points)
    assert task.settings == {"kernel_scale": [0.5, 0.5, 2.0, 2.0]} and task.seeds == (0, 1) * 2
    assert about["sweep"] == {"kernel_scale": [0.5, 2.0]}


def test_the_length_of_a_phase_is_a_number_to_a_sweep(pendulum_file: Path) -> None:
    choice = Choice("td3_bst", str(pendulum_file), "Pendulum-v1", (0, 1), ())
    points = [{"pretrain_steps": text, "mu": "2"} for text in ("300", "1e3")]
    task, about = prepare.prepare(choice, Path("unused"), points)
    assert task.settings["pretrain_steps"] == [300, 300, 1000, 1000]
    assert about["sweep"]["pretrain_steps"] == [300, 1000]
    assert next(phase.steps for phase in task.method.phases) == 1000
    with pytest.raises(ConfigError, match="'pretrain_steps' takes an int"):
        prepare.prepare(choice, Path("unused"), [{"pretrain_steps": "0.5"}])


def test_the_figures_axis_names_what_a_score_is() -> None:
    panel = Figure().subplots()
    policies = {"actor": {"score_mean": 3.0, "score_ci": None}}
    points = [sweep.Found("bc", "mine", {"eta": x}, "raw return", policies) for x in "12"]
    sweep._draw_panel(panel, points, 5)
    assert panel.get_ylabel().startswith("raw return, mean of its last 5 evaluations")


def test_groups_join_what_may_differ_in_one_program() -> None:
    axes = [Axis("eta", ("1", "2")), Axis("policy", ("a", "b"))]
    assert sweep.groups(axes, ["eta"]) == [
        Group({"policy": "a"}, [{"eta": "1"}, {"eta": "2"}]),
        Group({"policy": "b"}, [{"eta": "1"}, {"eta": "2"}]),
    ]
    assert len(sweep.groups(axes, [])) == 4
    assert sweep.groups([], []) == [Group({}, [{}])]  # several methods or datasets, no field
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
        (["--dataset=x", "--grid=preset=default,cpu"], "no settings of td3_bc for x"),
    ],
)
def test_a_wrong_command_is_one_clear_line(
    sweep_argv: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert sweep.main([*sweep_argv, *more]) == commandline.WRONG_USE
    assert message in capsys.readouterr().err


def test_every_method_takes_the_fields_that_it_has_and_one_that_fails_stops_no_other(
    sweep_argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_argv[1] = "--algo=td3_bc,bc"
    broken = ["--grid=alpha=0,2.5", "--set=critic_learning_rate=1e30"]
    assert sweep.main([*sweep_argv, *broken]) == commandline.FAILED
    error = capsys.readouterr().err
    assert "td3_bc together" in error and "is NaN or infinite: seed 0" in error
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    found = [(point["algo"], point["settings"]) for point in content["points"]]
    assert found == [("bc", {})]


def test_several_methods_need_no_grid(sweep_argv: list[str]) -> None:
    commandline.read(sweep.FLAGS, [sweep_argv[0], "--algo=td3_bc,bc", *sweep_argv[2:]])
    assert [(cell.algo, cell.axes) for cell in sweep._cells([])] == [("td3_bc", []), ("bc", [])]
