from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import DataError, Processing
from jaxrl_prefs.types import Transition
from tests.data import files

# Three episodes: cut off after two steps, terminated after two, and unfinished after one.
ARRAYS: dict[str, Any] = {
    "observations": np.float32([[0, 1], [2, 3], [10, 11], [12, 13], [20, 21]]),
    "actions": np.float32([[-1], [0.5], [0], [1], [-0.5]]),
    "rewards": np.float32([1, 2, 3, 4, 5]),
    "terminals": np.array([False, False, False, True, False]),
}
TIMEOUTS = np.array([False, True, False, False, False])
NEXT = np.float32([[2, 3], [4, 5], [12, 13], [14, 15], [22, 23]])


def transitions(path: Path, **arrays: Any) -> Transition:
    recording = data.load(str(files.write_d4rl(path, **arrays)))
    assert recording.returns.tolist() == [3, 7, 5]
    assert recording.lengths.tolist() == [2, 2, 1]
    return data.prepare(recording, Processing(gamma=0.9)).transitions


def test_timeouts_and_next_observations(tmp_path: Path) -> None:
    t = transitions(tmp_path / "a.hdf5", **ARRAYS, timeouts=TIMEOUTS, next_observations=NEXT)
    np.testing.assert_array_equal(t.observation, ARRAYS["observations"])
    np.testing.assert_array_equal(t.next_observation, NEXT)
    np.testing.assert_array_equal(t.discount, np.float32([0.9, 0.9, 0.9, 0, 0.9]))
    assert t.has_next_action.tolist() == [1, 0, 1, 0, 0]
    assert t.next_index.tolist() == [1, 1, 3, 3, 4]


def test_timeouts_alone(tmp_path: Path) -> None:
    t = transitions(tmp_path / "a.hdf5", **ARRAYS, timeouts=TIMEOUTS)
    # The rows that were cut off (1) or left unfinished (4) have no successor; a terminal needs
    # none.
    assert t.observation.tolist() == [[0, 1], [10, 11], [12, 13]]
    assert t.next_observation.tolist() == [[2, 3], [12, 13], [12, 13]]
    assert t.reward.tolist() == [1, 3, 4]
    np.testing.assert_array_equal(t.discount, np.float32([0.9, 0.9, 0]))
    assert t.has_next_action.tolist() == [0, 1, 0]
    assert t.next_index.tolist() == [0, 2, 2]


def test_next_observations_alone_show_where_an_episode_was_cut_off(tmp_path: Path) -> None:
    with_flags = transitions(
        tmp_path / "a.hdf5", **ARRAYS, timeouts=TIMEOUTS, next_observations=NEXT
    )
    without = transitions(tmp_path / "b.hdf5", **ARRAYS, next_observations=NEXT)
    for ours, theirs in zip(without[:-1], with_flags[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def pendulum_arrays(steps: int, terminals: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "observations": np.zeros((steps, 3), np.float32),
        "actions": np.full((steps, 1), 1.5, np.float32),
        "rewards": np.ones(steps, np.float32),
        "terminals": np.isin(np.arange(steps), terminals),
    }


def test_neither_falls_back_to_the_time_limit(tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **pendulum_arrays(700, terminals=(249,)))
    recording = data.load(str(path), env="Pendulum-v1")  # 200 steps an episode
    assert recording.lengths.tolist() == [200, 50, 200, 200, 50]
    assert recording.size == 700 - 4  # all ends but the terminal are dropped
    assert recording.action_high == 2.0


def test_neither_and_no_environment_is_refused(tmp_path: Path) -> None:
    files.write_d4rl(tmp_path / "a.hdf5", **ARRAYS)
    with pytest.raises(DataError, match=r"neither timeouts nor next_observations.*--env"):
        data.load(str(tmp_path / "a.hdf5"))


def test_a_timeout_that_is_also_a_terminal_stays_one(tmp_path: Path) -> None:
    flags = TIMEOUTS | ARRAYS["terminals"]
    t = transitions(tmp_path / "a.hdf5", **ARRAYS, timeouts=flags)
    np.testing.assert_array_equal(t.discount, np.float32([0.9, 0.9, 0]))


def test_columns_of_width_one(tmp_path: Path) -> None:
    columns = {key: ARRAYS[key][:, None] for key in ("rewards", "terminals")}
    t = transitions(tmp_path / "a.hdf5", **(ARRAYS | columns), timeouts=TIMEOUTS[:, None])
    assert t.reward.tolist() == [1, 3, 4]


def hopper(steps: int = 4) -> dict[str, Any]:
    return {
        "observations": np.zeros((steps, 11)),
        "actions": np.zeros((steps, 3)),
        "rewards": np.ones(steps),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.zeros(steps, bool),
    }


@pytest.mark.parametrize(
    ("stem", "env", "references", "source"),
    [
        ("hopper_medium-v2", "Hopper-v5", (-20.272305, 3234.3), "published table for hopper"),
        ("hopper_medium-v2", "", None, "without an environment"),
        ("mine", "Hopper-v5", None, "none for mine.hdf5 in Hopper-v5"),
        ("bullet-hopper_medium", "Hopper-v5", None, "none for"),
        ("walker2d_medium-v2", "Hopper-v5", None, "none for"),
    ],
)
def test_published_references_need_file_and_environment_of_one_robot(
    tmp_path: Path, stem: str, env: str, references: Any, source: str
) -> None:
    path = files.write_d4rl(tmp_path / f"{stem}.hdf5", **hopper())
    recording = data.load(str(path), env=env)
    assert recording.references == references
    assert source in recording.reference_source


def test_a_file_of_another_environment_is_refused(tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **hopper())
    with pytest.raises(DataError, match=r"11 observations and 3 actions.*Pendulum-v1 has 3 and 1"):
        data.load(str(path), env="Pendulum-v1")


def test_an_unknown_environment_is_refused(tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **hopper())
    with pytest.raises(DataError, match="unknown environment 'Hoper-v5'"):
        data.load(str(path), env="Hoper-v5")


def test_discrete_environments_are_refused(tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **hopper())
    with pytest.raises(DataError, match="only continuous"):
        data.load(str(path), env="CartPole-v1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.float32([1, 2, np.nan, 4, 5])}, "a nan in rewards at row 2 .episode 1"),
        ({"rewards": np.ones(4)}, "different lengths: observations 5, actions 5, rewards 4"),
        ({"actions": np.full((5, 1), 1.5)}, r"actions reach 1.5, outside \[-1, 1\]"),
        ({"actions": np.arange(5)}, "discrete actions and images are not supported"),
        ({key: value[:0] for key, value in ARRAYS.items()} | {"timeouts": []}, "no episodes"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **(ARRAYS | {"timeouts": TIMEOUTS} | changes))
    with pytest.raises(DataError, match=message):
        data.load(str(path))


@pytest.mark.parametrize("key", list(ARRAYS))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    rest = {name: value for name, value in ARRAYS.items() if name != key}
    path = files.write_d4rl(tmp_path / "a.hdf5", **rest, timeouts=TIMEOUTS)
    with pytest.raises(DataError, match=f"missing {key};"):
        data.load(str(path))


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **ARRAYS, timeouts=TIMEOUTS)
    files.cut_short(path)
    with pytest.raises(DataError, match=r"a\.hdf5 cannot be read, it is not HDF5 or was cut short"):
        data.load(str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.hdf5"):
        data.load(str(tmp_path / "nowhere.hdf5"))
