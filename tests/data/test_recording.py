from __future__ import annotations

import numpy as np
import pytest

from jaxrl_prefs.data import Processing, prepare
from jaxrl_prefs.data.recording import Dataset, References, Steps, record
from jaxrl_prefs.errors import DataError

BOX = (np.array([-2.0]), np.array([2.0]))
NONE = References(None, "none")


def steps(**changes: np.ndarray) -> Steps:
    """Five steps: episodes of two (terminated) and three (cut off)."""
    observation = np.arange(10.0).reshape(5, 2)
    return Steps(
        observation=observation,
        action=np.array([[-2.0], [1.0], [0.0], [2.0], [-1.0]]),
        reward=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        terminal=np.array([False, True, False, False, False]),
        next_observation=observation + 100,
        lengths=np.array([2, 3]),
        successor=np.ones(5, bool),
    )._replace(**changes)


def made(**changes: np.ndarray) -> Dataset:
    return record("mine/set-v0", steps(**changes), BOX, None, NONE)


def test_rows_continue_inside_an_episode() -> None:
    recording = made()
    assert recording.continues.tolist() == [True, False, True, True, False]
    assert recording.terminal.tolist() == [False, True, False, False, False]
    assert recording.returns.tolist() == [3.0, 12.0]
    assert recording.lengths.tolist() == [2, 3]
    assert recording.observation.dtype == recording.action.dtype == np.float32


def test_a_step_without_a_successor_is_dropped_but_counts_in_the_return() -> None:
    recording = made(successor=np.array([True, True, True, True, False]))
    assert recording.size == 4
    assert recording.continues.tolist() == [True, False, True, False]
    assert recording.next_observation[3].tolist() == [106.0, 107.0]
    assert recording.returns.tolist() == [3.0, 12.0]
    assert recording.lengths.tolist() == [2, 3]


def test_an_unused_successor_may_be_anything() -> None:
    following = np.arange(10.0).reshape(5, 2)
    following[4] = np.nan
    assert made(next_observation=following, successor=np.arange(5) < 4).size == 4


def test_score() -> None:
    scored = record("a-v0", steps(), BOX, None, References((-100.0, 300.0), "a table"))
    assert scored.score(np.array([-100.0, 300.0, 100.0])).tolist() == [0.0, 100.0, 50.0]
    assert scored.score_kind == "normalised score"
    raw = made()
    assert raw.score(7.0) == 7.0
    assert raw.score_kind == "raw return"


def changed(key: str, row: int, value: float) -> dict[str, np.ndarray]:
    array = np.array(getattr(steps(), key), float)
    array[row] = value
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            changed("reward", 3, np.nan),
            r"mine/set-v0: a nan in rewards at row 3 \(episode 1, step 1\)",
        ),
        (changed("reward", 0, -np.inf), r"a -inf in rewards at row 0 \(episode 0, step 0\)"),
        (changed("reward", 2, 1e39), r"1e\+39 is too large for 32-bit floats in rewards at row 2"),
        (
            changed("observation", 4, np.nan),
            r"a nan in observations at row 4 \(episode 1, step 2\)",
        ),
        (changed("next_observation", 1, np.inf), r"a inf in next observations at row 1"),
        (changed("action", 2, np.nan), r"a nan in actions at row 2"),
        ({"lengths": np.array([], int)}, "has no episodes"),
        (changed("terminal", 3, np.nan), r"terminal flag is nan at row 3 \(episode 1, step 1\)"),
        (changed("terminal", 1, 2), r"terminal flag is 2.0 at row 1 \(episode 0, step 1\)"),
        ({"reward": np.ones(4)}, "different lengths: observations 5, actions 5, rewards 4"),
        ({"action": np.ones(5)}, r"actions have shape \(5,\), expected 2 axes"),
        ({"action": np.ones((5, 3))}, "actions have 3 dimensions, the action space 1"),
        ({"successor": np.zeros(5, bool)}, "no step has a successor"),
    ],
)
def test_bad_arrays_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(**changes)


def test_actions_outside_of_the_box_are_clipped_on_demand_only() -> None:
    assert made(**changed("action", 4, 2.003)).outside == ""  # rounding
    recording = made(**changed("action", 4, 2.005))
    with pytest.raises(DataError, match=r"1 of 5 actions, the first .*2.005\] at row 4 .* outside"):
        prepare(recording, Processing())
    actions = prepare(recording, Processing(clip_actions=True)).transitions.action
    np.testing.assert_array_equal(actions[4], np.float32([1 - 1e-5]))


def test_an_entry_of_equal_bounds_is_a_constant() -> None:
    box = np.array([-2.0, 0.5]), np.array([2.0, 0.5])
    action = np.c_[steps().action, np.full(5, 0.5)]
    dataset = prepare(record("a-v0", steps(action=action), box, None, NONE), Processing())
    assert not dataset.transitions.action[:, 1].any()
    assert (dataset.action.invert(np.full((3, 2), 0.9))[:, 1] == 0.5).all()
    other = record("a-v0", steps(action=action + 0.1), box, None, NONE)
    with pytest.raises(DataError, match="5 of 5 actions"):
        prepare(other, Processing())


def test_an_empty_episode_is_left_out_with_a_note() -> None:
    recording = made(lengths=np.array([2, 0, 3]))
    assert recording.lengths.tolist() == [2, 3]
    assert recording.returns.tolist() == [3.0, 12.0]
    assert recording.notes == ("1 of 3 episodes has no steps: left out",)
    with pytest.raises(DataError, match=r"a nan in rewards at row 2 \(episode 2, step 0\)"):
        made(lengths=np.array([2, 0, 3]), **changed("reward", 2, np.nan))


@pytest.mark.parametrize(
    ("low", "high"), [(-np.inf, np.inf), (-1.0, np.inf), (1.0, -1.0), (2.0, 2.0), (np.nan, 1.0)]
)
def test_an_action_space_without_bounds_is_refused(low: float, high: float) -> None:
    with pytest.raises(DataError, match="the action space is not a bounded box"):
        record("a-v0", steps(), (np.array([low]), np.array([high])), None, NONE)


@pytest.mark.parametrize("values", [(2.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_meaningless_references_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(DataError, match=r"reference returns .* \(the metadata\)"):
        record("a-v0", steps(), BOX, None, References(values, "the metadata"))


@pytest.mark.parametrize("low", [1.0, 1.0 + 1e-9, -3000.0])
def test_equal_references_leave_returns_raw(low: float) -> None:
    high = low + 1e-9 * abs(low)
    scored = record("a-v0", steps(), BOX, None, References((low, high), "the metadata"))
    assert scored.references is None
    assert scored.score_kind == "raw return"
    assert f"both references are {low:g}" in scored.reference_source
