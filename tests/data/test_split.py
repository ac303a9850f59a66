"""A split by whole episodes."""

from __future__ import annotations

import doctest
import sys

import numpy as np
import pytest

from jaxrl_prefs.data import DataError, Dataset, Processing, prepare, split
from jaxrl_prefs.data.split import episode_of, held_out
from jaxrl_prefs.types import Transition

EPISODES, LENGTH = 10, 6


def recording(episodes: int = EPISODES) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset.from_episodes(
        [
            {
                "observations": np.full((LENGTH + 1, 1), number) + 0.01 * np.arange(7)[:, None],
                "actions": rng.uniform(-1, 1, (LENGTH, 1)),
                "rewards": np.arange(LENGTH),
                "terminal": number % 2 == 0,
            }
            for number in range(episodes)
        ]
    )


def numbers(rows: Transition) -> set[int]:
    return set(np.floor(np.asarray(rows.observation)[:, 0] + 1e-6).astype(int).tolist())


def test_every_episode_is_whole_and_on_one_side() -> None:
    whole = prepare(recording(), Processing())
    assert episode_of(whole.transitions).tolist() == np.repeat(range(EPISODES), LENGTH).tolist()
    parts = split(whole, 0.3)
    assert parts.held_out is not None
    kept, apart = numbers(parts.transitions), numbers(parts.held_out)
    assert len(apart) == 3 and kept | apart == set(range(EPISODES)) and not kept & apart
    for rows in (parts.transitions, parts.held_out):
        size = len(rows.reward)
        assert size % LENGTH == 0
        assert rows.index.tolist() == list(range(size))
        goes_on = np.asarray(rows.has_next_action) > 0
        assert (rows.next_index[goes_on] == rows.index[goes_on] + 1).all()
        assert (rows.next_index[~goes_on] == rows.index[~goes_on]).all()
        follower = rows.observation[rows.next_index][goes_on]
        assert follower == pytest.approx(rows.next_observation[goes_on])
    assert parts.spec.size == 7 * LENGTH
    assert parts.spec.action_mean == pytest.approx(parts.transitions.action.mean(0))


def test_without_a_share_nothing_changes_and_the_same_share_gives_the_same_split() -> None:
    whole = prepare(recording(), Processing())
    assert split(whole, 0.0) is whole
    first, second = split(whole, 0.3).held_out, split(whole, 0.3).held_out
    assert first is not None and second is not None
    assert numbers(first) == numbers(second)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_have_an_episode(share: float) -> None:
    assert 1 <= held_out(EPISODES, share).sum() <= EPISODES - 1


def test_what_cannot_be_split_is_refused() -> None:
    one = prepare(recording(1), Processing())
    with pytest.raises(DataError, match="has one episode, and a split needs two"):
        split(one, 0.1)
    with pytest.raises(DataError, match=r"at least 0 and below 1, and got 1\.5"):
        split(one, 1.5)


def test_examples() -> None:
    assert doctest.testmod(sys.modules[split.__module__]).failed == 0
