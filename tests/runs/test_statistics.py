from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxrl_prefs.runs import curves, statistics

NORMAL_97_5 = 1.959964
BOOTSTRAP_ERROR = 0.03  # of a 2.5 % quantile over 10,000 resamples, in standard errors of a mean


def row(step: int, policy: str, seed: int, returns: list[float]) -> dict[str, Any]:
    score = float(np.mean(returns)) / 10
    about = {"step": step, "policy": policy, "seed": seed, "candidates": 1, "rule": "the one"}
    return about | {"returns": returns, "score": score, "lengths": [1] * len(returns)}


ROWS = [
    *(row(10, name, seed, [0.0, 0.0]) for seed in (4, 7) for name in ("actor", "behavior")),
    row(20, "actor", 4, [100.0, 300.0]),
    row(20, "behavior", 4, [10.0, 10.0]),
    row(20, "actor", 7, [500.0, 700.0]),
    row(20, "behavior", 7, [30.0, 50.0]),
]
TIMINGS = [
    {"step": 5, "phase": "a", "updates": 5, "seconds": 9.0, "first": True, "evaluation_seconds": 0},
    {
        "step": 10,
        "phase": "a",
        "updates": 5,
        "seconds": 1.0,
        "first": False,
        "evaluation_seconds": 2,
    },
    {
        "step": 14,
        "phase": "a",
        "updates": 4,
        "seconds": 2.0,
        "first": False,
        "evaluation_seconds": 0,
    },
    {
        "step": 20,
        "phase": "b",
        "updates": 6,
        "seconds": 3.0,
        "first": True,
        "evaluation_seconds": 1,
    },
]
ABOUT = {
    "run": {"algo": "bdpo", "dataset": "toy/set-v0", "preset": "default", "seeds": [4, 7]},
    "data": {
        "env": "Toy-v0",
        "score_kind": "normalised score",
        "score": 3.25,
        "reference_source": "a test",
    },
    "versions": {"jax": "1"},
}


def test_the_interval_of_a_large_normal_sample_is_the_normal_one() -> None:
    sample = np.random.default_rng(3).normal(50, 8, 400)
    error = sample.std() / math.sqrt(len(sample))
    low, high = statistics.interval(list(sample))
    assert abs((sample.mean() - low) / error - NORMAL_97_5) < 3 * BOOTSTRAP_ERROR
    assert abs((high - sample.mean()) / error - NORMAL_97_5) < 3 * BOOTSTRAP_ERROR


def test_the_interval_of_two_values_is_their_range() -> None:
    # Both resampled values are the smaller one in a quarter of the resamples, more than 2.5 %.
    assert statistics.interval([3.0, 9.0]) == (3.0, 9.0)


def test_the_interval_of_five_values_is_the_exact_quantile() -> None:
    # All 5^5 resamples of {0, 0, 0, 0, 10}: the mean is 2 k with k ~ Binomial(5, 1/5);
    # P(k = 0) = .328 > .025 and P(k <= 2) = .942 < .975 < P(k <= 3) = .993.
    assert statistics.interval([0.0, 0.0, 10.0, 0.0, 0.0]) == (0.0, 6.0)


def test_one_seed_has_no_interval() -> None:
    assert statistics.interval([3.0]) is None
    assert statistics.spread(None) == "one seed"


def test_the_last_evaluation_counts() -> None:
    policies = statistics.summarise(ROWS)
    assert list(policies) == ["actor", "behavior"]
    assert policies["actor"]["scores"] == [20.0, 60.0]
    assert policies["actor"]["returns"] == [200.0, 600.0]
    assert policies["actor"]["score_mean"] == 40.0
    assert policies["actor"]["score_ci"] == (20.0, 60.0)
    assert policies["behavior"]["scores"] == [1.0, 4.0]
    assert policies["behavior"]["episodes"] == 2


def test_rates_leave_compilation_out_where_they_can() -> None:
    assert statistics.rates(TIMINGS) == {"a": 3.0, "b": 2.0}


def test_the_result_has_the_headline_policy_first() -> None:
    result = statistics.result(ABOUT, ROWS, TIMINGS)
    assert result["headline"] == "actor"
    assert (result["score_mean"], result["score_ci"]) == (40.0, (20.0, 60.0))
    assert result["seeds"] == [4, 7] and result["scores"] == [20.0, 60.0]
    assert result["wall_seconds"] == 18.0 and result["step"] == 20
    assert result["updates_per_second"] == {"a": 3.0, "b": 2.0}
    assert set(result["policies"]) == {"actor", "behavior"}


def test_a_run_without_an_environment_has_no_score() -> None:
    result = statistics.result(ABOUT, [], TIMINGS)
    assert result["score_mean"] is None and result["score_ci"] is None
    assert result["policies"] == {} and result["headline"] == ""


def test_the_table_shows_seeds_mean_interval_candidates_and_kind() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(statistics.table(statistics.result(ABOUT, ROWS, TIMINGS)))
    lines = console.export_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines
    ]
    for expected in (
        ["4", "20.0", "1.0"],
        ["7", "60.0", "4.0"],
        ["mean", "40.0", "2.5"],
        ["95 %", "20.0 to 60.0", "1.0 to 4.0"],
        ["", "1 candidate: the one", "1 candidate: the one"],
        ["seed", "2 episodes", "2 episodes"],
    ):
        assert expected in cells
    text = " ".join(lines)
    assert "normalised score (0-100)" in text and "the data itself: 3.2" in text
    assert "bdpo on toy/set-v0, evaluated in Toy-v0" in text
    assert "recorded with" not in text


def test_the_table_says_when_the_data_were_recorded_in_another_form() -> None:
    about = {**ABOUT, "recorded_with": ["reset_target=True"]}
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(statistics.table(statistics.result(about, ROWS, TIMINGS)))
    text = " ".join(console.export_text().split())
    assert "3.2, recorded with reset_target=True, so not comparable" in text


REACHED = {4: [True, True, False, False], 7: [True, True, True, True]}


def test_success_rates_stand_beside_other_scores() -> None:
    rows = [x | {"successes": REACHED[x["seed"]]} if x["policy"] == "actor" else x for x in ROWS]
    result = statistics.result(ABOUT, rows, TIMINGS)
    assert result["success_rates"] == [50.0, 100.0] and result["success_rate_mean"] == 75.0
    assert result["success_rate_ci"] == (50.0, 100.0)
    assert result["score_mean"] == 40.0  # as without them
    assert "success_rates" not in result["policies"]["behavior"]
    assert statistics.score_table(result)[-1] == ["success", "75 %", ""]
    assert statistics.score_table(statistics.result(ABOUT, ROWS, TIMINGS))[-1][0] == "95 %"
    late = [x | {"phase": "a"} for x in rows]
    late[4] |= {"successes": [False] * 4}  # the actor of seed 4, at the last evaluation
    found = statistics.last_evaluations(statistics.result(ABOUT, late, TIMINGS), late, 2)
    assert found["success_rates"] == [25.0, 100.0] == found["policies"]["actor"]["success_rates"]


def test_a_table_of_success_rates_names_them_and_no_data() -> None:
    data = ABOUT["data"] | {"score_kind": "success rate", "score": None}
    result = statistics.result(ABOUT | {"data": data}, ROWS, TIMINGS)
    assert statistics.caption(result).startswith("success rate in per cent")
    assert "the data" not in statistics.caption(result) and statistics.data_score(result) == ""
    assert statistics.data_score(result | {"data_score": 3.25}) == "3.2"


def test_curves_are_drawn(tmp_path: Path) -> None:
    metrics = [
        {"step": step, "phase": "a", "seed": seed, "metrics": {"loss": step + seed, "odd": None}}
        for step in (10, 20)
        for seed in (4, 7)
    ]
    path = tmp_path / "curves.png"
    curves.draw(path, ROWS, metrics)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_curves_of_a_run_without_scores_are_drawn(tmp_path: Path) -> None:
    curves.draw(tmp_path / "curves.png", [], [])
    assert (tmp_path / "curves.png").exists()
