"""Training from Python: the same runs as the command line makes, and what a Run gives back."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import run as command_line
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.errors import in_python
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.runs import prepare
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.recorder import Recorder
from tests.small_runs import SHORT

FIELDS: dict[str, Any] = {
    "actor_hidden": (8,),
    "critic_hidden": [8],  # a list will do
    "batch_size": np.int64(16),
    "train_steps": 4.0,
    "log_every": 2,
    "eval_episodes": 1,
}


@pytest.fixture(scope="module")
def data(pendulum_file: Path) -> Dataset:
    return jp.load_dataset(pendulum_file, env="Pendulum-v1")


@pytest.fixture(scope="module")
def kept(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> jp.Run:
    """A run of two seeds in a folder."""
    workdir = tmp_path_factory.mktemp("kept") / "run"
    return jp.train("td3_bc", data, seeds=2, workdir=workdir, **FIELDS)


def files(folder: Path) -> dict[str, str]:
    """What a run says of its numbers."""
    names = ("metrics.jsonl", "evaluations.jsonl")
    return {name: (folder / name).read_text() for name in names}


def test_it_makes_the_run_that_the_command_makes(
    kept: jp.Run, pendulum_file: Path, tmp_path: Path
) -> None:
    assert kept.workdir is not None
    argv = ["run", "--algo=td3_bc", f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2"]
    argv += [f"--workdir={tmp_path / 'run'}", *(f"--set={k}={v}" for k, v in SHORT.items())]
    assert command_line.main(argv) == 0
    assert files(tmp_path / "run") == files(kept.workdir)
    mine, theirs = (
        json.loads((folder / "config.json").read_text())
        for folder in (kept.workdir, tmp_path / "run")
    )
    # A dataset in memory keeps its own environment, which the command was told.
    assert {**mine["run"], "env": "Pendulum-v1"} == theirs["run"]
    assert all(mine[key] == theirs[key] for key in ("method", "data", "release", "steps"))
    # What the command made, Python finds finished.
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    run = jp.train(
        td3_bc, str(pendulum_file), env="Pendulum-v1", seeds=2, workdir=tmp_path / "run", **FIELDS
    )
    assert run.scores == kept.scores
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on(
    kept: jp.Run, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, fields = tmp_path / "run", FIELDS | {"checkpoint_every": 2}
    record = Recorder.record

    def once(self: Recorder, step: Any) -> None:
        if step.before >= 2:
            raise KeyboardInterrupt
        record(self, step)

    monkeypatch.setattr(Recorder, "record", once)
    with pytest.raises(KeyboardInterrupt):
        jp.train("td3_bc", data, seeds=2, workdir=workdir, **fields)
    assert jp.load_run(workdir).scores == {}  # trained and saved, but not evaluated
    monkeypatch.undo()
    run = jp.train("td3_bc", data, seeds=2, workdir=workdir, **fields)
    assert run.step == 4 and run.scores == kept.scores


def test_without_a_workdir_nothing_stays(
    kept: jp.Run,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = jp.train("td3_bc", data, seeds=[0, 1], **FIELDS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here"]
    assert capfd.readouterr() == ("", "")  # quiet where there is no terminal
    assert run.workdir is None and run.scores == kept.scores
    observation = np.ones((2, 3))
    expected = kept.policy(seed=1)(observation)
    np.testing.assert_array_equal(run.policy(seed=1)(observation), expected)
    assert "seed" in run.table() and "mean" in run.table()
    run.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_run_shows(kept: jp.Run) -> None:
    assert list(kept.scores) == ["actor"] and list(kept.scores["actor"]) == [0, 1]
    rows = [json.loads(x) for x in (kept.workdir / "evaluations.jsonl").read_text().splitlines()]
    assert kept.scores["actor"][1] == [row["score"] for row in rows if row["seed"] == 1][-1]
    text = repr(kept)
    assert len(text.splitlines()) <= 5 and len(text) < 500
    assert "td3_bc" in text and "seeds 0, 1" in text and str(kept.workdir) in text
    assert f"{kept.scores['actor'][0]:.1f}" in kept.table()
    assert kept.config.train_steps == 4 and kept.points == [{}] and kept.seeds == (0, 1)
    assert len(repr(kept.policy(0))) < 100
    whole = kept.export(0, path=kept.workdir / "policy.jaxexport")
    assert (kept.workdir / "policy.jaxexport").read_bytes() == bytes(whole.serialize())


class Short(gymnasium.wrappers.TimeLimit):
    """Pendulum of seven steps."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("Pendulum-v1").unwrapped, 7)


def test_environments(data: Dataset, tmp_path: Path) -> None:
    run = jp.train("bc", data, seeds=1, env=None, workdir=tmp_path / "none", **_bc())
    assert run.scores == {} and "not evaluated" in repr(run) and "not evaluated" in run.table()
    run = jp.train("bc", data, seeds=1, env=Short, workdir=tmp_path / "own", **_bc())
    rows = (tmp_path / "own" / "evaluations.jsonl").read_text().splitlines()
    assert {length for row in rows for length in json.loads(row)["lengths"]} == {7}
    assert jp.evaluate(run, episodes=2).lengths["actor"][0].tolist() == [7, 7]
    about = json.loads((tmp_path / "own" / "config.json").read_text())
    assert about["run"]["env"] == about["data"]["env"] == f"{__name__}.Short"
    with pytest.raises(jp.DataError, match=r"cannot make the environment .*broken"):
        jp.train("bc", data, seeds=1, env=broken, **_bc())


def broken() -> gymnasium.Env:
    raise RuntimeError("no licence")


def _bc() -> dict[str, Any]:
    return {k: v for k, v in FIELDS.items() if k != "critic_hidden"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"method": "bdbo"}, jp.ConfigError, "no algorithm 'bdbo'. Did you mean 'bdpo'"),
        ({"method": "json"}, jp.ConfigError, "'json' is no method: it lacks Config, State, make"),
        ({"data": 3}, jp.ConfigError, "data takes a name, a path or a Dataset, and got int"),
        ({"data": "no/such-v0"}, jp.DataError, "no/such-v0"),
        ({"env": 3}, jp.ConfigError, "env takes an id, a function or None"),
        ({"env": "No-v0"}, jp.DataError, "No-v0"),
        ({"seeds": 0}, jp.ConfigError, "seeds=0 must name at least one seed"),
        ({"seeds": [1, 1]}, jp.ConfigError, r"seeds=\[1, 1\] must name"),
        ({"seeds": "3"}, jp.ConfigError, "seeds='3' must be a number of seeds, or a list"),
        ({"seeds": 1.5}, jp.ConfigError, "seeds=1.5 must be a number"),
        ({"algo": "bc"}, jp.ConfigError, "use the argument 'method'"),
        ({"eta": 1.0}, jp.ConfigError, "no field 'eta'"),
        ({"preset": "cpu", "data": "x"}, jp.ConfigError, "^preset=cpu has no settings of td3_bc"),
        ({"preset": "small"}, jp.ConfigError, "field 'preset' takes one of default, cpu"),
        ({"alpha": "2"}, jp.ConfigError, "field 'alpha' takes a float, and got '2'"),
        ({"alpha": True}, jp.ConfigError, "field 'alpha' takes a float, and got True"),
        ({"train_steps": 1.5}, jp.ConfigError, "field 'train_steps' takes an int, and got 1.5"),
        ({"actor_hidden": 8}, jp.ConfigError, "field 'actor_hidden' takes an int values"),
        ({"actor_decays": 1}, jp.ConfigError, "field 'actor_decays' takes true or false"),
        ({"mapping": "map"}, jp.ConfigError, "field 'mapping' takes one of auto, loop, vmap"),
        ({"eval_episodes": 0}, jp.ConfigError, "'eval_episodes' must be at least 1"),
        ({"batch_size": 0}, jp.ConfigError, "batch_size"),
    ],
)
def test_errors_speak_python(
    data: Dataset, call: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        jp.train(**{"method": "td3_bc", "data": data, "env": None, **call})
    assert "--" not in str(caught.value)


def test_a_folder_of_another_run_is_refused(kept: jp.Run, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(jp.WorkdirError) as caught:
        jp.train("td3_bc", data, seeds=1, workdir=kept.workdir, **FIELDS)
    assert "seeds: [0, 1] in the folder, [0] requested" in str(caught.value)
    assert "overwrite=True" in str(caught.value) and "--" not in str(caught.value)
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(jp.WorkdirError, match=f"workdir={tmp_path}"):
        jp.train("td3_bc", data, seeds=2, workdir=tmp_path, overwrite=True, **FIELDS)
    assert (tmp_path / "letters").exists()


def test_flags_are_restated() -> None:
    text = "Name the right environment (--env), or train with --env=none. --trust_env creates it"
    expected = "Name the right environment (env), or train with env=None. trust_env=True creates it"
    assert in_python(text) == expected
    assert in_python("--workdir=/tmp/a-b holds a run; -- and a-b stay") == (
        "workdir=/tmp/a-b holds a run; -- and a-b stay"
    )


def test_it_takes_the_devices_that_are_there(tmp_path: Path, pendulum_file: Path) -> None:
    """In a process that has used JAX before, on one device."""
    script = f"""
import jax
jax.config.update("jax_num_cpu_devices", 1)
(jax.numpy.zeros(3) + 1).block_until_ready()
import jaxrl_prefs as jp
run = jp.train("bc", {str(pendulum_file)!r}, seeds=1, env="Pendulum-v1", eval_episodes=1,
               train_steps=2, batch_size=4, actor_hidden=(4,), log_every=2)
assert jax.device_count() == 1
print(run)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("Run of bc on")


def test_the_command_and_python_take_one_path(
    monkeypatch: pytest.MonkeyPatch, data: Dataset
) -> None:
    calls: list[str] = []

    def train_in(choice: Any, *_: Any, **__: Any) -> None:
        calls.append(choice.algo)
        raise jp.ConfigError("enough")

    monkeypatch.setattr(prepare, "train_in", train_in)
    with pytest.raises(jp.ConfigError, match="enough"):
        jp.train("bc", data)
    assert command_line.main(["run", "--algo=bc"]) == 2
    assert calls == ["bc", "bc"]


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.rows: list[Any] = []
        self.closed = 0

    def start(self, folder: Path, config: dict[str, Any], step: int) -> None:
        self.started.append((config["run"]["algo"], step))

    def write(self, rows: list[Any]) -> None:
        self.rows += rows

    def close(self) -> None:
        self.closed += 1


def test_loggers_get_every_row(kept: jp.Run, data: Dataset) -> None:
    listener = Listener()
    jp.train("td3_bc", data, seeds=2, loggers=[listener], **FIELDS)
    assert listener.started == [("td3_bc", 0)] and listener.closed == 1
    assert kept.workdir is not None
    written = [json.loads(x) for text in files(kept.workdir).values() for x in text.splitlines()]
    assert sorted(map(str, listener.rows)) == sorted(map(str, written))


def test_a_precision_belongs_to_the_run(data: Dataset, tmp_path: Path) -> None:
    """It is recorded, a loaded policy has it, and a folder cannot go on with another."""
    own = {name: value for name, value in FIELDS.items() if name != "critic_hidden"}
    fields = own | {"actor_hidden": (8, 8), "workdir": tmp_path, "seeds": 1, "env": None}
    seen = np.float32([[1, 0, 0.5]])
    half = jp.train("bc", data, precision="bfloat16", **fields)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["run"]["precision"] == about["versions"]["precision"] == "bfloat16"
    loaded = jp.load_run(tmp_path).policy(seed=0)(seen)
    np.testing.assert_array_equal(loaded, half.policy(seed=0)(seen))
    with pytest.raises(jp.WorkdirError, match="precision: 'bfloat16' in the folder, 'float32'"):
        jp.train("bc", data, **fields)
    whole = jp.train("bc", data, **fields, overwrite=True).policy(seed=0)(seen)
    assert 0 < np.abs(whole - loaded).max() < 0.02


def test_points_share_what_reads_no_setting_at_every_precision(
    data: Dataset, tmp_path: Path
) -> None:
    """The precision wraps each point's method, not the phases in which points are told apart."""
    fields = [f"{name}=8" for name in ("actor_hidden", "critic_hidden", "batch_size")]
    for precision in ("float32", "bfloat16"):
        choice = Choice(
            "bdpo", "", "Pendulum-v1", (0,), (*fields, f"precision={precision}"), data=data
        )
        job, _ = prepare.prepare(choice, tmp_path, ({"eta": "0.1"}, {"eta": "1"}))
        identical = [getattr(phase.update, "identical", None) for phase in job.method.phases]
        assert identical == [True, False, False]
