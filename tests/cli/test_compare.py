"""Several methods on several datasets into one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jaxrl_prefs.cli import commandline, compare, table
from jaxrl_prefs.errors import ConfigError
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
    ],
)
def test_a_wrong_command_is_one_clear_line(
    argv: list[str], capsys: pytest.CaptureFixture[str], more: str, message: str
) -> None:
    assert compare.main([*argv, more]) == commandline.WRONG_USE
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
