"""Several recorded steps as one, against values that are known."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrl_prefs.data import (
    ActionChunk,
    Dataset,
    PreparedDataset,
    Processing,
    multi_step,
    prepare,
    split,
)
from jaxrl_prefs.data.split import episode_of, taken
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.types import Transition

GAMMA = 0.9
LENGTHS = (6, 4, 2, 7)
WHOLE = (True, False, True, False)  # whether an episode ends by a terminal, or is cut off
MIDDLE = 13  # a row in the middle of the last episode that is terminal, as in OGBench's data


def recording() -> Dataset:
    """Episodes of a deterministic chain; each state is a number that no other has.

    Row i has observation (i,) and is followed by observation (i + 1,); the end of episode e is
    observation (100 + e,).
    """
    size = sum(LENGTHS)
    ends = np.cumsum(LENGTHS) - 1
    following = np.arange(1.0, size + 1)
    following[ends] = 100 + np.arange(len(LENGTHS))
    terminal = np.zeros(size, bool)
    terminal[ends] = WHOLE
    timeout = np.zeros(size, bool)
    timeout[ends] = np.logical_not(WHOLE)
    found = Dataset.from_arrays(
        np.arange(size)[:, None],
        np.linspace(-0.9, 0.9, 2 * size).reshape(size, 2),
        np.random.default_rng(0).normal(size=size),
        terminal,
        timeout,
        next_observations=following[:, None],
        name="chain",
    )
    terminal = found.terminal.copy()
    terminal[MIDDLE] = True
    return found._replace(terminal=terminal)


def prepared() -> PreparedDataset:
    return prepare(recording(), Processing(gamma=GAMMA))


def values(data: Dataset) -> dict[float, float]:
    """The value of every state of the chain, backwards from what follows its episodes."""
    found = {100.0 + e: 5.0 - 3 * e for e in range(len(LENGTHS))}  # any, where a recording was cut
    for row in range(data.size - 1, -1, -1):
        after = 0.0 if data.terminal[row] else found[float(data.next_observation[row, 0])]
        found[float(row)] = float(data.reward[row]) + GAMMA * after
    return found


def check_bellman(rows: Transition) -> None:
    """The exact values are the fixed point of a regression on the rows."""
    exact = values(recording())
    here, after = (
        np.asarray([exact[float(x)] for x in np.asarray(each)[:, 0]])
        for each in (rows.observation, rows.next_observation)
    )
    np.testing.assert_allclose(rows.reward + rows.discount * after, here, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_values_of_the_chain_solve_the_bellman_equation_of_every_row(n: int, length: int) -> None:
    check_bellman(multi_step(prepared(), n, ActionChunk(length)).transitions)


def test_n_steps_by_hand() -> None:
    whole = prepared().transitions
    rows = multi_step(prepared(), 3).transitions
    r = whole.reward
    # Row 0: three steps. Row 4: two, then the end. Row 8: two, then the recording was cut.
    assert rows.reward[0] == pytest.approx(r[0] + 0.9 * r[1] + 0.81 * r[2])
    assert rows.reward[4] == pytest.approx(r[4] + 0.9 * r[5])
    assert rows.reward[8] == pytest.approx(r[8] + 0.9 * r[9])
    np.testing.assert_allclose(rows.discount[[0, 4, 8]], [0.9**3, 0, 0.9**2], rtol=1e-6)
    assert rows.next_observation[[0, 8], 0].tolist() == [3, 101]
    assert rows.next_index[[0, 8]].tolist() == [3, 8]
    assert rows.has_next_action[[0, 4, 8]].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(rows.next_action[0], whole.action[3])
    np.testing.assert_array_equal(rows.next_action[[4, 8]], 0)
    # The steps of a row stop at a terminal even if the recording goes on.
    assert rows.next_index[MIDDLE - 1] == MIDDLE + 1 and rows.discount[MIDDLE - 1] == 0
    assert rows.reward[MIDDLE - 1] == pytest.approx(r[MIDDLE - 1] + 0.9 * r[MIDDLE])
    for name in ("observation", "action", "index"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(whole, name))


def test_chunks_by_hand() -> None:
    whole, found = prepared().transitions, multi_step(prepared(), 1, ActionChunk(3))
    rows = found.transitions
    # Of episodes of 6, 4, 2 and 7 steps: 4, 2, none and 5 have three actions left.
    starts = [0, 1, 2, 3, 6, 7, 12, 13, 14, 15, 16]
    assert rows.observation[:, 0].tolist() == starts
    np.testing.assert_array_equal(
        rows.action, [whole.action[row : row + 3].ravel() for row in starts]
    )
    r = whole.reward
    assert rows.reward[0] == pytest.approx(r[0] + 0.9 * r[1] + 0.81 * r[2])
    assert rows.reward[7] == pytest.approx(r[MIDDLE])  # its first step was the last that counts
    assert rows.discount[[3, 6, 7]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(np.delete(rows.discount, [3, 6, 7]), 0.9**3, rtol=1e-6)
    assert rows.next_observation[[0, 5, 10], 0].tolist() == [3, 101, 103]
    assert rows.index.tolist() == list(range(11))
    # The next chunk of row 0 begins in row 3; that of row 1 would begin in 4, which has only two.
    assert rows.has_next_action.tolist() == [1, *[0] * 10]
    assert rows.next_index.tolist() == [3, *range(1, 11)]
    np.testing.assert_array_equal(rows.next_action[0], rows.action[3])
    np.testing.assert_array_equal(rows.next_action[1:], 0)


def test_the_maps_and_the_spec_of_chunks() -> None:
    whole, found = prepared(), multi_step(prepared(), 1, ActionChunk(3, 2))
    assert (found.spec.action_dim, found.spec.size) == (6, 11)
    assert found.spec.action_low.tolist() == [-1] * 6 and found.spec.action_high.tolist() == [1] * 6
    np.testing.assert_allclose(found.spec.action_mean, found.transitions.action.mean(0))
    played = found.raw_actions(found.transitions.action[:2])
    expected = [recording().action[row : row + 2] for row in (0, 1)]
    np.testing.assert_allclose(played, expected, atol=1e-6)
    assert whole.raw_actions(whole.transitions.action).shape == (19, 1, 2)


def test_one_step_changes_nothing() -> None:
    whole = prepared()
    assert multi_step(whole) is whole


def test_held_out_episodes_stay_apart() -> None:
    parts = split(prepared(), 0.5)
    found = multi_step(parts, 2, ActionChunk(2))
    assert parts.held_out is not None and found.held_out is not None
    seen = {float(x) for x in parts.transitions.observation[:, 0]}
    seen |= {float(x) for x in parts.transitions.next_observation[:, 0]}
    trained, apart = found.transitions, found.held_out
    assert {float(x) for x in trained.observation[:, 0]} <= seen
    assert {float(x) for x in trained.next_observation[:, 0]} <= seen
    assert not {float(x) for x in apart.observation[:, 0]} & seen
    assert not {float(x) for x in apart.next_observation[:, 0]} & seen
    assert found.spec.size == len(trained.reward)
    for rows in (trained, apart):
        check_bellman(rows)
    assert apart.discount[0] == pytest.approx(GAMMA**4)  # two chunks of two


def test_a_dropped_row_cuts_the_steps() -> None:
    reward = np.zeros(6)
    reward[2] = np.nan
    episode = {
        "observations": np.arange(7.0)[:, None],
        "actions": np.linspace(-1, 1, 6)[:, None],
        "rewards": reward,
    }
    with pytest.warns(UserWarning, match="left out"):
        found = Dataset.from_episodes([episode], bad_rows="drop")
    rows = multi_step(prepare(found, Processing()), 1, ActionChunk(2)).transitions
    assert rows.observation[:, 0].tolist() == [0, 3, 4]


def test_steps_that_do_not_follow_one_another_are_refused() -> None:
    single = prepare(recording()._replace(continues=np.zeros(19, bool)), Processing())
    with pytest.raises(DataError, match="chain: n_step=2 needs steps in the order of time"):
        multi_step(single, 2)
    with pytest.raises(DataError, match="chain: action_chunk=2 needs steps in the order of time"):
        multi_step(single, 1, ActionChunk(2))
    for length in (8, 10**15):  # of which not even the rows would fit in memory
        with pytest.raises(
            DataError, match=r"chain: .* every episode; .* has 7 steps: choose a smaller action_ch"
        ):
            multi_step(prepared(), 1, ActionChunk(length))


def test_held_out_episodes_that_are_too_short_are_named() -> None:
    whole = prepared()
    short = taken(whole.transitions, np.isin(episode_of(whole.transitions), [1, 2]))
    with pytest.raises(
        DataError, match=r"longer than every held-out episode; .* 4 steps: choose a smaller"
    ):
        multi_step(whole._replace(held_out=short), 1, ActionChunk(5))
