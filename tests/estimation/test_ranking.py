"""Rank correlation, regret, and how certain a choice is."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from jaxrl_prefs.estimation import ranking


def test_spearman_by_hand() -> None:
    # ranks 0 1 2 3 against 1 0 2 3: 1 - 6 * 2 / (4 * 15)
    assert ranking.spearman([1, 2, 3, 4], [20, 10, 30, 40]) == pytest.approx(0.8)
    assert ranking.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks .5 .5 2 against 0 1 2: covariance 1.5, sizes sqrt(1.5) and sqrt(2)
    assert ranking.spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(1.5 / np.sqrt(3))
    assert np.isnan(ranking.spearman([1, 1, 1], [1, 2, 3]))


def test_regret_falls_with_k() -> None:
    scores = np.array([0.0, 60.0, 100.0, 80.0])
    estimates = np.array([9.0, 5.0, 1.0, 7.0])
    assert [ranking.regret(estimates, scores, k) for k in (1, 2, 3, 4)] == pytest.approx(
        [1, 0.2, 0.2, 0]
    )
    assert ranking.regret(estimates, np.ones(4)) == 0


def test_draws_have_the_spread_of_their_members() -> None:
    """Members of a normal distribution: the interval is Student's t, 3.182 deviations of 4."""
    members = np.array([[-1.0, 0.0, 0.5, 2.0]])
    drawn = ranking.draws([members], count=200_000)[:, 0]
    low, high = ranking.interval(drawn)
    reach = 3.182 * members.std(ddof=1)
    # The members' own mean is uncertain by their deviation: each is one replicate.
    assert (high - low) / 2 == pytest.approx(reach, rel=0.03)
    assert (high + low) / 2 == pytest.approx(members.mean(), abs=0.05)


def test_policies_that_differ_alike_in_every_member_are_told_apart() -> None:
    """Far apart members, but the second policy is better in each by the same amount."""
    members = np.array([[-10.0, 0.0, 3.0, 20.0]])
    shares = ranking.certainty(ranking.draws([members, members + 0.1]))
    assert shares.tolist() == [0, 1]
    noisy = members + np.array([[5.0, -5.0, 5.0, -4.9]])
    assert 0.3 < ranking.certainty(ranking.draws([members, noisy]))[0] < 0.7


def test_seeds_are_resampled() -> None:
    """Two seeds at 0 and 1: their mean is 0, 1/2 or 1 in shares of 1/4, 1/2, 1/4."""
    drawn = ranking.draws([np.array([[0.0] * 4, [1.0] * 4])], count=20_000)[:, 0]
    shares = [np.isclose(drawn, x).mean() for x in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_examples() -> None:
    assert doctest.testmod(ranking).failed == 0
