"""Several methods on several datasets into one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jaxrl_prefs.cli import commandline, compare, suite, table
from jaxrl_prefs.data import ogbench_data
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs.suites import SUITES, Row
from tests.small_runs import SHORT, record_pendulum


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    box = tmp_path / "box.hdf5"  # actions within [-1, 1]: it needs no environment
    record_pendulum(box, scale=0.5)
    return [
        "compare",
        "--algo=bc,bc+policy=gaussian",
        f"--dataset={box}",
        "--seeds=2",
        f"--workdir={tmp_path / 'all'}",
        *(f"--set={name}={value}" for name, value in SHORT.items() if name != "critic_hidden"),
    ]


def test_every_variant_is_trained_once_and_stands_in_the_table(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*argv, "--against=bc"]
    assert compare.main(argv) == 0
    assert compare.main(argv) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    text = (tmp_path / "all" / "table.md").read_text()
    assert "| dataset | data | bc | bc+policy=gaussian |" in text
    assert "not evaluated" in text  # a bare file names no environment


def test_a_run_that_fails_does_not_stop_the_others(argv: list[str], tmp_path: Path) -> None:
    argv[2] = f"--dataset={tmp_path / 'missing.hdf5'},{argv[2].split('=', 1)[1]}"
    assert compare.main(argv) == commandline.WRONG_USE
    assert len(list((tmp_path / "all").rglob("result.json"))) == 2


def test_a_table_that_cannot_be_made_yet_does_not_stop_the_others(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(*_: Any) -> table.Grid:
        raise ConfigError("--last: a run has 2 evaluations in its last phase, 5 asked")

    monkeypatch.setattr(table, "collect", collect)
    assert compare.main(argv) == commandline.WRONG_USE
    assert len(list((tmp_path / "all").rglob("result.json"))) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--algo=bc,nothing", "no algorithm 'nothing'"),
        ("--algos=bc", "no flag --algos: it is called --algo"),
        ("--datasets=mine", "no flag --datasets: it is called --dataset"),
        ("--eval_every=often", "takes an int"),
        ("--algo=bc,bc", "names a variant twice"),
        ("--algo=bc+polcy=gaussian", "Did you mean 'policy'?"),
        ("--set=polcy=gaussian", "Did you mean 'policy'?"),
        ("--set=actor_learning_rate=much", "takes a float"),
        ("--seeds=none", "--seeds takes"),
        ("--algo=bc,rebrac+preset=cpu --dataset=x", "no settings of rebrac for x"),
        ("--preset=cpu --dataset=pendulum-mixed,x", "no settings of bc for x"),
    ],
)
def test_a_wrong_command_is_one_clear_line(
    argv: list[str], capsys: pytest.CaptureFixture[str], more: str, message: str
) -> None:
    assert compare.main([*argv, *more.split()]) == commandline.WRONG_USE
    assert message in capsys.readouterr().err


def result(dataset: str, scores: list[float], seeds: list[int]) -> dict[str, Any]:
    mean = sum(scores) / len(scores)
    return {
        "algo": "bdpo",
        "dataset": dataset,
        "seeds": seeds,
        "scores": scores,
        "score_mean": mean,
        "score_ci": [mean - 1, mean + 1],
        "policies": {"actor": {}},
        "score_kind": "normalised score",
        "data_score": 5.0,
    }


def write(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))


def test_differences_are_paired_by_seed_and_missing_cells_blank(tmp_path: Path) -> None:
    write(tmp_path / "x" / "bc", result("x", [10.0, 30.0], [0, 1]))
    write(tmp_path / "x" / "iql", result("x", [12.0, 32.0], [0, 1]))
    write(tmp_path / "y" / "bc", result("y", [1.0, 2.0], [0, 1]))
    write(tmp_path / "y" / "td3", result("y", [1.0, 2.0], [0, 2]))
    grid = table.collect([tmp_path], ["td3"])
    assert table.rows(grid) == [
        ["dataset", "data", "td3", "bc", "iql"],
        ["x", "5.0", "", "20.0 (19.0 to 21.0)", "22.0 (21.0 to 23.0)"],
        ["y", "5.0", "1.5 (0.5 to 2.5)", "1.5 (0.5 to 2.5)", ""],
    ]
    # Every seed gained 2: the paired interval is a point, though seeds lie 20 apart.
    # No score stands among differences, and no column is compared with itself.
    assert table.rows(grid, "bc") == [
        ["dataset", "td3", "iql"],
        ["x", "", "+2.0 (+2.0 to +2.0)"],
        ["y", "", ""],  # other seeds
    ]
    table.publish(grid, tmp_path, Console(), table.extras(grid, "bc"))
    assert (tmp_path / "table.csv").read_text().splitlines()[1] == "x,bc,0,10.0,normalised score"


def test_the_table_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["table", str(tmp_path)]) == commandline.WRONG_USE
    assert "no run below" in capsys.readouterr().err
    write(tmp_path / "a" / "bc", result("x", [1.0, 2.0], [0, 1]))
    assert table.main(["table", str(tmp_path), "--against=iql"]) == commandline.WRONG_USE
    assert "no column 'iql'" in capsys.readouterr().err
    write(tmp_path / "b" / "bc", result("x", [1.0, 2.0], [0, 1]))
    assert table.main(["table", str(tmp_path)]) == commandline.WRONG_USE
    assert "two runs called 'bc'" in capsys.readouterr().err


# --- Suites ---------------------------------------------------------------------------------------

OWN = {"fql": ("alpha=7",)}
PAIR = (
    Row("cube-single-play", 28, 5, 40_000, tasks=("task1", "task2")),
    Row("scene-play", 40, 5, 10_000, ("reward=sparse", "gamma=0.5"), ("task1",), OWN),
)
SMALL = ["--algo=bc", "--seeds=3", "--set=actor_hidden=8", "--set=batch_size=16"]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A suite of two rows, and the folder where its data would be."""
    monkeypatch.setitem(SUITES, "pair", PAIR)
    monkeypatch.setenv(ogbench_data.FOLDER, str(tmp_path))
    return tmp_path


def test_a_suite_costs_what_its_tasks_and_seeds_cost(
    pair: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hidden layer of 8 units, 16 rows: as in test_plan.py."""

    def update(observations: int) -> int:
        forward = 2 * 16 * (observations * 8 + 8 * 5)
        return 2 * forward + 2 * 16 * 8 * 5

    kept: list[suite.Cost] = []
    costs_of = suite.costs
    monkeypatch.setattr(suite, "costs", lambda *given: kept.extend(costs_of(*given)) or kept)
    argv = ["compare", "--suite=pair", "--dry_run", *SMALL, "--set=train_steps=100", "--rate=1e-9"]
    assert compare.main([*argv, "--devices=2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    costs = [tasks * 3 * 100 * update(size) for tasks, size in ((2, 28), (1, 40))]
    petas = [f"{cost / 1e15:.3g}" for cost in (*costs, sum(costs))]
    assert [line[:5] for line in lines if line[:1] == ["cube-single-play"]] == [
        ["cube-single-play", "bc", "2", "100", petas[0]]
    ]
    assert next(line for line in lines if line[:1] == ["all"])[:3] == ["all", "3", petas[2]]
    # Three seeds on two devices: two rounds of 1000 FLOP/s.
    found, _ = kept
    assert found.seconds == pytest.approx(2 * 2 * found.plan.flops / 3 / 1e3)
    assert found.plan.data == 40_000 * 4 * (28 + 5 + 1 + 1 + 28 + 5 + 1 + 1 + 1)


def test_a_suite_trains_on_its_datasets_with_its_settings(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ogbench_data, "installed", lambda: True)
    for name, size in (("cube-single-play-v0.npz", 40_000), ("scene-play-v0.npz", 10_000)):
        np.savez_compressed(pair / name, actions=np.zeros((size, 1), np.int8))
    calls: list[list[str]] = []
    monkeypatch.setattr(compare.run, "main", lambda argv, donors: calls.append(argv) or 0)
    argv = [
        "compare",
        "--suite=pair",
        *SMALL,
        "--algo=fql",
        "--set=gamma=0.9",
        f"--workdir={pair / 'all'}",
    ]
    assert compare.main(argv) == 0
    assert [next(x for x in call if x.startswith("--dataset")) for call in calls] == [
        f"--dataset={name}" for row in PAIR for name in row.datasets
    ]
    assert not any("reward=sparse" in word for word in calls[0])
    fields = [word for word in calls[2] if word.startswith("--set")]
    own = ["--set=reward=sparse", "--set=gamma=0.5", "--set=alpha=7"]
    assert fields[:3] == own
    assert fields[-1] == "--set=gamma=0.9"  # the user's wins
    assert suite.settings("pair", "scene-play-singletask-task1-v0", "bc") == PAIR[1].settings

    (pair / "cube-single-play-v0.npz").unlink()  # not needed for the other half
    calls.clear()
    assert compare.main([*argv, "--dataset=scene-play"]) == 0
    assert [word for word in calls[0] if word.startswith("--set")] == fields
    assert len(calls) == len(PAIR[1].tasks)


def test_a_part_of_a_suite_is_named_by_data_or_by_task(pair: Path) -> None:
    last = PAIR[0].datasets[-1]
    assert suite.rows("pair", [last]) == (PAIR[0]._replace(tasks=PAIR[0].tasks[-1:]),)
    assert suite.rows("pair", ["cube-single-play-v0", last]) == PAIR[:1]
    assert suite.rows("pair", ["cube-single-play-singletask-v0"])[0].datasets == (last,)  # task 2
    assert suite.rows("pair") == PAIR


def test_a_suite_starts_with_all_its_data_and_its_package(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ogbench_data, "installed", lambda: True)
    np.savez_compressed(pair / "scene-play-v0.npz", actions=np.zeros((10_000, 1), np.int8))
    (pair / "cube-single-play-v0").mkdir()  # an empty folder
    with pytest.raises(ConfigError, match=r"1 of 2 .*\(cube-single-play-v0\).* 0 of 40,000"):
        suite.check_here("pair")
    whole = (pair / "scene-play-v0.npz").read_bytes()
    (pair / "scene-play-v0.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="2 of 2"):
        suite.check_here("pair")
    monkeypatch.setattr(ogbench_data, "installed", lambda: False)
    with pytest.raises(ConfigError, match="pair needs the package ogbench: pip install"):
        suite.check_here("pair")


def test_idle_devices_are_told() -> None:
    assert "8 device(s) that sustain 20 TFLOP/s each, of which 3 are used" in suite.caption(
        3, 8, 2e13
    )
    assert "of which" not in suite.caption(3, 3, 2e13)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--suite=pair"],
            "2 of 2 datasets are missing or incomplete (cube-single-play-v0, scene-play-v0).",
        ),
        (["--suite=nothing"], "suite"),
        (
            ["--suite=pair", "--dataset=x"],
            "no dataset of pair 'x'. Valid: cube-single-play, scene-play; or",
        ),
        (["--suite=pair", "--dataset=scene-play"], "1 of 1 datasets are missing"),
        (["--suite=pair", "--dataset="], "--dataset is empty"),
        (["--dry_run"], "--dry_run needs --suite; jaxrl-prefs plan"),
        (["--devices=2"], "--devices needs --dry_run"),
        (["--suite=pair", "--rate=2"], "--rate needs --dry_run"),
    ],
)
def test_what_is_wrong_with_a_suite(
    words: list[str],
    message: str,
    pair: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ogbench_data, "installed", lambda: True)
    assert compare.main(["compare", *SMALL, *words]) == commandline.WRONG_USE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
