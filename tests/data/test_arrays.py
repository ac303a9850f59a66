"""Datasets of the user's own: arrays and episodes pass the checks that files pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.data.readers import d4rl
from tests import playground
from tests.data.files import write_d4rl


def arrays(**changes: Any) -> dict[str, Any]:
    """Episodes of three steps (terminated), two (cut off) and one (cut off)."""
    made = {
        "observations": np.arange(12.0).reshape(6, 2),
        "actions": np.linspace(-1, 1, 6)[:, None],
        "rewards": np.arange(6.0),
        "terminals": [0, 0, 1, 0, 0, 0],
        "timeouts": np.array([False, False, False, False, True, False]),
        "name": "mine",
    }
    return {**made, **changes}


def same(one: Dataset, other: Dataset, *but: str) -> None:
    for name in set(Dataset._fields) - set(but):
        left, right = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(left, right, err_msg=name)


def test_the_steps_of_flat_arrays() -> None:
    data = Dataset.from_arrays(**arrays())
    assert data.lengths.tolist() == [3, 2, 1] and data.returns.tolist() == [3.0, 7.0, 5.0]
    # The last step of a cut-off episode has no successor and is dropped: rows 4 and 5.
    assert data.reward.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert data.continues.tolist() == [True, True, False, False]
    assert data.next_observation[:, 0].tolist() == [2.0, 4.0, 4.0, 8.0]
    assert data.terminal.tolist() == [False, False, True, False]
    assert data.action_low.tolist() == [-1.0] and data.action_high.tolist() == [1.0]
    assert repr(data) == (
        "Dataset 'mine': 4 transitions of 3 episodes, 2 observations, 1 action, no environment"
    )


def test_successors_that_are_given_are_kept() -> None:
    following = np.arange(12.0).reshape(6, 2) + 100
    data = Dataset.from_arrays(**arrays(next_observations=following))
    assert data.size == 6 and data.next_observation[5].tolist() == [110.0, 111.0]
    assert data.continues.tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize("given", [False, True])
def test_a_file_of_the_same_arrays_is_the_same_dataset(tmp_path: Path, given: bool) -> None:
    made = arrays()
    if given:
        made["next_observations"] = np.arange(12.0).reshape(6, 2) + 1
    path = tmp_path / "mine.hdf5"
    write_d4rl(path, **{k: np.asarray(v) for k, v in made.items() if k != "name"})
    same(Dataset.from_arrays(**made), d4rl.read(path), "name", "reference_source")


def test_episodes_are_flat_arrays_in_parts() -> None:
    whole = arrays()
    parts = [
        {
            "observations": whole["observations"][rows],
            "actions": whole["actions"][rows],
            "rewards": whole["rewards"][rows],
            "terminal": rows.start == 0,
        }
        for rows in (slice(0, 3), slice(3, 5), slice(5, 6))
    ]
    same(Dataset.from_episodes(parts, name="mine"), Dataset.from_arrays(**whole))


def test_an_episode_may_bring_its_last_observation() -> None:
    episode = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.zeros((3, 1)),
        "rewards": np.ones((3, 1)),
    }
    data = Dataset.from_episodes([episode, {**episode, "terminals": [0, 1, 1]}])
    assert data.size == 6
    assert data.next_observation[:, 0].tolist() == [2.0, 4.0, 6.0] * 2
    assert data.terminal.tolist() == [False, False, False, False, True, True]
    assert data.continues.tolist() == [True, True, False] * 2  # a terminal inside ends no episode


def test_units_and_bounds() -> None:
    low, high = [-2.0, 0.0], [2.0, 8.0]
    actions = np.array([[-2.0, 0.0], [2.0, 8.0], [0.0, 4.0]] * 2)
    data = Dataset.from_arrays(**arrays(actions=actions, action_low=low, action_high=high))
    prepared = jp.prepare(data, jp.Processing())
    np.testing.assert_allclose(prepared.transitions.action[2], [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(prepared.transitions.action[1], [1.0, 1.0], atol=1e-4)
    scored = Dataset.from_arrays(**arrays(references=(0.0, 50.0)))
    assert scored.score(25.0) == 50.0 and scored.score_kind == "normalised score"


def test_environments() -> None:
    playground.register()
    data = Dataset.from_arrays(**arrays(env=playground.ENV_ID))
    assert data.task is not None and data.task.env_id == playground.ENV_ID
    own = data.with_env(playground.Limited)
    assert own.task is not None and own.task.max_episode_steps == playground.LIMIT
    assert own.task.env_id == "tests.playground.Limited"
    env = own.task.make()
    assert env.reset(seed=3)[0].tolist() == [3.0, 0.0]
    env.close()
    bare = data.with_env(playground.Corridor)  # no limit of its own: the longest episode's
    assert bare.task is not None and bare.task.max_episode_steps == 3
    assert bare.with_env(None).task is None
    with pytest.raises(jp.DataError, match="made a int, not an environment"):
        data.with_env(lambda: 3)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((5, 2))}, "mine: arrays of different lengths: observations 5"),
        ({"observations": np.zeros(6)}, r"mine: observations have shape \(6,\), expected 2 axes"),
        ({"actions": np.zeros(6)}, "mine: actions"),
        ({"action_low": 1.0}, "not a bounded box"),
        ({"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}, "the action space 2"),
        ({"rewards": [0, 1, np.nan, 3, 4, 5]}, r"a nan in rewards at row 2 \(episode 0, step 2\)"),
        ({"rewards": ["a"] * 6}, "mine: rewards are not numbers"),
        ({"terminals": [0, 0, 2, 0, 0, 0]}, "mine: terminals must be one axis of 0 and 1"),
        ({"terminals": [], "timeouts": None}, "mine: the dataset has no episodes"),
        ({"timeouts": [0, 1]}, "mine: arrays of different lengths: terminals 6, timeouts 2"),
        ({"next_observations": np.zeros((6, 3))}, "but next observations"),
        ({"references": (5.0, 1.0)}, "not two ascending numbers"),
        ({"env": "No-v0"}, "unknown environment 'No-v0'"),
    ],
)
def test_bad_arrays_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(jp.DataError, match=message):
        Dataset.from_arrays(**arrays(**changes))


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "episodes: the dataset has no episodes"),
        ([{"observations": [[1.0]], "rewards": [0.0]}], "episode 0: lacks actions"),
        (
            [
                {"observations": [[1.0]] * 3, "actions": [[0.0]] * 2, "rewards": [0, 0]},
                {"observations": [[1.0]] * 3, "actions": [[0.0]] * 2},
            ],
            "episode 1 lacks rewards, which others have",
        ),
        ([{"observations": [[1.0]], "actions": [[0.0]], "rewards": []}], "has no steps"),
        ([{"observations": [[1.0]] * 4, "actions": [[0.0]] * 2, "rewards": [0, 0]}], "4 observ"),
        ([{"observations": [[1.0]], "actions": [[0.0]], "rewards": [0]}], "no step has a succ"),
        (
            [
                {"observations": [[1.0]] * 3, "actions": [[0.0]] * 2, "rewards": [0, 0]},
                {"observations": [[1.0, 2.0]] * 3, "actions": [[0.0]] * 2, "rewards": [0, 0]},
            ],
            "observations of episodes have different shapes",
        ),
    ],
)
def test_bad_episodes_are_refused(episodes: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(jp.DataError, match=message):
        Dataset.from_episodes(episodes)


def test_a_dataset_by_its_folder(real_data: Any) -> None:
    folder = real_data("adroit/pen-expert-v0")
    for place in (folder, folder / "data"):
        data = jp.load_dataset(place, env=None)
        assert data.name == str(place) and data.family == "adroit" and data.task is None
    with pytest.raises(jp.DataError, match=r"is no dataset, but .* is one in Minari's format"):
        jp.load_dataset(folder.parent)
