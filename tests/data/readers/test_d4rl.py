from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import Processing
from jaxrl_prefs.errors import DataError
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
        ("hopper_medium-v2", "", (-20.272305, 3234.3), "published table for hopper"),
        ("hopper_mixed", "Hopper-v4", (-20.272305, 3234.3), "published table for hopper"),
        ("mine", "", None, "without an environment"),
        ("mine", "Hopper-v5", None, "none for mine.hdf5 in Hopper-v5"),
        ("bullet-hopper_medium", "", None, "without an environment"),
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


SIZES = {  # D4RL's own: file, observations, actions, environment, its time limit
    "halfcheetah_medium_expert-v2": (17, 6, "HalfCheetah-v4", 1000),
    "walker_mixed": (17, 6, "Walker2d-v4", 1000),
    "pen-v0_demos_clipped": (45, 24, "AdroitHandPen-v1", 100),
    "door-demos-v0-bc-combined": (39, 28, "AdroitHandDoor-v1", 200),
    "relocate-v0_expert_clipped": (39, 30, "AdroitHandRelocate-v1", 200),
    "hammer-v0_expert_clipped": (46, 26, "AdroitHandHammer-v1", 200),
}
ELSEWHERE = {  # without an equal in Gymnasium
    "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed": (29, 8, "antmaze"),
    "mini_kitchen_microwave_kettle_light_slider-v0": (60, 9, "kitchen"),
    "maze2d-umaze-sparse-v1": (4, 2, "maze2d"),
    "ant_medium-v2": (111, 8, "locomotion"),
    "hopper_of_another_size": (12, 3, "locomotion"),
}


def of_sizes(observations: int, actions: int, **more: Any) -> dict[str, Any]:
    arrays = {"observations": np.zeros((4, observations)), "actions": np.zeros((4, actions))}
    return hopper() | arrays | more


@pytest.mark.parametrize("stem", SIZES)
def test_a_file_is_played_where_its_robot_lives(tmp_path: Path, stem: str) -> None:
    observations, actions, env_id, horizon = SIZES[stem]
    path = files.write_d4rl(tmp_path / f"{stem}.hdf5", **of_sizes(observations, actions))
    recording = data.load(str(path))
    assert recording.task is not None
    assert recording.task.env_id == env_id
    assert recording.task.max_episode_steps == horizon
    env = recording.task.make()
    assert env.observation_space.shape == (observations,)
    assert env.action_space.shape == (actions,)
    assert (env.action_space.low == recording.action_low).all()
    assert (env.action_space.high == recording.action_high).all()
    env.close()


@pytest.mark.parametrize("stem", ELSEWHERE)
def test_a_file_without_an_equal_environment_trains_unscored(tmp_path: Path, stem: str) -> None:
    observations, actions, family = ELSEWHERE[stem]
    path = files.write_d4rl(tmp_path / f"{stem}.hdf5", **of_sizes(observations, actions))
    recording = data.load(str(path))
    assert recording.family == family
    assert recording.task is None
    assert recording.references is None


def test_a_robot_cuts_its_old_files_without_timeouts(tmp_path: Path) -> None:
    arrays = of_sizes(17, 6)
    arrays = {key: np.repeat(value, 600, axis=0) for key, value in arrays.items()}
    del arrays["timeouts"]
    arrays["terminals"][1499] = True
    path = files.write_d4rl(tmp_path / "halfcheetah_medium.hdf5", **arrays)
    assert data.load(str(path)).lengths.tolist() == [1000, 500, 900]


def test_successors_may_differ_by_rounding(tmp_path: Path) -> None:
    close = {"next_observations": NEXT + np.float32(3e-7)}
    recording = data.load(str(files.write_d4rl(tmp_path / "a.hdf5", **ARRAYS, **close)))
    assert recording.lengths.tolist() == [2, 2, 1]


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
        (
            {"actions": np.full((5, 1), 1.5)},
            r"5 of 5 actions.*\[1.5\] at row 0.*outside the action space.*clip_actions=true",
        ),
        ({"actions": np.arange(5)}, "discrete actions and images are not supported"),
        ({"observations": np.zeros((5, 2, 2))}, "discrete actions and images are not supported"),
        ({"terminals": np.float32([0, 0, np.nan, 1, 0])}, "terminals hold other values than 0 and"),
        ({"timeouts": np.zeros((5, 2))}, r"timeouts have shape \(5, 2\), expected one number per"),
        ({"next_observations": np.zeros((5, 3))}, r"\(5, 2\), but next observations \(5, 3\)"),
        ({"observations": np.full((5, 2), b"text")}, "observations are not numbers but"),
        ({key: value[:0] for key, value in ARRAYS.items()} | {"timeouts": []}, "no episodes"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **(ARRAYS | {"timeouts": TIMEOUTS} | changes))
    with pytest.raises(DataError, match=message):
        data.prepare(data.load(str(path)), Processing())


@pytest.mark.parametrize("key", ["observations", "actions"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    rest = {name: value for name, value in ARRAYS.items() if name != key}
    path = files.write_d4rl(tmp_path / "a.hdf5", **rest, timeouts=TIMEOUTS)
    with pytest.raises(DataError, match=f"no column is called {key}, .* Its columns: "):
        data.load(str(path))


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "a.hdf5", **ARRAYS, timeouts=TIMEOUTS)
    files.cut_short(path)
    with pytest.raises(DataError, match=r"a\.hdf5 cannot be read, it is not HDF5 or was cut short"):
        data.load(str(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.hdf5"):
        data.load(str(tmp_path / "nowhere.hdf5"))
