"""V-D4RL's recipe with an agent that draws random actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.cli import data as command
from jaxrl_prefs.data.generate import online, vd4rl
from jaxrl_prefs.data.generate.episodes import Episode
from jaxrl_prefs.data.generate.online import Recipe
from jaxrl_prefs.environments import task
from jaxrl_prefs.errors import DataError
from tests import dmc
from tests.data.conftest import root

__all__ = ["root"]

NAME = "vd4rl/walker-walk-medium-v0"
named = task.named


def quiet(what: str, done: int, of: int) -> None:
    """Shows no progress."""


class Random:
    """Draws random actions, and learns nothing; counts what it plays."""

    learned = 0

    def __init__(self, env: Any, seed: int) -> None:
        assert env.observation_space.shape == (24,)  # the walker's, without the physics' state
        self._env, self._rng = env, np.random.default_rng(seed)

    def learn(self, steps: int) -> None:
        Random.learned += 1
        seen, _ = self._env.reset(seed=0)
        for _ in range(steps):
            seen, _, _, cut, _ = self._env.step(self.act(seen))
            if cut:
                seen, _ = self._env.reset()

    def act(self, observation: np.ndarray) -> np.ndarray:
        assert observation.shape == (24,)
        return self._rng.uniform(-1, 1, 6).astype(np.float32)

    def save(self, folder: Path) -> None:
        (folder / "agent").write_text("random")

    def load(self, folder: Path) -> None:
        assert (folder / "agent").read_text() == "random"


def images(recording: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    shown = recording.images["image"]
    return shown.frames[shown.before], shown.frames[shown.after]


@pytest.fixture
def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Episodes of five steps, ten steps of each agent."""
    dmc.require_drawing()

    def short(name: str, longest: int = 0) -> task.Task:
        return named(name, longest)._replace(max_episode_steps=5)

    recipe = Recipe(rounds=2, round_steps=15, medium=0.0, expert=0.0, scored_episodes=1, steps=10)
    monkeypatch.setattr(task, "named", short)
    monkeypatch.setitem(vd4rl.RECIPES, "walker-walk", recipe)
    monkeypatch.setattr(Random, "learned", 0)
    return root


@dmc.installed
def test_a_set_reads_back_as_its_episodes_look(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SbxAgent", Random)
    assert command.main(["data", "make", "vd4rl/walker-walk-medium"]) == 0
    assert "DmControl-walker-walk-64px" in capsys.readouterr().out
    found = data.load(NAME)
    assert found.lengths.tolist() == [5, 5] and found.family == "vd4rl"
    assert found.task is not None
    assert found.task.env_id == "jaxrl_prefs/DmControl-walker-walk-64px-v0"
    assert found.references == (0, 1000) and float(found.score(500.0)) == 50
    assert not found.terminal.any() and (found.action_low == -1).all()
    before, after = images(found)
    assert before.shape == (10, 64, 64, 3) and len(found.images["image"].frames) == 12
    env = found.task.make()
    for start in (0, 5):
        seen, _ = env.reset(seed=start // 5)
        for step in range(start, start + 5):
            _close(before[step], seen["image"])
            seen, reward, *_ = env.step(found.action[step])
            assert float(reward) == pytest.approx(found.reward[step], abs=1e-5)
            _close(after[step], seen["image"])
    env.close()


def _close(one: np.ndarray, other: np.ndarray) -> None:
    """The same picture, but for what states lose as 32-bit floats."""
    assert np.abs(one.astype(int) - other).max() <= 2
    assert (one == other).mean() > 0.99


@dmc.installed
def test_what_was_made_is_not_made_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    picture = vd4rl._images

    def killed(folder: Path, place: int) -> Path:
        drawn.append(place)
        if place == 1:
            raise KeyboardInterrupt
        return picture(folder, place)

    monkeypatch.setattr(vd4rl, "_images", killed)
    with pytest.raises(KeyboardInterrupt):
        vd4rl.generate(NAME, tiny, quiet, Random)
    monkeypatch.setattr(vd4rl, "_images", picture)
    folder = tiny.parent / "cache/jaxrl_prefs/vd4rl/walker-walk/medium-10"
    first = (folder / "00000.npz").stat().st_mtime_ns
    vd4rl.generate(NAME, tiny, quiet, Random)
    assert (folder / "00000.npz").stat().st_mtime_ns == first
    vd4rl.generate(NAME.replace("medium", "medium-expert"), tiny, quiet, Random)
    vd4rl.generate(NAME.replace("medium", "medium-replay"), tiny, quiet, Random)
    assert Random.learned == 1  # the first round is an expert already
    both, replay = (data.load(f"vd4rl/walker-walk-medium-{x}") for x in ("expert", "replay"))
    assert both.lengths.tolist() == [5, 5, 5, 5] and replay.lengths.tolist() == [5, 5]
    np.testing.assert_array_equal(images(both)[0][:10], images(data.load(NAME))[0])


def test_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vd4rl.full(NAME) == "vd4rl/walker-walk-medium-full-v0"
    assert vd4rl.full(vd4rl.full(NAME)) in vd4rl.SETS
    for name in vd4rl.SETS:
        assert (vd4rl.plan(name).recipe.steps == 100_000) == ("full" in name)
        assert vd4rl.plan(name).quality in online.QUALITIES
    with pytest.raises(DataError, match="jaxrl-prefs data make vd4rl/walker-walk-expert-v0"):
        data.load("vd4rl/walker-walk-expert")
    assert command.main(["data", "make", "pendulum-mixed", "--full"]) == 2
    assert "--full is for the sets vd4rl/..." in capsys.readouterr().err


def test_episodes_are_spread_over_a_training() -> None:
    episodes = [
        Episode(np.full((6, 1), i, np.float32), np.zeros((5, 1)), np.zeros(5), False)
        for i in range(10)
    ]
    kept = [int(each.observation[0, 0]) for each in vd4rl.spread(episodes, 20)]
    assert len(kept) == 4 and kept[0] == 0 and kept[-1] >= 7
    assert [len(each.reward) for each in vd4rl.spread(episodes, 20)] == [5] * 4
    assert len(vd4rl.spread(episodes, 500)) == 10
