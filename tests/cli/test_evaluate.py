"""Policies of runs without an environment: estimated, chosen, and measured on held-out episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs import data as datasets
from jaxrl_prefs.cli import commandline, compare, evaluate, sweep
from jaxrl_prefs.cli import run as run_command
from jaxrl_prefs.data import Dataset, Processing
from jaxrl_prefs.errors import ConfigError, DataError
from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.runs import off_policy_evaluation
from jaxrl_prefs.runs.evaluation_data import evaluation_data
from tests.small_runs import SHORT, record_pendulum

FIT = fqe.Config(critics=2, hidden=(8,), layer_norm=False, updates=20, batch_size=16)
COMMON = [f"--set={name}={value}" for name, value in SHORT.items() if name != "critic_hidden"]


@pytest.fixture(scope="module", autouse=True)
def small_fits() -> Iterator[None]:
    """Q functions of eight units and 20 updates, where nothing else is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(off_policy_evaluation, "DEFAULT", FIT)
        yield


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without an environment, whose actions lie within [-1, 1]."""
    path = tmp_path_factory.mktemp("data") / "box.hdf5"
    record_pendulum(path, scale=0.5)
    return path


@pytest.fixture(scope="module")
def words(box: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A comparison of two policies, with a fifth of the episodes held out."""
    return [
        "compare",
        "--algo=bc,bc+policy=gaussian",
        f"--dataset={box}",
        "--seeds=2",
        "--holdout=0.2",
        "--select=fqe",
        f"--workdir={tmp_path_factory.mktemp('all')}",
        *COMMON,
    ]


@pytest.fixture(scope="module")
def folder(words: list[str]) -> Path:
    assert compare.main(words) == 0
    (found,) = [Path(x.split("=", 1)[1]) for x in words if x.startswith("--workdir")]
    return found


def place(folder: Path, name: str) -> Path:
    (found,) = [x.parent for x in folder.rglob("config.json") if x.parent.name == name]
    return found


def test_a_comparison_shows_estimates_and_chooses(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    text = (folder / "table.md").read_text()
    assert "not evaluated" not in text
    row = next(line for line in text.splitlines() if line.startswith("| ") and "fqe" in line)
    assert row.count("fqe -") == 2  # rewards of the pendulum are negative
    (content,) = [json.loads(x.read_text()) for x in folder.rglob("estimates.json")]
    assert {group["settings"]["method"] for group in content["groups"]} == {
        "bc",
        "bc+policy=gaussian",
    }
    assert sum(group["certainty"] for group in content["groups"]) == pytest.approx(1)
    best = max(content["groups"], key=lambda group: group["value"])
    assert f"fqe chooses {best['settings']['method']}, policy actor (the best in" in text
    assert "an estimate is not a score" in text
    # A second time nothing is fitted, and the same is shown.
    monkeypatch.setattr(fqe, "fit", None)
    assert compare.main(words) == 0
    assert (folder / "table.md").read_text() == text
    assert "an estimate is not a score" in capsys.readouterr().out


def test_held_out_episodes_are_measured_and_not_trained_on(folder: Path, box: Path) -> None:
    path = place(folder, "bc")
    about = json.loads((path / "config.json").read_text())
    assert about["run"]["holdout"] == 0.2
    whole = datasets.prepare(datasets.load(box), Processing())
    parts = datasets.split(whole, 0.2)
    assert parts.held_out is not None
    assert about["data"]["rows"] == len(parts.transitions.reward) < len(whole.transitions.reward)
    run = jp.load_run(path)
    rows = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    metrics = [row["metrics"] for row in rows if row["seed"] == 1][-1]
    gap = run.policy(seed=1)(np.asarray(parts.held_out.observation)) - parts.held_out.action
    assert metrics["held_out_bc_error"] == pytest.approx(float(np.square(gap).mean()), rel=1e-4)
    assert metrics["bc_error"] != metrics["held_out_bc_error"]


def test_the_behaviour_itself_is_worth_the_return_of_the_data(
    folder: Path, box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All ratios of a policy to itself are 1: WIS is the mean discounted return, exactly."""
    run = jp.load_run(place(folder, "bc+policy=gaussian"))
    values = run.estimate(estimator="wis", behavior=run, gamma=0.9)
    data = datasets.load(box)
    returns = [float(x @ 0.9 ** np.arange(len(x))) for x in np.split(data.reward, 5)]
    (group,) = values.groups
    assert group.policy == "sample"
    assert values.recorded == pytest.approx((np.mean(returns), np.max(returns)), rel=1e-5)
    (own, other) = group.members
    assert own.value == pytest.approx(np.mean(returns), abs=3 * np.std(returns) / np.sqrt(200))
    assert own.effective == pytest.approx(5)
    assert other.effective is not None and other.effective <= 5
    low, high = group.interval
    assert low < np.mean(returns) < high
    words = [f"--run={run.workdir}", f"--behavior={run.workdir}", "--estimator=dr"]
    assert evaluate.main(["evaluate", *words]) == 0
    shown = capsys.readouterr().out
    assert "dr estimate" in shown and "an estimate is not a score" in shown
    assert json.loads((run.workdir / "estimates.json").read_text())["estimator"] == "dr"  # type: ignore[operator]


def test_a_sweep_shows_estimates(
    box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sweep", "--algo=bc", f"--dataset={box}", "--seeds=1", f"--workdir={tmp_path}"]
    argv += ["--grid=actor_learning_rate=0.001,0.1", "--select=fqe", *COMMON]
    assert sweep.main(argv) == 0
    shown = capsys.readouterr().out
    assert "fqe chooses bc+actor_learning_rate=0." in shown
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert all(point["estimates"]["actor"].startswith("fqe -") for point in content["points"])
    assert (tmp_path / "sweep.md").read_text().count("fqe -") == 2


def test_the_own_data_are_read_as_the_run_read_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every episode's cost is 100 + 100 discounted, and its reward 0."""
    path = tmp_path / "arm.csv"
    head = "episode,obs_0,obs_1,action_0,reward,cost,terminated"
    rows = [f"{e},{e},{t},{(e - t) / 8},0,100,{t}" for e in range(4) for t in range(2)]
    path.write_text("\n".join([head, *rows]) + "\n")
    words = ["run", "--algo=bc", f"--dataset={path}", "--seeds=1", f"--workdir={tmp_path / 'run'}"]
    hints = ["--reward_key=cost", "--action_low=-1", "--action_high=1"]
    assert run_command.main([*words, *hints, *COMMON]) == 0
    run = jp.load_run(tmp_path / "run")
    assert run.estimate(gamma=0.5).recorded == pytest.approx((150.0, 150.0))
    argv = ["evaluate", f"--run={tmp_path / 'run'}", f"--dataset={path}"]
    assert evaluate.main([*argv, *hints]) == 0  # the same flags for other data
    assert evaluate.main([*argv, "--reward_key=cost"]) == commandline.WRONG_USE
    assert "other bounds of actions" in capsys.readouterr().err
    # Another config without the hints, and a file that has changed since.
    config = tmp_path / "run" / "config.json"
    about = json.loads(config.read_text())
    assert about["hints"] == {"reward_key": "cost", "action_low": [-1.0], "action_high": [1.0]}
    path.write_text(path.read_text().replace(",100,", ",101,"))
    with pytest.raises(jp.DataError, match=r"arm.csv has changed since .*run was trained on it"):
        run.estimate()
    config.write_text(json.dumps({**about, "hints": 5}))
    with pytest.raises(jp.DataError, match=r"run is damaged.*hints"):
        jp.load_run(tmp_path / "run").estimate()


def test_data_without_rewards_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "arm.csv"
    rows = [f"{e},{t},{e},{t},0.{t}" for e in range(3) for t in range(3)]
    head = "episode,obs_0,obs_1,obs_2,action_0"
    path.write_text("\n".join([head, *rows]) + "\n")
    hints = ["--episode_ends=timeout", "--action_low=-1", "--action_high=1"]
    common = [f"--dataset={path}", *hints]
    for main, words in (
        (compare.main, ["compare", "--algo=bc"]),
        (sweep.main, ["sweep", "--algo=bc", "--grid=actor_learning_rate=0.1,0.2"]),
    ):
        words += ["--select=fqe", f"--workdir={tmp_path / 'runs'}"]
        assert main([*words, *common]) == commandline.WRONG_USE
        assert "has no rewards, by which policies are evaluated" in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()
    assert evaluate.main(["evaluate", f"--run={place(folder, 'bc')}", *common]) == 2
    assert "arm.csv" in capsys.readouterr().err


def test_what_has_no_density_is_said_to_be_impossible(folder: Path) -> None:
    run = jp.load_run(place(folder, "bc"))
    said: list[str] = []
    with pytest.raises(jp.ConfigError, match="needs a policy that draws from a density"):
        off_policy_evaluation.estimate(run._points, estimator="wis", say=said.append)
    assert not said
    with pytest.raises(jp.ConfigError, match="needs a policy that draws from a density"):
        run.estimate(estimator="wis", behavior=jp.load_run(place(folder, "bc+policy=gaussian")))
    with pytest.raises(jp.ConfigError, match="name its folder by behavior"):
        jp.load_run(place(folder, "bc+policy=gaussian")).estimate(estimator="dr")


def test_a_run_in_memory_is_evaluated_on_the_data_that_it_was_trained_on() -> None:
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observations": np.array([[0.0], [1.0], [2.0]]),  # the time
            "actions": rng.uniform(-1, 1, (2, 1)),
            "rewards": np.ones(2),
            "terminal": True,
        }
        for _ in range(40)
    ]
    data = Dataset.from_episodes(episodes, name="mine")
    run = jp.train("bc", data, seeds=2, actor_hidden=(8,), batch_size=16, train_steps=4)
    values = run.estimate(gamma=0.5, updates=400, learning_rate=0.01, tau=0.1)
    assert values.recorded == pytest.approx((1.5, 1.5))
    assert [each.value for each in values.values] == pytest.approx([1.5] * 2, abs=0.05)
    assert set(values.of("actor")) == {0, 1}
    assert "an estimate is not a score" in repr(values)


def test_sparse_rewards_are_estimated_where_they_were_trained_on() -> None:
    data = Dataset.from_arrays(
        np.zeros((4, 1)), np.zeros((4, 1)), [-3.0, 0.0, -2.0, 0.0], [0, 1, 0, 1]
    )
    found = [
        evaluation_data(data, False, 0.5, 0, fqe.Config(), sparse=sparse)
        for sparse in (False, True)
    ]
    assert [each.returns.tolist() for each in found] == [[-3.0, -2.0], [-1.0, -1.0]]

    def point(reward: str) -> SimpleNamespace:
        return SimpleNamespace(about={"run": {"reward": reward}})

    assert off_policy_evaluation._sparse([point("sparse")])
    assert not off_policy_evaluation._sparse([point("range"), point("affine")])
    with pytest.raises(ConfigError, match="some of the runs were trained with reward=sparse"):
        off_policy_evaluation._sparse([point("sparse"), point("affine")])


def test_other_data_and_wrong_names_are_refused(folder: Path) -> None:
    run = jp.load_run(place(folder, "bc"))
    episode = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)), "rewards": [0, 0, 1]}
    with pytest.raises(jp.DataError, match="has observations of 2 and actions of 1 dimensions"):
        run.estimate(Dataset.from_episodes([episode]))
    episode["observations"] = np.zeros((3, 3))
    with pytest.raises(jp.DataError, match="other bounds of actions than the data of bc"):
        run.estimate(Dataset.from_episodes([episode], action_low=-5.0, action_high=5.0))
    with pytest.raises(jp.ConfigError, match="no policy 'best'; bc has actor"):
        run.estimate(policies=["best"])
    with pytest.raises(jp.ConfigError, match="Did you mean 'updates'"):
        run.estimate(update=3)
    with pytest.raises(jp.ConfigError, match="no estimator 'magic'"):
        run.estimate(estimator="magic")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--run names the folder of a run"),
        (["--run=nowhere"], "nowhere does not exist"),
        (["--run=x", "--estimator=guess"], "estimator"),
        (["--run=x", "--fit=critics=1"], "must be at least 2"),
        (["--run=x", "--fit=updates=0"], "'updates' must be at least 1"),
        (["--run=x", "--reward_key=cost"], "--reward_key=cost is for --dataset"),
    ],
)
def test_wrong_use(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["evaluate", *argv]) == commandline.WRONG_USE
    assert message in capsys.readouterr().err


def test_a_selector_that_there_is_not(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*words, "--select=best"]) == commandline.WRONG_USE
    assert "--select takes fqe, and got 'best'" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["evaluate", "--help"]) == 0
    assert "critics=" in capsys.readouterr().out


def test_images_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--dataset={tmp_path / 'seen.npz'}", f"--workdir={tmp_path / 'runs'}"]
    np.savez(
        tmp_path / "seen.npz",
        observations=np.zeros((4, 16, 16, 1), np.uint8),
        actions=np.float32([[-1], [1], [0], [0]]),
        rewards=np.zeros(4, np.float32),
        terminals=np.zeros(4, bool),
        timeouts=np.eye(4, dtype=bool)[3],
    )
    assert compare.main(["compare", "--algo=bc", "--select=fqe", *words]) == 2
    assert "has images, from which no value is estimated" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    point = SimpleNamespace(algo="bc", spec=SimpleNamespace(images=("image",)))
    with pytest.raises(DataError, match="bc was trained on images, from which no value"):
        off_policy_evaluation.recording_of([point], "pendulum-mixed")
