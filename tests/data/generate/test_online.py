"""D4RL's recipe with an agent whose skill is known: it stands longer from round to round."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.cli import data as command
from jaxrl_prefs.data.generate import online
from jaxrl_prefs.data.generate.episodes import Episode, first
from jaxrl_prefs.data.generate.online import Recipe
from jaxrl_prefs.data.generate.recorder import Recorder
from jaxrl_prefs.errors import DataError

RECIPE = Recipe(rounds=4, round_steps=30, medium=2.4, scored_episodes=2, steps=50)


def quiet(what: str, done: int, of: int) -> None:
    """Shows no progress."""


class Swinger:
    """Plays constant actions, weaker with every round that it learned; it scores 2.1 to 2.9."""

    made: list[tuple[int, int]] = []  # noqa: RUF012 - (seed, round) of every agent that learned

    def __init__(self, env: gymnasium.Env, seed: int) -> None:
        self.env, self.seed, self.rounds = env, seed, 0
        self.observation = None

    def learn(self, steps: int) -> None:
        self.made.append((self.seed, self.rounds))
        if self.observation is None:
            self.observation, _ = self.env.reset(seed=self.rounds)
        for _ in range(steps):
            self.observation, _, over, cut, _ = self.env.step(self.act(self.observation))
            if over or cut:
                self.observation, _ = self.env.reset()
        self.rounds += 1

    def act(self, observation: np.ndarray) -> np.ndarray:
        return np.full(3, 0.5 - 0.1 * self.rounds, np.float32)

    def save(self, folder: Path) -> None:
        (folder / "rounds").write_text(str(self.rounds))

    def load(self, folder: Path) -> None:
        self.rounds = int((folder / "rounds").read_text())


class Killed(Swinger):
    """Dies in its third round."""

    def learn(self, steps: int) -> None:
        if self.rounds == 2:
            raise KeyboardInterrupt
        super().learn(steps)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Swinger, "made", [])
    return tmp_path


def strength(recording: data.Dataset) -> list[float]:
    """Which actions a set holds, in their order."""
    return np.unique(recording.action.astype(float).round(3)).tolist()


def test_the_four_sets_of_one_training(root: Path) -> None:
    learned = []
    for quality in online.QUALITIES:
        online.generate(f"online/hopper/{quality}-v0", root, quiet, Swinger, RECIPE)
        learned.append(len(Swinger.made))
    assert learned == [3, 3, 4, 4]  # one training for all, as far as each needs it
    rounds = online.finished(root / "cache/jaxrl_prefs/online/hopper")
    medium = next(i for i, each in enumerate(rounds) if each.score >= RECIPE.medium)
    sets = {q: data.load(f"online/hopper/{q}-v0") for q in online.QUALITIES}
    assert medium == 2
    assert strength(sets["medium"]) == [0.2]
    assert strength(sets["expert"]) == [0.1]
    assert strength(sets["medium-expert"]) == [0.1, 0.2]
    assert [sets[q].lengths.sum() for q in online.QUALITIES] == [
        *(RECIPE.steps, RECIPE.round_steps * (medium + 1), 2 * RECIPE.steps, RECIPE.steps)
    ]
    # While it learned round i it played as after i rounds.
    assert strength(sets["medium-replay"]) == [0.3, 0.4, 0.5]
    for recording in sets.values():
        assert recording.family == "locomotion"
        assert recording.references == online.ROBOTS["hopper"][1]
        assert recording.task is not None
        assert recording.task.env_id == "Hopper-v5"


def test_an_agent_beside_the_datasets_is_not_unpickled(root: Path) -> None:
    (root / ".online" / "hopper" / "round-0000" / "agent").mkdir(parents=True)
    with pytest.raises(DataError, match="runs whatever code it holds"):
        online.generate("online/hopper/medium-v0", root, quiet, Swinger, RECIPE)
    assert Swinger.made == []


def test_a_stopped_training_goes_on_after_its_last_whole_round(root: Path) -> None:
    name = "online/hopper/expert-v0"
    with pytest.raises(KeyboardInterrupt):
        online.generate(name, root, quiet, Killed, RECIPE)
    folder = root / "cache/jaxrl_prefs/online/hopper"
    assert len(online.finished(folder)) == 2
    (folder / ".round-0002" / "agent").mkdir(parents=True)  # as one who was killed leaves it
    told: dict[str, list[tuple[int, int]]] = {}
    online.generate(
        name,
        root,
        lambda what, *numbers: told.setdefault(what, []).append(numbers),
        Swinger,
        RECIPE,
    )
    assert told["training on Hopper-v5 up to a score of 100, steps"] == [
        (step, 120) for step in range(60, 120)
    ]
    assert Swinger.made == [(0, 0), (0, 1), (2, 2), (2, 3)]
    assert strength(data.load(name)) == [0.1]
    kept = [
        each.folder.name for each in online.finished(folder) if (each.folder / "agent").exists()
    ]
    rounds = online.finished(folder)
    medium = rounds[online.nearest(rounds, RECIPE.medium)].folder.name
    assert kept == sorted({medium, "round-0003"})


def test_a_round_that_leaps_over_the_medium_score(tmp_path: Path) -> None:
    scores = (9.0, 31.0, 20.0, 79.0, 33.0)
    rounds = [online.Round(score, tmp_path) for score in scores]
    assert [online.nearest(rounds[: i + 1], 33.0) for i in range(5)] == [0, 1, 1, 1, 1]
    assert online.nearest(rounds[2:], 33.0) == 0
    assert online.nearest(rounds[3:], 33.0) == 0


def test_training_stops_at_the_expert_score(root: Path) -> None:
    recipe = RECIPE._replace(medium=2.2, expert=2.4)
    online.generate("online/hopper/expert-v0", root, quiet, Swinger, recipe)
    assert len(Swinger.made) == 3  # of four rounds
    online.generate("online/hopper/medium-expert-v0", root, quiet, Swinger, recipe)
    assert len(Swinger.made) == 3
    assert strength(data.load("online/hopper/expert-v0")) == [0.2]


def test_an_agent_that_learns_nothing_is_told(root: Path) -> None:
    with pytest.raises(DataError, match="120 steps reached a score of 99"):
        recipe = RECIPE._replace(medium=99.0)
        online.generate("online/hopper/medium-v0", root, quiet, Swinger, recipe)


def test_steps_are_recorded_as_they_were_played() -> None:
    plain = gymnasium.make("Hopper-v5", max_episode_steps=6)
    env, rng = Recorder(plain), np.random.default_rng(0)
    seen, actions = [env.reset(seed=0)[0]], []
    for step in range(10):
        actions.append(rng.uniform(-1, 1, 3).astype(np.float32))
        seen.append(env.step(actions[-1])[0])
        if step == 2:
            early = env.take()  # an episode that is going on is cut in two
        if step == 5:
            seen.append(env.reset(seed=1)[0])
    late = env.take()
    env.close()
    assert [len(each.reward) for each in early + late] == [3, 3, 4]
    assert not any(each.terminal for each in early + late)
    np.testing.assert_array_equal(np.concatenate([e.action for e in early + late]), actions)
    starts = (seen[:4], seen[3:7], seen[7:])
    for each, expected in zip(early + late, starts, strict=True):
        np.testing.assert_array_equal(each.observation, np.float32(expected))
    assert env.take() == []


def test_episodes_are_written_and_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            rng.normal(size=(length + 1, 2)).astype(np.float32),
            rng.normal(size=(length, 1)).astype(np.float32),
            rng.normal(size=length),
            length == 2,
        )
        for length in (3, 2, 4)
    ]
    online.write(tmp_path, episodes)
    for one, other in zip(episodes, online.read(tmp_path), strict=True):
        assert one.terminal == other.terminal
        for left, right in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(left, right)
    kept = first(episodes, 4)
    assert [len(each.reward) for each in kept] == [3, 1]
    assert not kept[1].terminal  # it was cut off before its end
    assert len(kept[1].observation) == 2
    assert first(episodes, 5)[1].terminal


def test_loading_trains_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"jaxrl-prefs data make online/ant/expert-v0"):
        data.load("online/ant/expert-v0")
    assert command.main(["data", "make", "online/ant/expert-v1"]) == 2
    assert "Did you mean 'online/ant/expert-v0'" in capsys.readouterr().err


def test_the_command_says_what_is_missing(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sbx", None)
    assert command.main(["data", "make", "online/hopper/medium-v0"]) == 2
    assert "pip install 'jaxrl_prefs[online]'" in capsys.readouterr().err
    assert not any(root.rglob("*/*"))


def test_the_command_makes_a_set(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SbxAgent", Swinger)
    monkeypatch.setattr(online, "RECIPE", RECIPE)
    for _ in range(2):  # the second finds it
        assert command.main(["data", "make", "online/hopper/medium-v0"]) == 0
        assert "Hopper-v5" in capsys.readouterr().out
    assert len(Swinger.made) == 3
    folder = root / "cache/jaxrl_prefs/online/hopper"
    score = json.loads((folder / "round-0002" / "score.json").read_text())
    assert isinstance(score, float)
