"""The recorded datasets: found by MINARI_DATASETS_PATH, skipped without it (conftest.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.environments.spaces import flatten


class Known(NamedTuple):
    """What a dataset's own documentation says of it."""

    family: str
    episodes: int
    steps: int
    observations: int
    actions: int
    score: float  # normalised where there are references, else the mean return
    env_id: str = ""
    limit: int = 0


SETS = {
    "hopper/medium-v0": Known("locomotion", 236, 100_000, 11, 3, 48.2, "Hopper-v5", 1000),
    "hopper/mixed-v0": Known("locomotion", 677, 100_000, 11, 3, 13.6, "Hopper-v5", 1000),
    "hopper/medium-replay-v0": Known("locomotion", 1640, 200_000, 11, 3, 10.1, "Hopper-v5", 1000),
    "halfcheetah/medium-v0": Known("locomotion", 100, 100_000, 17, 6, 45.4, "HalfCheetah-v5", 1000),
    "halfcheetah/medium-replay-v0": Known(
        "locomotion", 140, 140_000, 17, 6, 28.5, "HalfCheetah-v5", 1000
    ),
    "halfcheetah/mixed-v0": Known("locomotion", 100, 100_000, 17, 6, 20.0, "HalfCheetah-v5", 1000),
    "adroit/door-human-replay-v0": Known(
        "adroit", 25, 6_729, 39, 28, 29.3, "AdroitHandDoor-v1", 300
    ),
    "adroit/pen-expert-v0": Known("adroit", 100, 10_000, 45, 24, 100.2, "AdroitHandPen-v1", 100),
    "neorl2/safetyhalfcheetah-train-v0": Known(
        "locomotion", 18, 18_000, 18, 6, 73.56, "jaxrl_prefs/SafetyHalfCheetah-v0", 1000
    ),
    "neorl2/safetyhalfcheetah-val-v0": Known(
        "locomotion", 2, 2_000, 18, 6, 69.5, "jaxrl_prefs/SafetyHalfCheetah-v0", 1000
    ),
    "ogbench/pointmaze-medium-navigate-singletask-task1-v0": Known(
        "ogbench", 100, 100_000, 2, 2, -998.0
    ),
    "pointmaze/umaze-v0": Known("pointmaze", 1510, 100_000, 8, 2, 1.0, "PointMaze_UMaze-v3", 300),
}
WITHOUT_REFERENCES = ("ogbench/", "pointmaze/")


@pytest.mark.parametrize("name", SETS)
def test_set(name: str, real_data: Callable[[str], Path]) -> None:
    real_data(name)
    known = SETS[name]
    recording = data.load(name)
    assert (len(recording.lengths), recording.size) == (known.episodes, known.steps)
    assert recording.lengths.sum() == known.steps
    assert recording.family == known.family
    tolerance = 0.5 if abs(known.score) > 500 else 0.06  # the documentation rounds
    assert recording.score(recording.returns).mean() == pytest.approx(known.score, abs=tolerance)
    assert (recording.references is None) == name.startswith(WITHOUT_REFERENCES)

    t = data.prepare(recording, data.defaults(recording.family)).transitions
    assert t.observation.shape == t.next_observation.shape == (known.steps, known.observations)
    assert t.action.shape == t.next_action.shape == (known.steps, known.actions)
    on = t.has_next_action > 0
    assert on.sum() == known.steps - known.episodes
    np.testing.assert_array_equal(t.next_observation[on], t.observation[t.next_index[on]])
    np.testing.assert_array_equal(t.next_action[on], t.action[t.next_index[on]])
    assert (t.next_index[~on] == t.index[~on]).all()
    assert np.abs(t.action).max() <= np.float32(1 - 1e-5)

    assert (recording.task is None) == (known.env_id == "")
    if recording.task is not None:
        assert recording.task.env_id == known.env_id
        assert recording.task.max_episode_steps == known.limit
        env = recording.task.make()
        observation, _ = env.reset(seed=0)
        assert observation.shape == (known.observations,)
        assert (env.action_space.low == recording.action_low).all()
        assert (env.action_space.high == recording.action_high).all()
        env.close()


def test_time_limits_are_no_terminals(real_data: Callable[[str], Path]) -> None:
    real_data("hopper/medium-v0")
    recording = data.load("hopper/medium-v0")
    ends = np.cumsum(recording.lengths) - 1
    fell = recording.terminal[ends]
    assert not fell[recording.lengths == 1000].any()
    assert fell[recording.lengths < 1000].sum() >= (recording.lengths < 1000).sum() - 1
    assert recording.terminal.sum() == fell.sum()


@pytest.mark.parametrize("name", ["pointmaze/umaze-v0", "adroit/door-human-replay-v0"])
def test_an_episode_is_as_minari_reads_it(name: str, real_data: Callable[[str], Path]) -> None:
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.read(real_data(name) / "data")
    recording = data.load(name)
    (episode,) = storage.get_episodes([7])
    first = int(recording.lengths[:7].sum())
    rows = slice(first, first + int(recording.lengths[7]))
    observation = flatten(episode["observations"], lead=1).astype(np.float32)
    np.testing.assert_array_equal(recording.observation[rows], observation[:-1])
    np.testing.assert_array_equal(recording.next_observation[rows], observation[1:])
    np.testing.assert_array_equal(recording.action[rows], episode["actions"])
    np.testing.assert_array_equal(recording.reward[rows], episode["rewards"].astype(np.float32))
    np.testing.assert_array_equal(recording.terminal[rows], episode["terminations"])
