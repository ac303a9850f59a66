"""What every figure keeps: titles, labels, reference lines, no band of two seeds, no pyplot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.cli import sweep
from jaxrl_prefs.runs import curves, figures, interval_plot, statistics

ROOT = Path(__file__).parents[2]
ABOUT = {
    "run": {"algo": "bdpo", "dataset": "hopper/medium-v0"},
    "data": {"score": 48.2, "score_kind": "normalised score"},
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is written while the test runs."""
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    return kept


def run(seeds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of evaluations and of metrics, of two phases."""
    evaluations, metrics = list[dict[str, Any]](), list[dict[str, Any]]()
    for phase, step in (("model", 10), ("train", 20), ("train", 30)):
        for seed in range(seeds):
            where = {"phase": phase, "step": step, "seed": seed}
            metrics.append(where | {"metrics": {"loss": 1.0 / step + seed, "odd": None}})
            played = {"score": step + seed, "returns": [1.0, 2.0]}
            evaluations += [where | {"policy": name} | played for name in ("actor", "behavior")]
    return evaluations, metrics


def bands(panel: Any) -> int:
    return len(panel.collections)


def dashed(panel: Any) -> set[float]:
    """Where horizontal lines are."""
    return {x.get_ydata()[0] for x in panel.lines if list(x.get_xdata()) == [0, 1]}


def test_curves_of_many_seeds_have_bands_and_references(drawn: list[Any]) -> None:
    curves.draw(Path("unused"), *run(5), ABOUT)
    score, loss = drawn[0].axes  # a metric without a number has no panel
    assert drawn[0].get_suptitle().startswith("bdpo on hopper/medium-v0, seeds 0 to 4\n")
    assert score.get_ylabel() == "normalised score (0-100), mean of 2 episodes"
    assert score.get_xlabel() == loss.get_xlabel() == "updates"
    assert {0, 48.2} <= dashed(score)
    assert (bands(score), bands(loss)) == (2, 1)
    labels = [text.get_text() for text in score.get_legend().get_texts()]
    assert labels == ["0", "the data: 48.2", "actor", "behavior"]
    areas = [np.prod(x.get_gridspec().get_height_ratios()[0]) for x in (score, loss)]
    assert areas[0] > curves.LOW
    assert "model" in [text.get_text() for text in score.texts]


def test_two_seeds_are_two_lines_without_a_band(drawn: list[Any]) -> None:
    curves.draw(Path("unused"), *run(2), ABOUT)
    score, loss = drawn[0].axes
    assert bands(score) == bands(loss) == 0
    assert sum(len(line.get_xdata()) == 3 for line in score.lines) == 4
    assert "a line for each seed" in drawn[0].get_suptitle()


def test_the_interval_plot_shows_the_seeds_where_there_are_two(drawn: list[Any]) -> None:
    cells = {("x", "bc"): [1.0, 3.0], ("x", "iql"): [2.0, 3.0, 4.0]}
    means = {cell: (float(np.mean(s)), statistics.interval(s)) for cell, s in cells.items()}
    more = {"scores": cells, "data_scores": {"x": 5.0}, "label": "raw return", "title": "two"}
    interval_plot.draw(Path("unused"), ["x"], ["bc", "iql"], means, **more)
    (panel,) = drawn[0].axes
    lines = {(line.get_marker(), tuple(line.get_xdata())) for line in panel.lines}
    assert ("|", (1.0, 3.0)) in lines and ("None", means["x", "iql"][1]) in lines
    assert ("None", (5.0, 5.0)) in lines and panel.get_xlabel() == "raw return"
    assert drawn[0].get_suptitle() == "two"


def test_a_sweep_is_drawn_as_points(drawn: list[Any]) -> None:
    found = []
    for value, scores in (("a", [1.0, 2.0, 3.0]), ("b", [4.0, 5.0, 6.0])):
        mean, interval = float(np.mean(scores)), statistics.interval(scores)
        entry = {"scores": scores, "score_mean": mean, "score_ci": interval}
        policies = {"actor": entry}
        found.append(sweep.Found("bc", "x", {"policy": value}, "raw return", policies, 2.5))
    sweep.draw(found, Path("unused"))
    (panel,) = drawn[0].axes
    assert {0, 2.5} <= dashed(panel)
    upright = [line for line in panel.lines if len(set(line.get_xdata())) == 1]
    assert len(upright) == 4  # two means, two intervals; nothing from one value to the next
    assert panel.get_title() == "bc on x" and panel.get_xlabel() == "policy"
    assert "over 3 seeds" in drawn[0].get_suptitle()


def test_colours_and_marks_differ() -> None:
    pairs = {(figures.colour(n), figures.marker(n)) for n in range(56)}
    assert len(pairs) == 56


def test_nothing_chooses_a_backend() -> None:
    for path in (ROOT / "jaxrl_prefs").rglob("*.py"):
        text = path.read_text()
        assert "pyplot" not in text and "matplotlib.use(" not in text, path


def test_a_notebooks_backend_breaks_no_picture(tmp_path: Path) -> None:
    source = (
        "from jaxrl_prefs.runs import figures\n"
        "from pathlib import Path\n"
        "figure = figures.new(2, 1)\n"
        f"figures.save(figure, Path({str(tmp_path / 'a.png')!r}))\n"
        "import os, sys\n"
        "assert os.environ['MPLBACKEND'] == 'module://not_installed.backend'\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    backend = {"MPLBACKEND": "module://not_installed.backend"}
    subprocess.run([sys.executable, "-c", source], env=os.environ | backend, check=True, cwd=ROOT)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
