"""Tables of finished runs: published numbers beside them, aggregates, the picture."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jaxrl_prefs.cli import commandline, pools, published_table, table
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import aggregate, published, published_ogbench, published_vd4rl, workdir
from jaxrl_prefs.runs.statistics import interval
from jaxrl_prefs.runs.suites import SUITES


def begin(
    folder: Path, dataset: str, *, algo: str = "bdpo", rows: int = 100, score: float = 40.0
) -> None:
    """Leaves what a run leaves at its start."""
    folder.mkdir(parents=True)
    about = {
        "run": {"algo": algo, "dataset": dataset, "seeds": [0, 1]},
        "data": {"rows": rows, "score": score, "score_kind": "normalised score"},
        "steps": 4000,
    }
    (folder / "config.json").write_text(json.dumps(about))


def entry(*scores: float) -> dict[str, Any]:
    mean = float(np.mean(scores))
    return {"scores": scores, "score_mean": mean, "score_ci": [min(scores), max(scores)]}


def finish(folder: Path, dataset: str, scores: list[float], **more: Any) -> None:
    """Leaves what a run leaves at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "algo": "bdpo",
        "dataset": dataset,
        "seeds": list(range(len(scores))),
        "headline": "actor",
        "scores": scores,
        "score_mean": float(np.mean(scores)) if scores else None,
        "score_ci": [min(scores), max(scores)] if scores else None,
        "policies": {"actor": {"scores": scores}, "other": {"scores": scores}} if scores else {},
        "score_kind": "normalised score",
        "data_score": 40.0,
    }
    (folder / "result.json").write_text(json.dumps(result | more))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    hopper, pen = "hopper-medium-v2", "pen-human-v0"
    finish(tmp_path / "hopper" / "bdpo", "downloads/hopper_medium-v2.hdf5", [90.0, 110.0])
    finish(tmp_path / "pen" / "bdpo", pen, [60.0, 70.0])
    finish(tmp_path / "hopper" / "arq", hopper, [50.0, 51.0])
    return tmp_path


@pytest.mark.parametrize(
    ("column", "prefix", "total"),
    [
        ("BDPO", "antmaze", 519.6),
        ("ARQ+s", "antmaze", 327),
        ("ARQ+s", "kitchen", 204),
        ("ARQ+s", "robomimic", 750),
        ("ARQ+pi", "antmaze", 416),
        ("ARQ+pi", "robomimic", 659),
        ("ARQ: s", "kitchen", 170),
        ("ARQ: s", "robomimic", 644),
        ("ARQ: Q^beta+s", "antmaze", 215),
        ("ARQ: Q^beta+s", "kitchen", 186),
    ],
)
def test_published_rows_add_up_to_the_published_sums(
    column: str, prefix: str, total: float
) -> None:
    scores = published.PUBLISHED[column].scores
    means = [mean for name, (mean, _) in scores.items() if name.startswith(prefix)]
    # Entries of ARQ's table are rounded to one, and so is the sum.
    tolerance = 0.05 if column == "BDPO" else 0.5 * len(means) ** 0.5
    assert sum(means) == pytest.approx(total, abs=tolerance)


def test_success_rates_have_no_score_of_the_data_and_are_pooled(tmp_path: Path) -> None:
    told = {"score_kind": "success rate", "data_score": None, "success_rates": [50.0, 20.0]}
    name = "cube-single-play-singletask-task1-v0"
    finish(tmp_path / "bdpo", name, [50.0, 20.0], **told)
    grid = table.collect([tmp_path])
    assert table.rows(grid) == [["dataset", "data", "bdpo"], [name, "", "35.0 (20.0 to 50.0)"]]
    assert f"{name},bdpo,1,20.0,success rate" in table.comma_separated(grid)
    parts = [{"scores": [x], "success_rates": [x]} for x in (50.0, 20.0)]
    joined = pools._entry(parts, [1, 0])
    assert joined["success_rates"] == joined["scores"] == [20.0, 50.0]
    assert joined["success_rate_mean"] == 35.0
    only_one = pools._entry([{**joined}, {"scores": [1.0]}], [0, 1, 2])
    assert not any(field.startswith("success") for field in only_one)


def test_single_tasks_of_ogbench_stand_beside_others_by_their_names(tmp_path: Path) -> None:
    told: dict[str, Any] = {"score_kind": "success rate", "data_score": None}
    file, env_id = "there/cube-double-play-v0.npz", "cube-double-singletask-v0"
    begin(tmp_path / "file/bdpo", file, rows=40_000)
    finish(tmp_path / "file/bdpo", file, [4.0], env=env_id, **told)
    other = env_id.replace("-v0", "-task1-v0")  # of the same file, by another method
    begin(tmp_path / "other/arq", file, rows=1_000_000)
    finish(tmp_path / "other/arq", file, [5.0], env=other, **told)
    begin(tmp_path / "large/iql", "puzzle-4x4-play-100m-singletask-task1-v0", rows=99_900_000)
    begin(tmp_path / "more/bdpo", "cube-double-play-100m-singletask-task3-v0", rows=100_000_000)
    large = "puzzle-4x4-play-100m-singletask-task1-v0"
    begin(tmp_path / "large/bdpo", large, rows=99_900_000)
    finish(tmp_path / "large/bdpo", large, [90.0], **told)
    grid = table.collect([tmp_path])
    (head, *rows), refused = published_table.printed(grid.datasets, grid.cells)
    assert refused == [] and {"BDPO (RQL)", "RQL", "FQL (QAM)", "QAM-E"} < set(head)
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    double = "cube-double-play-{}singletask-task{}-v0"
    marked = double.format("", 2) + " (here 40,000, there 1,000,000 transitions)"
    more = double.format("100m-", 3) + " (here 100,000,000, there 1,000,000 transitions)"
    means = {"cube-double-play: mean of 5 tasks", "puzzle-4x4-play: mean of 5 tasks"}
    assert set(cells) == {marked, large, more, double.format("", 1), *means}
    assert grid.cells[double.format("", 1), "arq"]["scores"] == [5.0]
    assert (cells[marked]["DSRL (QAM)"], cells[marked]["RQL"]) == ("87 ± 8.8", "")
    ours = {name: (x.algo, x.policy) for name, x in published.PUBLISHED.items() if x.algo}
    for name in ("FQL", "IFQL", "DAC", "ReBRAC"):
        assert ours[f"{name} (QAM)"] == (name.lower(), "actor")
    assert cells[large]["QAM-E"] == "84.8 ± 13.1"
    assert cells["puzzle-4x4-play: mean of 5 tasks"]["RQL"] == "37"
    (about,) = published_table.sources(["QAM"])
    assert "12 seeds, 1,000,000 updates" in about and "arXiv 2601.14234" in about


def test_what_was_recomputed_is_what_another_paper_prints() -> None:
    """RQL's table 1 repeats QAM's means in whole per cent; its column of QSM is another one."""
    printed = {  # the ten rows in the order of the suite
        "FQL": [76, 0, 68, 9, 78, 70, 5, 46, 3, 2],
        "ReBRAC": [94, 57, 69, 17, 65, 79, 0, 9, 1, 9],
        "DAC": [88, 16, 83, 0, 68, 68, 0, 35, 5, 3],
        "IFQL": [36, 1, 86, 24, 84, 100, 0, 11, 0, 2],
        "DSRL": [61, 3, 53, 3, 99, 87, 0, 74, 1, 2],
        "QAM": [81, 18, 67, 11, 97, 100, 0, 64, 3, 3],
        "QAM-E": [83, 1, 59, 2, 97, 100, 39, 65, 5, 6],
    }
    names = [row.published for row in SUITES["ogbench50"]]
    for method, means in printed.items():
        ours = published_ogbench.of_tasks(method)
        assert len(ours) == 60  # 50 tasks and ten means
        np.testing.assert_allclose([ours[name][0] for name in names], means, atol=0.55)
    whole = [published_ogbench.of_tasks(method) for method in ("ReBRAC", "QAM-E")]
    for scores, mean in zip(whole, (40.0, 45.7), strict=True):
        tasks = [score for name, (score, _) in scores.items() if "singletask" in name]
        assert np.mean(tasks) == pytest.approx(mean, abs=0.05)
    assert np.mean([rql for _, rql in published_ogbench.RQL.values()]) == pytest.approx(56, abs=0.5)


def test_published_scores_stand_beside_the_same_data_alone(tmp_path: Path) -> None:
    """A file's name is not enough: its size and its own score must be the published ones."""
    name = "downloads/hopper_medium-v2.hdf5"
    begin(tmp_path / "true" / "bdpo", name, rows=997_700, score=44.4)
    finish(tmp_path / "true" / "bdpo", name, [90.0], data_score=44.4)
    for folder, dataset, rows, score in (
        ("small", "mine/hopper_medium-v2.hdf5", 100_000, 44.4),
        ("other", "other/hopper_medium-v2.hdf5", 999_906, 48.2),
        ("pen", "pen-human-v0", 5_000, 90.0),
    ):
        begin(tmp_path / folder / "bdpo", dataset, rows=rows, score=score)
        finish(tmp_path / folder / "bdpo", dataset, [90.0], data_score=score)
    finish(tmp_path / "old" / "bdpo", "old/hopper_medium-v2.hdf5", [90.0], data_score=44.4)
    finish(tmp_path / "own" / "bdpo", "hopper/medium-v0", [90.0])
    grid = table.collect([tmp_path])
    rows, refused = published_table.printed(grid.datasets, grid.cells)
    columns = ["BDPO", "ARQ+s", "ARQ: s", "ARQ: Q^beta+s", "BPR", "Onestep BPR", "IQL", "TD3+BC"]
    assert rows[0] == ["dataset", *columns]
    assert [row[:2] for row in rows[1:]] == [[name, "100.6 ± 0.7"]]
    assert sorted(refused) == [
        "mine/hopper_medium-v2.hdf5: 100,000 transitions, and the published hopper-medium-v2 has "
        "999,906",
        "old/hopper_medium-v2.hdf5: the run does not say how many transitions it had",
        "other/hopper_medium-v2.hdf5: its own score is 48.2, and that of the published "
        "hopper-medium-v2 44.3",
        "pen-human-v0: the size and score of the published pen-human-v0 are not known here",
    ]


def test_v_d4rl_s_own_sets_alone_stand_beside_its_table(tmp_path: Path) -> None:
    """Folders and size tell them from sets that are made by its recipe and from altered ones."""
    own = "data/vd4rl_data/main/walker_walk/medium_replay/84px"
    sets = {
        "own": (own, 100_000),
        "single": (f"{own.replace('walker_walk', 'cheetah_run')}/shard_0.hdf5", 5_000),
        "renamed": ("mine/humanoid_walk/medium/64px", 20_000),
        "made": ("vd4rl/walker-walk-medium-replay-v0", 20_000),
        "full": ("vd4rl/walker-walk-medium-replay-full-v0", 100_000),
        "altered": ("vd4rl_data/distracting/walker_walk/expert/84px", 100_000),
    }
    for folder, (dataset, rows) in sets.items():
        begin(tmp_path / folder / "bpr", dataset, rows=rows)
        finish(tmp_path / folder / "bpr", dataset, [40.0])
    grid = table.collect([tmp_path])
    (head, *body), refused = published_table.printed(grid.datasets, grid.cells)
    ((name, *cells),) = body
    assert name == own
    assert dict(zip(head[1:], cells, strict=True)) == {
        "BPR": "45 ± 11.2",
        "BC (V-D4RL)": "16.5 ± 4.3",
        "DrQ+BC (V-D4RL)": "28.7 ± 6.9",
        "CQL (V-D4RL)": "11.4 ± 12.4",
        "Offline DV2 (V-D4RL)": "56.5 ± 18.1",
        "LOMPO (V-D4RL)": "34.7 ± 19.7",
        "ReBRAC (V-D4RL)": "41.6 ± 8",
    }
    assert sorted(refused) == [
        f"{sets['single'][0]}: 5,000 transitions, and the published "
        "vd4rl/main/cheetah_run/medium_replay has at least 100,000",
        f"{sets['renamed'][0]}: 20,000 transitions, and the published "
        "vd4rl/main/humanoid_walk/medium has at least 100,000",
    ]
    quoted, bpr = published_table.sources(["DrQ+BC (V-D4RL)", "BPR"])
    assert "arXiv 2206.04779" in quoted and "quoted by" in quoted and "seeds not stated" in quoted
    assert "arXiv 2503.00930" in bpr and "5 seeds" in bpr


def test_v_d4rl_s_columns_have_the_printed_averages() -> None:
    """The last row of the table that they are taken from: means over its 15 sets."""
    printed = {"BC": 30.3, "DrQ+BC": 30.4, "CQL": 21.9, "Offline DV2": 20.0, "LOMPO": 15.6}
    columns = {**published_vd4rl.BASELINES, "ReBRAC": published_vd4rl.REBRAC}
    for name, mean in {**printed, "ReBRAC": 35.5}.items():
        scores = [score for score, _ in columns[name].values()]
        assert 0 <= np.mean(scores) - mean + 1e-9 < 0.1  # decimals are cut, not rounded
    assert len(published_vd4rl.BPR) == 9
    assert published_vd4rl.BPR["vd4rl/main/cheetah_run/medium_expert"] == (62.7, 8.5)


def test_the_originals_agree_with_each_other() -> None:
    """A medium-expert file holds the two others; their scores lie between."""
    of = published.ORIGINALS
    assert (
        {name for name in of if "expert" not in name}
        | {
            f"{robot}-{quality}-v2"
            for robot in ("halfcheetah", "hopper", "walker2d")
            for quality in ("expert", "medium-expert")
        }
        == {*published.LOCOMOTION, *published.ARQ_LOCOMOTION}
        == set(of)
    )
    for robot in ("halfcheetah", "hopper", "walker2d"):
        medium, expert = of[f"{robot}-medium-v2"], of[f"{robot}-expert-v2"]
        both = of[f"{robot}-medium-expert-v2"]
        assert both.transitions == medium.transitions + expert.transitions
        assert medium.score < both.score < expert.score


def test_the_command_writes_text_figures_and_a_picture(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["table", str(runs), "--published"]) == 0
    shown = capsys.readouterr().out
    assert "what papers printed" in shown and "does not say how many transitions" in shown
    assert (runs / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "does not say how many" in (runs / "table.md").read_text()
    assert table.main(["table", "--help"]) == 0
    assert "--published" in capsys.readouterr().out


def test_a_run_that_is_not_finished_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "runs" / "bc", "x", [1.0, 2.0])
    begin(tmp_path / "iql-x", "x", algo="iql")
    workdir.Rows(tmp_path / "iql-x" / workdir.TIMINGS).append([{"step": 1200}])
    folders = [str(tmp_path / name) for name in ("runs", "iql-x", "empty")]
    assert table.main(["table", *folders, "--against=bc/actor", "--iqm", "--policies"]) == 0
    shown = capsys.readouterr().out
    assert "unfinished (1,200 of 4,000 updates)" in shown
    assert f"no run below {tmp_path / 'empty'}" in shown
    assert "iql" not in (tmp_path / "runs" / "table.csv").read_text()


def test_every_point_of_a_sweep_has_a_column(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    none = {"policies": {}, "algo": "td3_bc"}
    points = [
        {"settings": {"alpha": 2.5}, "policies": {"actor": entry(10.0, 12.0)}},
        {"settings": {"alpha": 40.0}, "policies": {"actor": entry(20.0, 24.0)}},
    ]
    together = tmp_path / "x" / "td3_bc" / "together"
    finish(together, "x", [], **none, points=points)
    finish(tmp_path / "x" / "bc" / "default", "x", [5.0, 6.0], algo="bc")
    finish(tmp_path / "x" / "bdpo" / "policy=gaussian", "x", [7.0, 8.0])
    grid = table.collect([tmp_path])
    assert table.rows(grid) == [
        ["dataset", "data", "bc", "bdpo+policy=gaussian", "td3_bc+alpha=2.5", "td3_bc+alpha=40"],
        [
            *("x", "40.0", "5.5 (5.0 to 6.0)", "7.5 (7.0 to 8.0)"),
            *("11.0 (10.0 to 12.0)", "22.0 (20.0 to 24.0)"),
        ],
    ]
    assert table.rows(grid, "td3_bc+alpha=2.5")[1][-1] == "+11.0 (+10.0 to +12.0)"
    assert table.collect([together]).columns == grid.columns[2:]


def test_runs_in_their_usual_folders_stand_below_their_method(tmp_path: Path) -> None:
    finish(tmp_path / "bdpo-hopper-medium-v2", "hopper-medium-v2", [90.0])
    finish(tmp_path / "bdpo-pen-human-v0", "pen/human-v0", [60.0])
    finish(tmp_path / "wider", "pen/human-v0", [61.0])
    grid = table.collect([tmp_path])
    assert grid.columns == ("bdpo", "wider")
    assert set(grid.cells) == {
        ("hopper-medium-v2", "bdpo"),
        ("pen/human-v0", "bdpo"),
        ("pen/human-v0", "wider"),
    }


def test_the_last_evaluations_of_the_last_phase_are_averaged_by_seed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    finish(folder, "a", [8.0, 9.0])
    played = {"before": [(100, 1.0)], "train": [(200, 3.0), (300, 5.0), (400, 8.0)]}
    rows = [
        {
            "step": step,
            "phase": phase,
            "policy": policy,
            "seed": seed,
            "score": score + seed + 100 * (policy == "other"),
        }
        for phase, evaluations in played.items()
        for step, score in evaluations
        for policy in ("actor", "other")
        for seed in (0, 1)
    ]
    workdir.Rows(folder / workdir.EVALUATIONS).append(rows)
    grid = table.collect([tmp_path], last=2)
    assert grid.cells["a", "mine"]["scores"] == [6.5, 7.5]
    assert table.rows(grid)[1][2] == "7.0 (6.5 to 7.5)"
    assert table.collect([tmp_path]).cells["a", "mine"]["scores"] == [8.0, 9.0]
    with pytest.raises(ConfigError, match="3 evaluations in its last phase, 4 asked"):
        table.collect([tmp_path], last=4)
    both = table.by_policy(grid)
    assert both.columns == ("mine/actor", "mine/other")
    assert table.rows(both)[1][2:] == ["7.0 (6.5 to 7.5)", "107.0 (106.5 to 107.5)"]
    assert table.rows(both, "mine/actor")[1] == ["a", "+100.0 (+100.0 to +100.0)"]
    # A policy that is played at the end alone has no mean of two.
    kept = [row for row in rows if row["policy"] == "actor" or row["step"] == 400]
    (folder / workdir.EVALUATIONS).unlink()
    workdir.Rows(folder / workdir.EVALUATIONS).append(kept)
    assert table.by_policy(table.collect([tmp_path], last=2)).columns == ("mine",)


def test_one_policy_needs_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path / "x" / "mine", "x", [1.0, 2.0])
    finish(tmp_path / "y" / "mine", "y", [])
    path = tmp_path / "x" / "bc" / "result.json"
    finish(path.parent, "x", [3.0, 4.0])
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"policies": {"actor": {"scores": [3.0, 4.0]}}}))
    grid = table.by_policy(table.collect([tmp_path]))
    assert grid.columns == ("bc", "mine/actor", "mine/other", "mine")
    assert table.rows(grid)[2] == ["y", "40.0", "", "", "", "not evaluated"]
    assert table.main(["table", str(tmp_path), "--policies", "--against=mine/other"]) == 0
    assert "seed by seed, less mine/other" in capsys.readouterr().out


def test_the_interquartile_mean_leaves_out_the_outer_quarters(tmp_path: Path) -> None:
    scores = np.array([[0.0, 10.0], [20.0, 30.0], [40.0, 50.0], [60.0, 1000.0]])
    mean, low, high = aggregate.iqm({"mine": scores}, draws=200)["mine"]
    assert mean == 35.0  # of 20, 30, 40 and 50
    assert low < mean < high
    constant = np.array([[1.0, 5.0]] * 3)  # nothing to draw within a dataset
    assert aggregate.iqm({"mine": constant}, draws=50)["mine"] == (3.0, 3.0, 3.0)


def test_aggregates_take_columns_with_all_datasets(tmp_path: Path) -> None:
    for dataset, shift in (("a", 0.0), ("b", 10.0)):
        finish(tmp_path / dataset / "whole", dataset, [1.0 + shift, 2.0 + shift])
    finish(tmp_path / "a" / "part", "a", [1.0, 2.0])
    grid = table.collect([tmp_path])
    assert set(table.matrices(grid)) == {"whole"}
    np.testing.assert_array_equal(table.matrices(grid)["whole"], [[1, 11], [2, 12]])
    (shown,) = table.extras(grid, iqm=True)
    assert [row[0] for row in shown.rows] == ["column", "whole"]


def test_a_table_without_rows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path / "one" / "bc", "toy/set-v0", [1.0])
    assert table.main(["table", str(tmp_path), "--published"]) == 0
    assert "nothing to show of these runs: what papers printed" in capsys.readouterr().out


def test_without_rliable_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    with pytest.raises(ConfigError, match=r"jaxrl_prefs\[aggregate\]"):
        aggregate.iqm({"mine": np.ones((2, 2))})


def test_nothing_to_show_is_wrong_use(tmp_path: Path) -> None:
    assert table.main(["table", str(tmp_path), "--iqm"]) == commandline.WRONG_USE


@pytest.mark.parametrize(("width", "heads"), [(80, 1), (40, 2)])
def test_a_table_wider_than_the_terminal_goes_on_below_and_never_turns(
    tmp_path: Path, width: int, heads: int
) -> None:
    finish(tmp_path / "bc", "mine", [1.0, 3.0])
    finish(tmp_path / "iql", "mine", [5.0, 7.0])
    screen = io.StringIO()
    terminal = Console(file=screen, width=width, force_terminal=True, no_color=True)
    table.publish(table.collect([tmp_path]), tmp_path, terminal)
    shown = screen.getvalue()
    assert shown.count("dataset") == shown.count("│ mine") == heads
    assert shown.count("2.0 (1.0 to 3.0)") == shown.count("6.0 (5.0 to 7.0)") == 1
    assert "| dataset | data | bc | iql |" in (tmp_path / "table.md").read_text()


def seeds_of(folder: Path, seeds: list[int], scores: list[float], **fields: Any) -> None:
    """Leaves a finished run of these seeds, with its config."""
    data = {"sha256": "1f", "env": "", "score_kind": "normalised score", "rows": 3, "score": 40.0}
    run = {"algo": "bc", "dataset": "x", "seeds": seeds, "eval_episodes": 10, "log_every": seeds[0]}
    policies = {"actor": entry(*scores) | {"returns": scores}}
    finish(folder, "x", scores, algo="bc", seeds=seeds, policies=policies, returns=scores)
    about = {"run": run, "method": {"alpha": 1.0} | fields, "data": data, "steps": 4}
    (folder / "config.json").write_text(json.dumps(about))


def test_runs_of_the_same_settings_are_pooled_over_their_seeds(tmp_path: Path) -> None:
    """Known answer: the pool of two halves is the run of all seeds, in the order of the seeds."""
    seeds_of(tmp_path / "here" / "bc", [1, 3], [10.0, 30.0])
    seeds_of(tmp_path / "there" / "bc", [0, 2], [0.0, 20.0])
    seeds_of(tmp_path / "whole" / "bc", [0, 1, 2, 3], [0.0, 10.0, 20.0, 30.0])
    pool = table.collect([tmp_path / "here", tmp_path / "there"])
    whole = table.collect([tmp_path / "whole"])
    mine, theirs = pool.cells["x", "bc"], whole.cells["x", "bc"]
    assert mine["seeds"] == theirs["seeds"] and mine["scores"] == list(theirs["scores"])
    assert mine["policies"]["actor"]["returns"] == [0.0, 10.0, 20.0, 30.0]
    assert mine["score_mean"] == 15.0 and mine["score_ci"] == interval([0.0, 10.0, 20.0, 30.0])
    # Other settings are another column, or two runs of one name; a seed twice is no pool.
    seeds_of(tmp_path / "other" / "bc", [4], [9.0], alpha=2.0)
    with pytest.raises(ConfigError, match=r"two runs called 'bc' on x.*which differ in alpha"):
        table.collect([tmp_path / "here", tmp_path / "other"])
    with pytest.raises(ConfigError, match="which both have seed 1, 3"):
        table.collect([tmp_path / "here", tmp_path / "whole"])
    seeds_of(tmp_path / "more" / "bc-again", [7], [70.0])
    assert table.collect([tmp_path / "here", tmp_path / "more"]).columns == ("bc, bc-again",)


def test_an_unfinished_run_beside_a_finished_one_and_seeds_that_are_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds_of(tmp_path / "a" / "bc", [0, 1], [1.0, 2.0])
    begin(tmp_path / "b" / "bc", "x", algo="bc")
    begin(tmp_path / "a" / "bc" / workdir.ADDED, "x", algo="bc")
    argv = ["table", str(tmp_path / "a"), str(tmp_path / "b"), f"--out={tmp_path / 'out'}"]
    assert table.main(argv) == 0
    shown = capsys.readouterr().out
    assert "unfinished (0 of 4,000 updates)" in shown and "1.5 (" in shown
    assert "seeds 0, 1 are being added (0 of 4,000 updates)" in shown
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == [
        *("table.csv", "table.md", "table.png")
    ]
    assert not list((tmp_path / "a").glob("table.*"))
