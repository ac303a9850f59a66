"""Tables of named columns become the episodes that they tell of."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.data import Dataset, frames, tables
from jaxrl_prefs.data.columns import Table
from jaxrl_prefs.data.hints import read_hints
from jaxrl_prefs.data.recording import Dataset as Recording

# Two episodes: three steps that end by a terminal, two that are cut off.
STATES = [[0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [10.0, 8.0], [11.0, 9.0]]
ACTIONS = [[0.1], [0.2], [-0.3], [0.0], [1.0]]
REWARDS = [1.0, 2.0, 3.0, 4.0, 5.0]
ENDS = {"terminals": [0, 0, 1, 0, 0], "timeouts": [0, 0, 0, 0, 1]}
BASE = {"observations": STATES, "actions": ACTIONS, "rewards": REWARDS}
BOUNDS = {"action_low": -1.0, "action_high": 1.0}
FIRST, SECOND = [0.0, 1.0, 2.0, 10.0, 11.0], [5.0, 6.0, 7.0, 8.0, 9.0]


def expected() -> Recording:
    arrays = {key: np.array(value) for key, value in BASE.items()}
    return Dataset.from_arrays(**arrays, **ENDS)


def frame(table: Any, **hints: Any) -> Recording:
    """A dataset without the warnings about what was assumed; they stand in its notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Dataset.from_frame(table, **(BOUNDS | hints))


def assert_same(found: Recording, other: Recording) -> None:
    names = ("observation", "action", "reward", "terminal", "next_observation", "continues")
    for name in (*names, "lengths", "returns", "action_low", "action_high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name), name)


@pytest.mark.parametrize(
    "columns",
    [
        {"observations": STATES, "actions": ACTIONS},
        {"obs_0": FIRST, "obs_1": SECOND, "action_0": [0.1, 0.2, -0.3, 0.0, 1.0]},
        {"obs_1": FIRST, "action": [0.1, 0.2, -0.3, 0.0, 1.0], "obs_2": SECOND},
        {"obs.x": FIRST, "obs.angle": SECOND, "act": ACTIONS},
        {"State[0]": FIRST, "State[1]": SECOND, "ACTION[0]": [0.1, 0.2, -0.3, 0.0, 1.0]},
        {"observation.state": STATES, "action": ACTIONS},
        {"obs/b": FIRST, "obs/a": SECOND, "actions/steer": [0.1, 0.2, -0.3, 0.0, 1.0]},
    ],
)
def test_columns_by_the_names_that_people_use(columns: dict[str, Any]) -> None:
    assert_same(frame({**columns, "reward": REWARDS, **ENDS}), expected())


def test_numbered_columns_are_ordered_by_number() -> None:
    wide = {f"obs_{i}": np.full(5, float(i)) for i in range(12)}
    shuffled = {name: wide[name] for name in sorted(wide)}  # obs_0, obs_1, obs_10, obs_11, obs_2
    found = frame({**shuffled, "action": ACTIONS, "reward": REWARDS, **ENDS})
    np.testing.assert_array_equal(found.observation[0], np.arange(12))
    assert found.observation_names[10] == "obs_10"
    del shuffled["obs_3"]
    with pytest.raises(jp.DataError, match=r"numbered 0, 1, 2, 4, .*: some are missing"):
        frame({**shuffled, "action": ACTIONS, "reward": REWARDS, **ENDS})


@pytest.mark.parametrize(
    "flags",
    [
        {"terminated": [0, 0, 1, 0, 0], "truncated": [0, 0, 0, 0, 1]},
        {"is_terminal": [False, False, True, False, False], "episode_id": ["a"] * 3 + ["b"] * 2},
        {"terminations": [0, 0, 1, 0, 0], "truncations": [0, 0, 0, 0, 1]},
        {"done": [0, 0, 1, 0, 1], "truncated": [0, 0, 0, 0, 1]},
        {"done": [0, 0, 1, 0, 1], "terminal": [0, 0, 1, 0, 0]},
        {"Terminal": [[0], [0], [1], [0], [0]], "episode_index": [4, 4, 4, 9, 9]},
        {"terminal": [0, 0, 1, 0, 0]},
    ],
)
def test_flags_by_the_names_that_people_use(flags: dict[str, Any]) -> None:
    found = frame({**BASE, **flags})
    assert_same(found, expected())
    assert found.notes == ()


def test_a_lone_done_is_a_question() -> None:
    table = {**BASE, "dones": [0, 0, 1, 0, 1]}
    with pytest.raises(jp.DataError) as caught:
        frame(table)
    text = str(caught.value)
    assert "dones is the only flag" in text
    assert "episode_ends=terminal if" in text and "episode_ends=timeout if" in text
    ended = frame(table, episode_ends="terminal")
    np.testing.assert_array_equal(ended.terminal, [0, 0, 1, 0, 1])
    cut = frame(table, episode_ends="timeout")
    assert cut.size == 3 and not cut.terminal.any()  # what followed a cut is not known
    none = frame({**BASE, "dones": [0] * 5})
    assert not none.terminal.any() and len(none.lengths) == 1


def test_episodes_without_a_flag_are_taken_as_cut_and_it_is_said() -> None:
    found = frame({**BASE, "episode": [0, 0, 0, 1, 1]})
    assert found.lengths.tolist() == [3, 2] and not found.terminal.any()
    assert found.notes[0].startswith("no column says how episodes end: they are taken as cut off")
    whole = frame(BASE)
    assert whole.lengths.tolist() == [5]
    assert "all rows are one episode" in whole.notes[0]
    timed = frame({**BASE, "t": [0.0, 0.1, 0.2, 0.0, 0.1]})
    assert timed.lengths.tolist() == [3, 2]
    assert "an episode begins where t goes back" in timed.notes[0]
    assert timed.time is not None


def test_next_observations_are_taken_where_they_are() -> None:
    after = [[1.0, 6.0], [2.0, 7.0], [3.0, 8.0], [11.0, 9.0], [12.0, 10.0]]
    for name in ("next_observations", "next_obs"):
        found = frame({**BASE, name: after, **ENDS})
        assert found.size == 5
        np.testing.assert_array_equal(found.next_observation, after)
    mixed = {"obs_a": FIRST, "obs_b": SECOND, "next_obs_b": [6, 7, 8, 9, 10]}
    mixed |= {"next_obs_a": [1, 2, 3, 11, 12], "action": ACTIONS, "reward": REWARDS}
    np.testing.assert_array_equal(frame({**mixed, **ENDS}).next_observation, after)


def test_rlds_keeps_an_observation_after_the_last_step() -> None:
    table = {
        "observation": [[0.0], [1.0], [2.0], [10.0], [11.0]],
        "action": [[0.1], [0.2], [9.0], [0.3], [9.0]],  # an action after the last step is nonsense
        "reward": [1.0, 2.0, 9.0, 3.0, 9.0],
        "is_first": [1, 0, 0, 1, 0],
        "is_last": [0, 0, 1, 0, 1],
        "is_terminal": [0, 0, 1, 0, 0],
    }
    found = frame(table)
    np.testing.assert_array_equal(found.observation[:, 0], [0, 1, 10])
    np.testing.assert_array_equal(found.next_observation[:, 0], [1, 2, 11])
    np.testing.assert_array_equal(found.reward, [1, 2, 3])
    np.testing.assert_array_equal(found.terminal, [0, 1, 0])
    np.testing.assert_array_equal(found.continues, [1, 0, 0])
    assert_same(frame({name.upper(): column for name, column in table.items()}), found)
    for ends, terminal in (("terminal", [0, 1, 1]), ("timeout", [0, 0, 0])):
        asked = frame(table, episode_ends=ends)  # changes what the end is, and nothing else
        assert_same(asked, found._replace(terminal=np.array(terminal, asked.terminal.dtype)))


def test_columns_by_choice() -> None:
    table = {"t": [0, 1, 2, 3, 4], "level": FIRST, "valve": [1, 2, 3, 4, 5], "run": [1, 1, 1, 2, 2]}
    table |= {"gain": REWARDS, "remark": ["a", "b", "c", "d", "e"], "flow": SECOND}
    hints = {"observation_keys": ["flow", "level"], "action_keys": "valve", "reward_key": "gain"}
    found = frame(table, **hints, episode_key="run", action_low=0, action_high=10)
    assert found.observation_names == ("flow", "level") and found.action_names == ("valve",)
    np.testing.assert_array_equal(found.observation[0], [5, 0])
    assert found.action_high == [10] and found.returns.tolist() == [6, 9]
    assert "columns that are not used: remark" in found.notes
    with pytest.raises(jp.DataError, match=r"no column 'flows' \(observation_keys\). Did you mean"):
        frame(table, observation_keys=["flows"], action_keys=["valve"])
    with pytest.raises(
        jp.DataError, match=r"name the columns of the observation .* t, level, valve"
    ):
        frame(table)
    with pytest.raises(jp.DataError, match="remark holds no numbers but text"):
        frame(table, observation_keys=["remark"], action_keys=["valve"])
    with pytest.raises(jp.DataError, match=r"no column 'rum'.*Did you mean 'run'"):
        frame(table, **hints, episode_key="rum")


def test_bounds_are_given_or_taken_and_it_is_said() -> None:
    with pytest.warns(UserWarning, match=r"bounds are taken from the data: low \[-0.3\], high \[1"):
        found = Dataset.from_frame({**BASE, **ENDS})
    assert found.action_low == np.float32(-0.3) and found.action_high == 1
    with pytest.raises(jp.DataError, match="action_high is missing: give both"):
        Dataset.from_frame({**BASE, **ENDS}, action_low=-1)
    with pytest.raises(jp.DataError, match="has 2 numbers, and there are 1 actions"):
        Dataset.from_frame({**BASE, **ENDS}, action_low=[-1, -1], action_high=1)
    with pytest.warns(UserWarning, match="bounds are taken"):
        arrays = {key: np.array(value) for key, value in BASE.items()}
        same = Dataset.from_arrays(**arrays, **ENDS, action_low=None, action_high=None)
    assert same.action_low == found.action_low


def test_rewards_may_be_missing() -> None:
    found = frame({"obs": STATES, "action": ACTIONS, **ENDS})
    assert not found.has_rewards and not found.reward.any()
    assert "there are no rewards" in found.notes[0]
    prepared = jp.prepare(found, jp.Processing(reward="range", reward_scale=1000.0))
    assert not prepared.transitions.reward.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode": [0, 1, 0, 1, 1]}, r"episode 0 \(episode\) comes back at row 2 after others"),
        ({"episode": [0, np.nan, 0, 1, 1]}, "episode is empty at row 1"),
        ({"done": [0, 0, 2, 0, 0]}, "done holds other values than 0 and 1: 2 at row 2"),
        ({"rewards": [1.0, 2.0]}, "arrays of different lengths"),
        ({"rewards": STATES}, "rewards holds 2 numbers in a row, expected one"),
        ({"observations": np.zeros((5, 8, 8, 3))}, "observations: its images are float64"),
        ({"actions": np.zeros((5, 8, 8, 3, 1))}, "neither vectors nor images"),
        ({"observations": [[1.0], [1.0, 2.0], [1.0], [1.0], [1.0]]}, "lists of different lengths"),
        ({"observations": [{}] * 5}, "neither numbers nor text but dict"),
        ({"actions": np.zeros((5, 0))}, "lists without numbers"),
        ({"next_observations": [[1.0]] * 5}, "observations have 2 numbers, but next"),
    ],
)
def test_bad_tables_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(jp.DataError, match=message):
        frame({**BASE, **ENDS, **changes})
    with pytest.raises(jp.DataError, match="frame: a table of pandas, polars or Arrow"):
        frame([1, 2])


# --- Bad rows -------------------------------------------------------------------------------------


def bad() -> dict[str, Any]:
    """Eight steps of one episode and two of another; rows 2, 5 and 6 are bad."""
    observation = np.arange(10.0)[:, None]
    action, reward = np.zeros((10, 1)), np.arange(10.0)
    action[2], reward[5], observation[6] = np.nan, np.inf, np.nan
    return {
        "observations": observation,
        "actions": action,
        "rewards": reward,
        "terminals": np.arange(10) == 7,
        "timeouts": np.arange(10) == 9,
    }


def test_all_bad_rows_are_counted_and_located() -> None:
    with pytest.raises(jp.DataError) as caught:
        Dataset.from_arrays(**bad())
    text = str(caught.value)
    assert "3 bad rows in 1 of 2 episodes" in text and "rows 2, 5 to 6" in text
    assert "a nan in observations at row 6 (episode 0, step 6)" in text
    assert "bad_rows=drop leaves such rows out and cuts the episode there" in text


def test_dropping_bad_rows_never_bridges_a_gap() -> None:
    with pytest.warns(UserWarning, match="left out, with the episode cut there: 3 bad rows"):
        found = Dataset.from_arrays(**bad(), bad_rows="drop")
    # 0 1 | 3 4 | 7 | 8: row 9 was cut off, and nobody knows what followed it.
    np.testing.assert_array_equal(found.observation[:, 0], [0, 1, 3, 4, 7, 8])
    np.testing.assert_array_equal(found.next_observation[:, 0], [1, 2, 4, 5, 7, 9])
    np.testing.assert_array_equal(found.continues, [1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.terminal, [0, 0, 0, 0, 1, 0])
    assert found.lengths.tolist() == [2, 2, 1, 2]
    assert found.returns.tolist() == [1, 7, 7, 17]


def test_nothing_but_bad_rows() -> None:
    arrays = bad() | {"rewards": np.full(10, np.nan)}
    with pytest.raises(jp.DataError, match="no row is good"):
        Dataset.from_arrays(**arrays, bad_rows="drop")
    with pytest.raises(jp.DataError, match="bad_rows takes error or drop, and got 'skip'"):
        Dataset.from_arrays(**bad(), bad_rows="skip")


def test_an_empty_flag_is_a_bad_row() -> None:
    table = {**BASE, "terminals": [0, np.nan, 1, 0, 0], "timeouts": ENDS["timeouts"]}
    with pytest.raises(jp.DataError, match="a terminal flag is nan at row 1"):
        frame(table)
    found = frame(table, bad_rows="drop")
    np.testing.assert_array_equal(found.reward, [1, 3, 4])


# --- Frames ---------------------------------------------------------------------------------------


def test_frames_of_every_kind() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    columns = {"obs": STATES, "action_0": [0.1, 0.2, -0.3, 0.0, 1.0], "reward": REWARDS, **ENDS}
    whole = expected()
    for table in (pandas.DataFrame(columns), polars.DataFrame(columns), arrow.table(columns)):
        assert_same(frame(table), whole)
    nested = arrow.table({"obs": [{"x": a, "y": b} for a, b in STATES], "action": ACTIONS})
    found = frame(nested)
    assert found.observation_names == ("obs.x", "obs.y")
    fixed = arrow.FixedSizeListArray.from_arrays(arrow.array(np.arange(10.0)), 2)
    np.testing.assert_array_equal(
        frames.columns("a", arrow.table({"a": fixed}))["a"], np.arange(10.0).reshape(5, 2)
    )


def test_missing_cells_are_nan_in_frames_of_every_kind() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    columns = {"a": [1, None, 3], "b": [[1.0, 2.0], [3.0, 4.0], None], "c": ["x", "y", None]}
    for table in (pandas.DataFrame(columns), polars.DataFrame(columns), arrow.table(columns)):
        found = frames.columns("t", table)
        np.testing.assert_array_equal(found["a"], [1, np.nan, 3])
        np.testing.assert_array_equal(found["b"], [[1, 2], [3, 4], [np.nan] * 2])
        assert found["c"].tolist() == ["x", "y", ""]


def test_parts_of_a_table_never_share_an_episode() -> None:
    one = {key: np.array(value) for key, value in BASE.items()}
    table = tables.joined("both", [Table("a", one), Table("b", one)])
    steps = tables.steps_of(table, read_hints())
    assert steps.lengths.tolist() == [5, 5]
    assert steps.successor.tolist() == ([True] * 4 + [False]) * 2
    with pytest.raises(jp.DataError, match="b has no column 'rewards', which other files of both"):
        less = {key: value for key, value in one.items() if key != "rewards"}
        tables.joined("both", [Table("a", one), Table("b", less)])


# --- What must not be guessed ---------------------------------------------------------------------

STEP = {"action": [0.1, 0.2], "reward": [1, 1], "terminated": [0, 1]}


def test_next_observations_are_paired_by_their_whole_names() -> None:
    after = {"next_observation_right_x": [101, 102], "next_observation_left_x": [2, 3]}
    for left, right in (("obs_left_x", "obs_right_x"), ("obs.left.x", "obs.right.x")):
        found = frame({left: [1, 2], right: [100, 101], **after, **STEP})
        np.testing.assert_array_equal(found.next_observation, [[2, 101], [3, 102]])
    chosen = {"left_x": [1, 2], "right_x": [100, 101], **after, **STEP}
    found = frame(chosen, observation_keys="right_x,left_x")
    np.testing.assert_array_equal(found.next_observation, [[101, 2], [102, 3]])
    lists = {"obs_0": [1, 2], "obs_1": [100, 101], "next_obs": [[2, 101], [3, 102]], **STEP}
    np.testing.assert_array_equal(frame(lists).next_observation, [[2, 101], [3, 102]])


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ({"pos": [1, 2], "vel": [3, 4], "next_obs_v": [4, 5], "next_obs_p": [2, 3]}, "pos,vel"),
        ({"obs_a": [1, 2], "obs_b": [3, 4], "next_obs_v": [4, 5], "next_obs_p": [2, 3]}, ""),
        ({"obs_x": [1, 2], "obs_y": [3, 4], "next_obs": [[2, 4], [3, 5]]}, ""),
    ],
)
def test_next_observations_that_cannot_be_paired(table: dict[str, Any], keys: str) -> None:
    with pytest.raises(jp.DataError, match=r"do not tell which belongs to which .* name them al"):
        frame({**table, **STEP}, observation_keys=keys)


def test_by_products_are_no_dimensions() -> None:
    table = {"obs": [1, 2], "action_0": [0.1, 0.2], "action_1": [0.3, 0.4]}
    found = frame({**table, "action_logprob": [-3, -4], "terminated": [0, 1]})
    np.testing.assert_array_equal(found.action, np.float32([[0.1, 0.3], [0.2, 0.4]]))
    assert "columns that are not used: action_logprob" in found.notes


def test_parts_without_rows_are_left_out() -> None:
    one = {key: np.array(value) for key, value in BASE.items()}
    none = Table("none", {key: np.zeros(0) for key in BASE})  # not even lists
    for parts in ([none, Table("a", one)], [Table("a", one), none], [none, none]):
        table = tables.joined("both", parts)
        if parts[0] is parts[1]:
            with pytest.raises(jp.DataError, match="both: the dataset has no episodes"):
                tables.steps_of(table, read_hints())
            continue
        steps = tables.steps_of(table, read_hints())
        assert steps.lengths.tolist() == [5]
        assert steps.notes[0] == "1 of 2 files has no rows: left out"


def test_constant_actions_ask_for_bounds() -> None:
    table = {**BASE, **ENDS, "actions": [[1.0]] * 5}
    with pytest.raises(jp.DataError, match=r"action_low=\.\.\. .*action_high="):
        Dataset.from_frame(table)
    assert frame(table).size == 4


@pytest.mark.parametrize("name", ["step", "t", "timestamp", "frame_index"])
def test_rows_of_an_episode_are_in_order(name: str) -> None:
    table = {**BASE, "episode": [0, 0, 0, 1, 1], name: np.array([2, 0, 1, 0, 1], np.uint8)}
    with pytest.raises(jp.DataError, match=rf"{name} goes back at row 1, within .* Sort them by"):
        frame({**table, "terminated": [1, 0, 0, 0, 0]})
    assert frame({**table, name: [0, 1, 1, 0, 1]}).lengths.tolist() == [3, 2]


def test_an_episode_begins_where_steps_start_again() -> None:
    table = {**BASE, "step": [0, 1, 2, 0, 1]}
    found = frame(table)
    assert found.lengths.tolist() == [3, 2]
    assert "an episode begins where step goes back" in found.notes[0]
    flagged = frame({**table, "terminated": [0, 1, 0, 0, 0]})
    assert flagged.lengths.tolist() == [2, 1, 2]
    assert "step goes back, besides those that flags end" in flagged.notes[0]
    assert frame({**table, **ENDS}).notes == ()


def test_an_end_within_an_episode_is_noted() -> None:
    found = frame({**BASE, "terminated": [0, 1, 0, 0, 1], "episode": [0, 0, 0, 1, 1]})
    assert found.lengths.tolist() == [2, 1, 2]
    assert found.notes == ("1 ends lie within an episode (episode): it is cut there",)


def test_numbers_of_episodes_that_floats_cannot_tell_apart() -> None:
    ids = np.array([2**53, 2**53 + 1, 2**53 + 1, 7, 7])
    assert frame({**BASE, "episode": ids}).lengths.tolist() == [1, 2, 2]
    for kind in (np.float64, np.float32):
        with pytest.raises(jp.DataError, match=r"episode holds floats .* as integers or as text"):
            frame({**BASE, "episode": ids.astype(kind)})
