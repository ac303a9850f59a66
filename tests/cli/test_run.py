"""The real `main`, from a command line to files, on a few updates."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl_prefs.training.loop
from jaxrl_prefs.cli import commandline, run
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import curves, prepare, workdir
from jaxrl_prefs.runs.load import load_run
from tests.small_runs import SHORT, TINY, record_pendulum

Command = Callable[..., list[str]]
Fails = Callable[..., str]
STEPS = int(TINY["pretrain_steps"]) + int(TINY["train_steps"])


def rows(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "run" / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(
    pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """A finished run: its command line and the folder that its folder is in."""
    path = tmp_path_factory.mktemp("finished")
    argv = [
        "run",
        f"--dataset={pendulum_file}",
        "--env=Pendulum-v1",
        "--seeds=3:5",
        f"--workdir={path / 'run'}",
        *(f"--set={name}={value}" for name, value in TINY.items()),
        f"--log={'tensorboard' if importlib.util.find_spec('tensorboardX') else ''}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "curves", curves)
        assert run.main(argv) == 0
    return argv, path


def test_a_run_leaves_its_files(finished: tuple[list[str], Path]) -> None:
    _, path = finished
    result = json.loads((path / "run" / "result.json").read_text())
    assert result["algo"] == "bdpo" and result["seeds"] == [3, 4]
    assert result["step"] == STEPS and result["env"] == "Pendulum-v1"
    assert set(result["policies"]) == {"actor", "behavior"} and result["headline"] == "actor"
    assert len(result["scores"]) == 2 and len(result["score_ci"]) == 2
    assert result["score_mean"] == pytest.approx(np.mean(result["scores"]))
    assert set(result["updates_per_second"]) == {"behavior", "critic", "train"}
    assert result["wall_seconds"] > 0 and result["versions"]["jax"] == jax.__version__
    about = json.loads((path / "run" / "config.json").read_text())
    assert about["method"]["actor_hidden"] == [8] and about["run"]["log_every"] == 2
    assert "git" in about["versions"] and about["data"]["rows"] > 100
    assert about["settings"].startswith("the method's defaults; other than its defaults: q_samp")
    assert (path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_written_at_every_tick_and_evaluation(finished: tuple[list[str], Path]) -> None:
    _, path = finished
    metrics, played = rows(path, "metrics.jsonl"), rows(path, "evaluations.jsonl")
    # Phases of 4, 3 and 5 updates; log points at even steps and at the ends of phases.
    assert [row["step"] for row in metrics[::2]] == [2, 4, 6, 7, 8, 10, 12]
    assert [row["seed"] for row in metrics[:4]] == [3, 4, 3, 4]
    assert {row["phase"] for row in metrics} == {"behavior", "critic", "train"}
    # Evaluations at the ends of phases, and in the last one after every fourth update.
    diagnosed = [row["step"] for row in metrics[::2] if "q_data" in row["metrics"]]
    assert sorted({row["step"] for row in played}) == diagnosed == [4, 7, 12]
    assert len(played) == 3 * 2 * 2
    assert all(len(row["returns"]) == 1 and row["lengths"] == [200] for row in played)
    timings = rows(path, "timings.jsonl")
    assert [row["step"] for row in timings] == [2, 4, 6, 7, 8, 10, 12]
    assert sum(row["updates"] for row in timings) == STEPS


def test_a_finished_run_is_reported_again(
    finished: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, path = finished
    before = {file: file.stat().st_mtime_ns for file in (path / "run").rglob("*") if file.is_file()}
    assert run.main(argv) == 0
    out = capsys.readouterr().out
    assert "is finished" in out and "argmax mean Q" in out and "mean" in out
    after = {file: file.stat().st_mtime_ns for file in (path / "run").rglob("*") if file.is_file()}
    after.pop(path / "run" / ".lock"), before.pop(path / "run" / ".lock")
    assert after == before


def test_another_config_is_refused_naming_the_fields(
    finished: tuple[list[str], Path], fails: Fails
) -> None:
    argv, _ = finished
    message = fails([*argv, "--set=eta=0.3", "--eval_every=5"])
    assert "eta: 0.05 in the folder, 0.3 requested" in message and "--overwrite" in message
    assert "rho" not in message and "eval_every" not in message  # how often is bookkeeping


def test_other_data_are_refused(
    finished: tuple[list[str], Path], fails: Fails, pendulum_file: Path
) -> None:
    argv, _ = finished
    original = pendulum_file.read_bytes()
    try:
        with h5py.File(pendulum_file, "r+") as file:
            file["rewards"][3] += 1
        assert "sha256" in fails(argv)
    finally:
        pendulum_file.write_bytes(original)


def test_one_policy_is_taken_out_of_the_run(finished: tuple[list[str], Path]) -> None:
    _, path = finished
    loaded = load_run(path / "run")
    policy = loaded.policy(seed=4)
    action = policy(np.float32([1, 0, 0]))
    assert loaded.step == STEPS and action.shape == (1,) and -2 <= action[0] <= 2


def test_an_interrupted_run_goes_on_to_the_same_end(
    finished: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv, path = finished
    argv = [*argv[:4], f"--workdir={tmp_path / 'run'}", *argv[5:]]
    original = jaxrl_prefs.training.loop.run

    def stopped(*args: Any, **kwargs: Any) -> Any:
        for log_point in original(*args, **kwargs):
            yield log_point
            if log_point.step == 8 and kwargs["every"] == 2:  # not while the time is estimated
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jaxrl_prefs.training.loop, "run", stopped)
        assert run.main(argv) == commandline.INTERRUPTED
    assert not (tmp_path / "run" / "result.json").exists()
    assert run.main(argv) == 0
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (path / "run" / name).read_bytes()
    one, two = (load_run(folder / "run").state for folder in (path, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_overwrite_starts_anew(
    finished: tuple[list[str], Path], tmp_path: Path, command: Command
) -> None:
    shutil.copytree(finished[1] / "run", tmp_path / "run")
    assert run.main(command("--overwrite", keep=1)) == 0
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert {row["seed"] for row in rows(tmp_path, "metrics.jsonl")} == {0, 1}


def test_data_without_an_environment_train_and_the_report_says_so(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "units.hdf5"
    record_pendulum(path, scale=0.5)  # without an environment, actions must lie in [-1, 1]
    assert run.main(command("--env=none", f"--dataset={path}")) == 0
    assert "not evaluated" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["score_mean"] is None and result["policies"] == {}
    assert rows(tmp_path, "evaluations.jsonl") == []
    assert load_run(tmp_path / "run").policy(0)(np.zeros(3)).shape == (1,)


def test_event_files_are_an_option(finished: tuple[list[str], Path]) -> None:
    pytest.importorskip("tensorboardX")
    written = b"".join(
        file.read_bytes() for file in (finished[1] / "run" / "tensorboard").iterdir()
    )
    for name in (b"behavior_loss/seed_3", b"q_data/seed_4", b"score/actor/seed_4"):
        assert name in written


def test_event_files_need_their_package(
    command: Command, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert "pip install tensorboardX" in fails(command("--log=tensorboard"))


def test_a_broken_seed_stops_the_run_and_keeps_the_last_good_checkpoint(
    command: Command, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = METHODS["bdpo"].make

    def make(config: Any, spec: Any) -> Method:
        method = original(config, spec)
        first = method.phases[0]

        def update(state: Any, batch: Any, key: Any, step: Any) -> tuple:
            state, metrics = first.update(state, batch, key, step)
            loss, count = metrics["behavior_loss"]
            return state, {"behavior_loss": (jnp.where(step == 3, jnp.nan, loss), count)}

        return method._replace(phases=(first._replace(update=update), *method.phases[1:]))

    monkeypatch.setattr(METHODS["bdpo"], "make", make)
    message = fails(command(), code=commandline.FAILED)
    for part in ("behavior_loss", "NaN", "seed 0", "'behavior'", "step 3", "checkpoint is kept"):
        assert part in message
    assert load_run(tmp_path / "run").step == 2
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--algo=bdqo"], "no algorithm 'bdqo'. Did you mean 'bdpo'?"),
        (
            ["--set=etta=1"],
            "no field 'etta'. Did you mean 'eta'? Valid: action_chunk, activation, actor_decays",
        ),
        (["--set=eta=big"], "field 'eta' takes a float, and got 'big'"),
        (["--set=eta"], "--set takes field=value, and got 'eta'"),
        (["--set=seeds=3"], "--seeds"),
        (["--seeds=none"], "--seeds takes a number of seeds"),
        (["--set=tensorboard=true"], "no field 'tensorboard': it is called 'log'"),
        (["--log=tensorbord"], "field 'log' takes tensorboard, wandb"),
        (["--eval_episodes=0"], "'eval_episodes' must be at least 1"),
        (["--eval_every=soon"], "field 'eval_every' takes an int, and got 'soon'"),
        (["--dataset=no/such-set-v0"], "no/such-set-v0"),
        (["--dataset=nosuch"], "unknown dataset 'nosuch'"),
        (["--dataset=absent.hdf5"], "absent.hdf5"),
        (["--env=NoSuch-v3"], "NoSuch"),
        (["--env=Hopper-v5"], "is another one"),
        (["--preset=cpu", "--dataset=my/x-v0"], "--preset=cpu has no settings of bdpo for my/x-v0"),
        (["--preset=tpu"], "field 'preset' takes one of default, cpu, and got 'tpu'"),
        (["--set=reward=odd"], "field 'reward' takes one of affine, range, sparse, and got 'odd'"),
        (["--set=policy=magic"], "magic"),
        (["--set=warmup_steps=99"], "warmup_steps (99)"),
        (["--set=pretrain_steps=0", "--set=train_steps=0", "--set=warmup_steps=0"], "0 steps"),
        (["--worckdir=x"], "no flag --worckdir. Did you mean --workdir?"),
        (["--eta=3"], "no flag --eta: fields of the run and of the method are set by --set=eta="),
        (["--overwrite=perhaps"], "overwrite"),
        (["eta=3"], "unexpected argument 'eta=3'"),
    ],
)
def test_wrong_use_is_one_clear_line(
    command: Command, fails: Fails, tmp_path: Path, more: list[str], message: str
) -> None:
    assert message in fails(command(*more))
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_folder_below_a_file_is_refused(command: Command, fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/run" in fails(command(f"--workdir={tmp_path / 'file' / 'run'}"))


def test_a_held_folder_is_refused(command: Command, fails: Fails, tmp_path: Path) -> None:
    with workdir.claim(tmp_path / "run"):
        assert "another process" in fails(command())


@pytest.fixture(scope="module")
def short(pendulum_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Another finished run, of a method that compiles in seconds: its flags and its folder."""
    path = tmp_path_factory.mktemp("short")
    flags = [
        *("--algo=td3_bc", f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=2"),
        *(f"--set={name}={value}" for name, value in SHORT.items()),
    ]
    assert run.main(["run", *flags, f"--workdir={path}"]) == 0
    return flags, path


@pytest.mark.parametrize(
    ("victim", "message"), [("rows", "File too large"), ("checkpoint", "could not be written")]
)
def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_later(
    short: tuple[list[str], Path], tmp_path: Path, victim: str, message: str
) -> None:
    flags, whole = short
    argv = [*flags, f"--workdir={tmp_path / 'run'}"]
    filled = subprocess.run(
        [sys.executable, "-m", "tests.runs.fill", victim, *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    assert filled.returncode == commandline.FAILED
    lines = filled.stderr.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "run" / "result.json").exists()
    assert run.main(["run", *argv]) == 0
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_help_explains_flags_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("algo", "dataset", "env", "seeds", "workdir", "set", "overwrite", "eval_every"):
        assert f"--{flag}: " in text
    assert "runs/<algo>-<dataset>" in text
    # What would run on the default dataset, and not the method's defaults.
    assert "eta=0.05 (float): strength of the path KL" in text
    assert "pretrain_steps=10000 (int, default 2000000)" in text
    assert "log_every=500 (int, default 1000): updates per row" in text
    assert "(auto|loop|vmap): how seeds share a device" in text
    assert run.main(["run", "--help", "--algo=bdqo"]) == commandline.WRONG_USE


def test_help_names_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["python -m experiments.run", "--help"]) == 0
    assert "    python -m experiments.run --algo=bdpo --dataset" in capsys.readouterr().out
    assert run.main(["jaxrl-prefs run", "--help"]) == 0
    assert "    jaxrl-prefs run --algo=bdpo --dataset" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("pendulum-mixed", "runs/bdpo-pendulum-mixed"),
        ("hopper/medium-v0", "runs/bdpo-hopper-medium-v0"),
        ("/data/a b.hdf5", "runs/bdpo-data-a-b.hdf5"),
    ],
)
def test_the_folder_has_a_default(dataset: str, folder: str) -> None:
    assert run.parse(["run", f"--dataset={dataset}"]).workdir == Path(folder)


def test_one_command_line_leaves_nothing_for_the_next() -> None:
    run.parse(["run", "--set=eta=1", "--overwrite", "--seeds=2"])
    later = run.parse(["run"])
    assert later.choice.assignments == () and not later.overwrite
    assert later.choice.seeds == (0, 1, 2, 3, 4)
