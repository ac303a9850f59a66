"""Runs that start after a phase of another run: the same numbers, one training fewer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import compare
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.methods import bdpo, one_step
from jaxrl_prefs.testing import episodes
from jaxrl_prefs.training import comparison
from jaxrl_prefs.types import Spec
from tests.small_runs import made_once

FIELDS: dict[str, Any] = {
    "actor_hidden": (8,),
    "critic_hidden": (8,),
    "batch_size": 16,
    "pretrain_steps": 4,
    "train_steps": 4,
    "log_every": 2,
    "eval_episodes": 1,
}
MAKE = one_step.make
SPEC = Spec.of(episodes(32, 8, 3, 2))


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """One is compiled for each setting, and not for each run."""
    with made_once(one_step, pretrain_steps=4, train_steps=4):
        yield


@pytest.fixture(scope="module")
def data(pendulum_file: Path) -> Dataset:
    return jp.load_dataset(pendulum_file, env="Pendulum-v1")


@pytest.fixture(scope="module")
def compared(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings of one-step RL, whose critic is the same; the second takes it from the first."""
    folder = tmp_path_factory.mktemp("compared")
    settings = [f"--set={name}={str(x).strip('(),')}" for name, x in FIELDS.items()]
    argv = ["compare", "--algo=one_step,one_step+alpha=9", f"--dataset={pendulum_file}"]
    argv += ["--env=Pendulum-v1", "--seeds=2", f"--workdir={folder}", *settings]
    assert compare.main(argv) == 0
    (place,) = {path.parent.parent for path in folder.rglob("result.json")}
    return place


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_comparison_trains_a_common_phase_once_with_the_same_scores(
    data: Dataset, compared: Path, tmp_path: Path
) -> None:
    first, second = compared / "one_step", compared / "one_step+alpha=9"
    told = json.loads((second / "result.json").read_text())["init"]
    assert told["phase"] == "critic" and told["run"] == str(first)
    assert {row["phase"] for row in rows(first, "metrics.jsonl")} == {"critic", "train"}
    assert len(rows(first, "timings.jsonl")) == 4 and len(rows(second, "timings.jsonl")) == 3
    assert "init" not in json.loads((first / "result.json").read_text())
    # A run that trains all by itself.
    alone = jp.train("one_step", data, seeds=2, workdir=tmp_path / "run", alpha=9.0, **FIELDS)
    name = "evaluations.jsonl"
    assert (tmp_path / "run" / name).read_bytes() == (second / name).read_bytes()
    jax.tree.map(np.testing.assert_array_equal, alone.state, jp.load_run(second).state)
    trained = [
        [row for row in rows(folder, "metrics.jsonl") if row["phase"] == "train"]
        for folder in (tmp_path / "run", second)
    ]
    assert trained[0] == trained[1]


def test_a_run_begins_with_the_critic_of_another(
    data: Dataset, compared: Path, tmp_path: Path
) -> None:
    """Of another number of updates, which the user has chosen to take."""
    fields = FIELDS | {"pretrain_steps": 2, "alpha": 9.0}
    source = tmp_path / "source"
    shutil.copytree(compared / "one_step", source)
    run = jp.train(
        "one_step", data, seeds=[1, 0], workdir=tmp_path / "run", init=f"{source}:critic", **fields
    )
    expected = jp.load_run(source).state.critic
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_array_equal(mine, theirs[::-1]),
        run.state.critic,
        expected,
    )
    about = json.loads((tmp_path / "run" / "config.json").read_text())["init"]
    assert about["run"] == f"{source}:critic" and list(about["sha256"]) == ["1", "0"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["init"] == about
    # Without it, it is another run; with the source gone, it is still this one.
    with pytest.raises(
        jp.WorkdirError, match=r"init: .*source:critic' in the folder, 'nothing' requested"
    ):
        jp.train("one_step", data, seeds=[1, 0], workdir=tmp_path / "run", **fields)
    shutil.rmtree(source)
    again = jp.train(
        "one_step", data, seeds=[1, 0], workdir=tmp_path / "run", init=f"{source}:critic", **fields
    )
    assert again.scores == run.scores


@pytest.mark.parametrize(
    ("method", "seeds", "init", "more", "message"),
    [
        ("one_step", 2, "nowhere", {}, "init=.*nowhere: there is no run in .*nowhere"),
        (
            "one_step",
            2,
            "one_step:train",
            {},
            "phase 'train' of one_step stores no state.*these do: critic",
        ),
        ("one_step", 2, "one_step:actor", {}, "phase 'actor' of one_step stores no state"),
        ("td3_bc", 2, "one_step", {"pretrain_steps": None}, "no phase of td3_bc stores a state"),
        ("bdpo", 2, "one_step", {}, "a run of one_step, whose phase 'behavior' differs"),
        ("one_step", 2, "one_step", {"critic_hidden": (4,)}, "that run has other sizes.*critic"),
        ("one_step", 3, "one_step", {}, "that run has no seed 2; it has 0, 1"),
        ("one_step", 2, "one_step", {"gamma": 0.5}, r"same data, processed differently \(gamma\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    data: Dataset,
    compared: Path,
    tmp_path: Path,
    method: str,
    seeds: int,
    init: str,
    more: dict[str, Any],
    message: str,
) -> None:
    fields = {name: x for name, x in (FIELDS | more).items() if x is not None}
    fields |= {"warmup_steps": 1} if method == "bdpo" else {}
    with pytest.raises(jp.ConfigError, match=message):
        jp.train(
            method, data, seeds=seeds, workdir=tmp_path / "run", init=compared / init, **fields
        )
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_that_kept_nothing_is_named(data: Dataset, compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared / "one_step", tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "phases")
    with pytest.raises(jp.ConfigError, match="has kept no state of phase 'critic'"):
        jp.train(
            "one_step", data, seeds=2, workdir=tmp_path / "run", init=tmp_path / "old", **FIELDS
        )


@pytest.mark.parametrize(
    ("text", "missing"), [("nonsense", "run.algo"), ("[]", "run.algo"), ("", "data.name")]
)
def test_a_damaged_run_is_named(
    data: Dataset, compared: Path, tmp_path: Path, text: str, missing: str
) -> None:
    path = tmp_path / "old" / "config.json"
    path.parent.mkdir()
    about = json.loads((compared / "one_step" / "config.json").read_text())
    path.write_text(text or json.dumps({k: x for k, x in about.items() if k != "data"}))
    with pytest.raises(jp.ConfigError, match=f"init=.*config.json is damaged: .* {missing}"):
        jp.train("one_step", data, seeds=2, workdir=tmp_path / "a", init=path.parent, **FIELDS)


def digest(make: Any, config: Any, index: int = 0) -> str:
    return comparison.phase_digest(make(config, SPEC), index, SPEC)


def test_a_phase_is_the_same_where_no_setting_that_it_reads_differs() -> None:
    sizes: dict[str, Any] = {"actor_hidden": (4,), "critic_hidden": (4,), "batch_size": 8}

    def of(**fields: Any) -> str:
        return digest(MAKE, one_step.Config(**sizes | fields))

    base = of()
    assert base == of(alpha=9.0, train_steps=3) == of(actor_hidden=(5,)) != ""
    others = [{"pretrain_steps": 3}, {"critic_learning_rate": 1e-3}, {"critic_hidden": (5,)}]
    assert base not in [of(**other) for other in others]


def test_of_bdpo_the_behaviour_is_shared_between_etas_and_the_critic_is_not() -> None:
    sizes: dict[str, Any] = {"actor_hidden": (4,), "critic_hidden": (4,), "policy": "gaussian"}
    one, other = (bdpo.Config(**sizes, eta=eta, critic_ensemble_size=2) for eta in (0.1, 0.3))
    assert digest(bdpo.make, one) == digest(bdpo.make, other) != ""
    assert digest(bdpo.make, one, 1) != digest(bdpo.make, other, 1) != ""
