from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, roots
from jaxrl_prefs.data.generate import pendulum
from jaxrl_prefs.data.readers import minari as reader


def quiet(what: str, done: int, of: int) -> None:
    """Shows no progress."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the whole default dataset."""
    root = tmp_path_factory.mktemp("generated")
    pendulum.generate(root, quiet)
    return root


@pytest.fixture
def recording(made: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    return data.load("pendulum-mixed")


def test_the_dynamics_are_gymnasiums() -> None:
    rng = np.random.default_rng(0)
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    angle, speed = (np.array([x]) for x in env.unwrapped.state)
    for _ in range(200):
        torque = rng.uniform(-2, 2, 1).astype(np.float32)
        observation, reward, *_ = env.step(torque)
        angle, speed, ours = pendulum.advance(angle, speed, np.float64(torque))
        np.testing.assert_allclose(pendulum.observe(angle, speed)[0], observation, atol=1e-5)
        assert ours[0] == pytest.approx(reward, abs=1e-5)
    assert abs(angle[0]) > np.pi  # it went round, so the wrapping of the angle was put to the test


def test_starts_are_gymnasiums() -> None:
    env = gymnasium.make("Pendulum-v1").unwrapped
    states = []
    for seed in range(300):
        env.reset(seed=seed)
        states.append(env.state)
    observation, *_ = pendulum.rollout(
        np.random.default_rng(0), 300, lambda angle, speed: np.zeros(300)
    )
    theirs = np.array(states)
    for ours in (observation[:, 0, 2], np.arctan2(observation[:, 0, 1], observation[:, 0, 0])):
        column = theirs[:, 1] if np.abs(ours).max() <= 1 else theirs[:, 0]
        bound = np.abs(column).max()
        assert np.abs(ours).max() == pytest.approx(bound, rel=0.02)
        assert abs(ours.mean()) < 5 * bound / np.sqrt(3 * 300)
        assert ours.std() == pytest.approx(column.std(), rel=0.15)


def test_sizes_and_score(recording: Dataset) -> None:
    assert (recording.size, len(recording.lengths)) == (50_000, 250)
    assert set(recording.lengths) == {200}
    assert not recording.terminal.any()
    assert (recording.action_low, recording.action_high) == (-2.0, 2.0)
    assert recording.family == "pendulum"
    assert recording.task is not None
    assert (recording.task.env_id, recording.task.max_episode_steps) == ("Pendulum-v1", 200)
    scores = recording.score(recording.returns)
    assert 2.0 < scores.mean() < 7.0
    assert scores.max() > 80.0  # the good behaviour is in the data


def test_half_of_the_episodes_brake(recording: Dataset) -> None:
    speed, torque = recording.observation[:, 2], recording.action[:, 0]
    power = (speed * torque).reshape(250, 200)[:, :30].mean(1)
    assert 0.3 < (power < 0).mean() < 0.7


def test_prepared_rewards_are_of_order_one(recording: Dataset) -> None:
    reward = data.prepare(recording, data.defaults(recording.family)).transitions.reward
    assert -1.7 < reward.min() < -1.0
    assert reward.max() <= 0.0


def test_references_are_those_of_the_environment(recording: Dataset) -> None:
    assert recording.references is not None
    assert recording.task is not None
    low, high = recording.references
    env = recording.task.make()
    rng = np.random.default_rng(7)

    def returns(act: pendulum.Act) -> np.ndarray:
        totals = []
        for seed in range(60):
            observation, _ = env.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                angle = np.arctan2(observation[1], observation[0])
                torque = act(np.array([angle]), observation[2:].astype(float))
                observation, reward, _, over, _ = env.step(torque.astype(np.float32))
                total += reward
            totals.append(total)
        return np.array(totals)

    random = returns(lambda angle, speed: rng.uniform(-2, 2, 1))
    swung = returns(pendulum.controller)
    # Five standard errors; the stored means have errors of their own (1000 and 100 episodes).
    assert abs(random.mean() - low) < 5 * random.std() * np.sqrt(1 / 60 + 1 / 1000)
    assert abs(swung.mean() - high) < 5 * swung.std() * np.sqrt(1 / 60 + 1 / 100)


def test_minari_reads_it(recording: Dataset, made: Path) -> None:
    dataset = minari.load_dataset("pendulum/mixed-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (250, 50_000)
    assert dataset.recover_environment().spec.id == "Pendulum-v1"
    assert list(minari.list_local_datasets()) == ["pendulum/mixed-v0"]
    episode = dataset[3]
    rows = slice(600, 800)
    np.testing.assert_array_equal(episode.observations[:-1], recording.observation[rows])
    np.testing.assert_array_equal(episode.observations[1:], recording.next_observation[rows])
    np.testing.assert_array_equal(episode.actions, recording.action[rows])
    assert episode.truncations.tolist() == [False] * 199 + [True]


def test_the_same_seed_gives_the_same_data(tmp_path: Path) -> None:
    first, second, other = (
        reader.read(
            pendulum.generate(tmp_path / name, quiet, episodes=5, seed=seed), "pendulum/mixed-v0"
        )
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    for field, ours, theirs in zip(first._fields, first, second, strict=True):
        same = np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
        assert same, field
    assert not np.array_equal(first.action, other.action)


def test_it_is_made_on_first_use_and_reused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr(pendulum.generate, "__kwdefaults__", {"episodes": 4, "seed": 0})
    first = data.load("pendulum-mixed", on_progress=lambda *report: seen.append(report))
    assert first.size == 800
    assert seen[-1] == ("storing pendulum/mixed-v0", 4, 4)
    assert ("simulating pendulum/mixed-v0", 200, 200) in seen
    seen.clear()
    again = data.load("pendulum/mixed-v0", on_progress=lambda *report: seen.append(report))
    assert seen == []
    np.testing.assert_array_equal(first.action, again.action)


def test_a_bar_is_drawn_by_default(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pendulum.generate, "__kwdefaults__", {"episodes": 2, "seed": 0})
    data.load("pendulum-mixed")
    out, err = capsys.readouterr()
    assert out == ""
    assert "storing pendulum/mixed-v0" in err
    assert "100%" in err


def test_a_read_only_root_sends_it_to_the_cache(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(pendulum.generate, "__kwdefaults__", {"episodes": 2, "seed": 0})
    assert data.load("pendulum-mixed", on_progress=quiet).size == 400
    assert roots.find("pendulum/mixed-v0") == (
        tmp_path / "cache/jaxrl_prefs/minari/pendulum/mixed-v0/data"
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxrl_prefs.data.generate import pendulum

def report(what, done, of):
    if what.startswith("storing") and done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

pendulum.generate(Path(sys.argv[1]), report, episodes=8)
"""


def test_killed_midway_it_starts_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, root], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(root.iterdir())  # it had begun to write
    assert roots.find("pendulum/mixed-v0") is None
    assert roots.local_ids() == []
    monkeypatch.setattr(pendulum.generate, "__kwdefaults__", {"episodes": 8, "seed": 0})
    assert data.load("pendulum-mixed", on_progress=quiet).size == 1600
