"""The toy command: its line, its numbers on a policy that is known, and a run of a few updates."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxrl_prefs.data.generate.bandits import BANDITS, BOUND, retarget, transitions
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.toy import bdpo as toy_bdpo
from jaxrl_prefs.toy import command, report, study, training
from jaxrl_prefs.training import loop
from jaxrl_prefs.types import Spec

TINY = [
    f"--set={text}"
    for text in (
        "points=2000",
        "actor_hidden=8",
        "critic_hidden=8",
        "diffusion_steps=5",
        "pretrain_steps=4",
        "train_steps=6",
        "warmup_steps=0",
        "batch_size=32",
    )
]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the samples behind distances."""
    monkeypatch.setattr(study, "DRAWS", 1)


def parse(*flags: str) -> command.Command:
    return command.parse(["toy", *flags])


# --------------------------------------------------------------------------------- the command


def test_sizes_hold_what_they_promise():
    paper = parse("--size=paper").setting
    assert paper.points == 1_000_000
    expected = {
        "diffusion_steps": 50,
        "actor_hidden": (256,) * 4,
        "critic_hidden": (256,) * 3,
        "critic_ensemble_size": 10,
        "batch_size": 512,
        "pretrain_steps": 100_000,
        "train_steps": 100_000,
        "warmup_steps": 5_000,
        "eta": 0.06,
        "rho": 0.0,
        "actor_learning_rate": 1e-5,
        "v_samples": 10,
        "levels": "uniform",
        "behavior_continues": True,
    }
    assert {name: getattr(paper.config, name) for name in expected} == expected
    cpu = parse().setting.config
    assert cpu.eta == 0.25
    for config in (paper.config, cpu):  # a bandit, in points that are not normalised
        assert (config.q_samples, config.clip_sampler, config.candidates) == (0, False, 1)


def test_flags_reach_the_setting():
    got = parse("--task=all", "--eta=.1", "--seed=3", "--set=points=5", "--set=tau=.5")
    assert got.tasks == tuple(BANDITS)
    assert (got.setting.config.eta, got.setting.config.tau) == (0.1, 0.5)
    assert (got.setting.points, got.setting.seed) == (5, 3)
    assert str(got.workdir) == "runs/toy-bdpo"
    assert parse("--task=moons").tasks == ("moons",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algo=bpdo"], "no algorithm 'bpdo'. Did you mean 'bdpo'?"),
        (["--task=moon"], "no task 'moon'. Did you mean 'moons'?"),
        (["--size=tpu"], "no size 'tpu'"),
        (["--eta=strong"], "field 'eta' takes a float, and got 'strong'"),
        (["--eta=0"], "field 'eta' must be above 0"),
        (["--set=points=0"], "field 'points' must be at least 1"),
        (["--set=etta=1"], "no field 'etta'. Did you mean 'eta'?"),
        (["--set=policy=gaussian"], "need policy=diffusion"),
        (["--task=swissroll", "--eta=.005"], "no value for eta"),
        (["--sed=1"], "no flag --sed. Did you mean --seed?"),
        (["eta=1"], "unexpected argument 'eta=1'"),
    ],
)
def test_wrong_use_is_told_in_a_line(flags, message, capsys):
    assert command.main(["toy", *flags]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_workdir_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["toy", f"--workdir={tmp_path}/file/run", *TINY]) == 1
    assert "file" in capsys.readouterr().err


def test_help_lists_flags_and_fields(capsys):
    assert command.main(["toy", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--task: the task: 8gaussians, 2spirals" in told
    assert "points=200000" in told and "eta=0.25" in told and "actor_hidden=64,64,64,64,64" in told


# ---------------------------------------------------------------------------------- comparing


def test_a_perfect_policy_compares_without_error():
    """Samples of the exact optimum, with its exact value and KL."""
    bandit, eta, size = BANDITS["8gaussians"], 0.25, 50_000
    points, energies = bandit.draw(np.random.default_rng(0), 200_000)
    best = retarget(np.random.default_rng(1), points, energies, eta, size)
    measured = {"value": bandit.value(eta), "path_kl": bandit.target_kl(eta)}
    numbers = study.compare(bandit, eta, measured, best, points[:size])
    assert numbers["value_error"] == 0
    for learned, exact in (numbers[name] for name in report.LABELS):
        assert learned == pytest.approx(exact, rel=0.02)
    assert numbers["mode_error"] < 0.01
    assert np.sum(numbers["mode_weights"], 0) == pytest.approx([1, 1])


def test_a_policy_that_stays_at_the_behaviour_is_seen():
    bandit = BANDITS["8gaussians"]
    points, _ = bandit.draw(np.random.default_rng(0), 50_000)
    numbers = study.compare(bandit, 0.25, {"value": 0.5, "path_kl": 0.0}, points, points)
    assert numbers["value_error"] == pytest.approx(0.5 / bandit.value(0.25) - 1)
    assert numbers["net"][0] == pytest.approx(0.5, abs=0.01)
    assert numbers["mode_error"] == pytest.approx(0.4398 - 0.125, abs=0.01)


def test_without_modes_there_is_no_error_of_modes():
    bandit = BANDITS["swissroll"]
    points, _ = bandit.draw(np.random.default_rng(0), 1_000)
    numbers = study.compare(bandit, 0.25, {"value": 0.5, "path_kl": 0.0}, points, points)
    assert "mode_error" not in numbers
    numbers |= {"train_seconds": 1.0, "seconds": 1.0, "variation": 0.0, "resampled": 0.0}
    console = Console(record=True, width=120)
    console.print(report.table("roll", numbers), report.summary("all", {"swissroll": numbers}))
    text = console.export_text()
    assert "mean of V_N over noise" in text and "no modes" in text and "weight of" not in text


def test_distances_of_samples_that_are_known():
    """A quarter of the policy's samples lies where the best policy is; a cell without data and the
    outside of the square have a quarter each."""
    here, there, away, far = ([x, x] for x in (-2.0, 0.0, 2.0, 2 * BOUND))
    data = transitions(BANDITS["moons"], 2, 0)
    data = data._replace(action=np.array([here, there]), reward=np.array([1.0, -1e3]))
    learned = np.array([here, there, away, far])
    found = study.distances(np.random.default_rng(0), data, 1.0, learned)
    assert found == {"variation": 0.75, "resampled": 0.0, "outside": 0.5}


# ----------------------------------------------------------------------------------- measuring


@pytest.fixture(scope="module")
def untrained() -> tuple[bdpo.Config, Spec, bdpo.State]:
    """BDPO before training: actor and behaviour are one."""
    config = parse(*TINY).setting.config
    data = transitions(BANDITS["moons"], 64, 0)
    spec = Spec.of(data, low=-BOUND, high=BOUND)
    state = bdpo.make(config, spec).init(jax.random.key(0), data)
    return config, spec, state


def test_measure_reads_the_average_of_v_at_the_top_level(untrained):
    config, spec, state = untrained
    measured = toy_bdpo.measure(config, spec, state, jax.random.key(1), 4_000)
    assert measured["path_kl"] == 0  # the same parameters
    noise = np.random.default_rng(0).normal(size=(4_000, 2)).astype(np.float32)
    parts = bdpo.build(config, spec)
    observation, level = np.zeros((4_000, 1), np.float32), np.full(4_000, 5)
    values = parts.value.apply(state.value.target, observation, noise, level)
    spread = float(values.std() / np.sqrt(4_000))
    assert measured["value"] == pytest.approx(float(values.mean()), abs=6 * spread)


def test_scenes_start_in_noise_and_show_v_where_it_is(untrained):
    config, spec, state = untrained
    axis = np.linspace(-1, 1, 3)
    scene = toy_bdpo.scene(config, spec, state, jax.random.key(1), 500, axis)
    assert scene.bounds == (5, 4, 3, 2, 1, 0)
    assert scene.path.shape == (6, 500, 2) and scene.landscape.shape == (5, 3, 3)
    assert scene.path[5].std() == pytest.approx(1, abs=0.1)
    parts = bdpo.build(config, spec)
    corner = np.float32([[1, -1]])  # the last column of the first row
    value = parts.value.apply(
        state.value.target, np.zeros((1, 1), np.float32), corner, np.int32([4])
    )
    assert scene.landscape[1, 0, 2] == pytest.approx(float(value.mean()), abs=1e-4)


def test_few_steps_make_few_intervals(untrained):
    config, spec, state = untrained
    short = toy_bdpo.scene(
        type(config)(**config.__dict__ | {"diffusion_steps": 2}),
        spec,
        state,
        jax.random.key(1),
        4,
        np.linspace(-1, 1, 3),
    )
    assert short.bounds == (2, 1, 0)


# --------------------------------------------------------------------------------- a small run


def test_a_run_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert command.main(["toy", "--task=8gaussians", f"--workdir={tmp_path}", *TINY]) == 0
    told = capsys.readouterr().out
    assert "weight of mode 7" in told and "0.4398" in told and "0.6855" in told
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["tasks"]) == ["8gaussians"]
    assert results["tasks"]["8gaussians"]["value"][1] == pytest.approx(0.68548, abs=1e-5)
    assert results["config"]["diffusion_steps"] == 5
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["8gaussians-paths.png", "samples.png"]
    for name in pictures:
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


# ---------------------------------------------------------------------------------- going on


def test_a_stopped_run_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["toy", "--task=8gaussians", *TINY]
    assert command.main([*argv, f"--workdir={tmp_path / 'whole'}"]) == 0
    monkeypatch.setattr(loop, "FIRST_CALL_STEPS", 1)
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)
    stops, train = [3, 7], loop.run
    starts: list[int] = []

    def stopped(*args: Any, **more: Any) -> Any:
        def signalled(step: int) -> bool:
            if stops and step >= stops[0]:
                stops.pop(0)
                os.kill(os.getpid(), signal.SIGINT)
            return asked(step)

        asked = more["should_stop"]
        starts.append(more["start"])
        return train(*args, **more | {"should_stop": signalled})

    monkeypatch.setattr(loop, "run", stopped)
    argv = [*argv, f"--workdir={tmp_path / 'stopped'}"]
    codes = [command.main(argv) for _ in range(4)]
    assert codes == [130, 130, 0, 0]
    assert starts == [0, 3, 7, 10]  # the last has nothing left to train
    found = [
        json.loads((tmp_path / name / "results.json").read_text())["tasks"]["8gaussians"]
        for name in ("whole", "stopped")
    ]
    for numbers in found:
        assert numbers.pop("seconds") > 0 and numbers.pop("train_seconds") > 0
    assert found[0] == found[1]


def test_other_settings_start_anew_in_the_same_folder() -> None:
    config = parse(*TINY).setting.config
    data = transitions(BANDITS["moons"], 64, 0)
    names = {
        training._name(config, data, 0, 5),
        training._name(config, data, 1, 5),
        training._name(type(config)(**config.__dict__ | {"eta": 0.5}), data, 0, 5),
        training._name(config, data._replace(reward=data.reward + 1), 0, 5),
    }
    assert len(names) == 4
