"""DAC's study: its critic, and a run of a few steps on one task."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxrl_prefs.data.generate.bandits import BANDITS, BOUND, transitions
from jaxrl_prefs.methods import dac as methods_dac
from jaxrl_prefs.toy import command, dac, study
from jaxrl_prefs.types import Spec

TINY = ["--set=actor_hidden=8", "--set=critic_hidden=8", "--set=diffusion_steps=3"]


def test_the_critic_regresses_on_the_energy():
    """Whatever the discount: DAC's own target would add the values of next actions."""
    config = dac.configured([text.removeprefix("--set=") for text in TINY])
    data = transitions(BANDITS["moons"], 64, 0)
    data = data._replace(discount=np.ones_like(data.discount))
    spec = Spec.of(data, low=-BOUND, high=BOUND)
    method, parts = dac.on_energy(config, spec), methods_dac.build(config, spec)
    state = method.init(jax.random.key(0), data)
    _, metrics = jax.jit(method.phases[0].update)(state, data, jax.random.key(1), 0)
    q = np.asarray(parts.critic.apply(state.critic.params, data.observation, data.action))
    expected = np.mean(np.square(q[0] - np.asarray(data.reward)))
    np.testing.assert_allclose(metrics["critic_loss"][0], expected, rtol=1e-5)


def test_a_run_prints_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dac, "BANDITS", {"8gaussians": BANDITS["8gaussians"]})
    monkeypatch.setattr(dac, "POINTS", 500)
    monkeypatch.setattr(study, "DRAWN", 200)
    flags = ["--algo=dac", *TINY, "--set=train_steps=4", f"--workdir={tmp_path}"]
    assert command.main(["toy", *flags]) == 0
    assert "total variation" in " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "results.json").read_text())["tasks"]["8gaussians"]
    bandit = BANDITS["8gaussians"]  # BDPO's eta of 0.25
    assert found["exact_energy"] == pytest.approx(bandit.target_energy(0.25))
    exact = [weight for _, weight in found["mode_weights"]]
    np.testing.assert_allclose(exact, bandit.mode_weights(0.25))
    assert found["resampled"] < found["variation"] <= 1
    assert (tmp_path / "samples.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--set=rho=-1", "rho"),
        ("--set=normalize_q=true", "needs normalize_q=false"),
        ("--set=train_steps=0", "train_steps of 1 or more"),
        ("--set=eta=0.004", "no value for eta"),
        ("--task=moons", "--task has no meaning for --algo=dac"),
    ],
)
def test_wrong_use_is_told_in_a_line(flag, message, capsys):
    assert command.main(["toy", "--algo=dac", flag]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
