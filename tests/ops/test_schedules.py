"""Schedules against printed tables and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrl_prefs.ops import schedules

BETA = [0.195875, 0.458818, 0.635781, 0.754878, 0.835031]
ALPHA_BAR = [0.804125, 0.435178, 0.158500, 0.038852, 0.006409]
SIZES = (1, 2, 5, 10, 50, 1000)


def test_vp_of_five_steps_matches_the_printed_table():
    schedule = schedules.vp(5)
    assert schedule.steps == 5
    assert schedule.beta.round(6).tolist() == [0.0, *BETA]
    assert schedule.alpha_bar.round(6).tolist() == [1.0, *ALPHA_BAR]
    np.testing.assert_array_equal(schedule.alpha, 1 - schedule.beta)


def test_vp_of_fifty_steps_matches_the_printed_values():
    schedule = schedules.vp(50)
    assert schedule.beta[[1, 50]].round(6).tolist() == [0.003972, 0.179647]


@pytest.mark.parametrize("steps", SIZES)
def test_vp_ends_at_the_same_signal_for_every_number_of_steps(steps):
    assert schedules.vp(steps).alpha_bar[-1] == pytest.approx(np.exp(-5.05), rel=1e-12)


@pytest.mark.parametrize("steps", SIZES)
@pytest.mark.parametrize(("low", "high"), [(0.1, 10.0), (0.3, 4.0)])
def test_vp_samples_the_continuous_sde_exactly(steps, low, high):
    # alpha-bar(t) = exp(-int_0^t beta), beta(t) = low + t (high - low)
    t = np.arange(steps + 1) / steps
    continuous = np.exp(-(low * t + 0.5 * (high - low) * t**2))
    found = schedules.vp(steps, beta_min=low, beta_max=high).alpha_bar
    np.testing.assert_allclose(found, continuous, rtol=1e-12)


@pytest.mark.parametrize("make", schedules.SCHEDULES.values(), ids=schedules.SCHEDULES)
@pytest.mark.parametrize("steps", SIZES)
def test_every_schedule_keeps_the_identities_of_variances(make, steps):
    schedule = make(steps)
    assert schedule.steps == steps
    assert schedule.beta[0] == 0 and schedule.alpha[0] == 1 and schedule.alpha_bar[0] == 1
    assert all(table.shape == (steps + 1,) for table in schedule)
    product = 1.0
    for n in range(1, steps + 1):
        product *= 1 - schedule.beta[n]
        assert schedule.alpha_bar[n] == pytest.approx(product, rel=1e-12)
    removed = np.sum(schedule.alpha_bar[:-1] * schedule.beta[1:])
    assert removed == pytest.approx(1 - schedule.alpha_bar[-1], abs=1e-12)


def test_linear_is_a_straight_line():
    beta = schedules.linear(11, first=0.1, last=0.3).beta[1:]
    np.testing.assert_allclose(beta, 0.1 + 0.02 * np.arange(11), rtol=1e-12)
    assert schedules.linear(1000).beta[[1, -1]].tolist() == [1e-4, 2e-2]


def test_cosine_follows_the_squared_cosine_until_its_last_step():
    schedule = schedules.cosine(20)

    def level(n):
        return np.cos((n / 20 + 0.008) / 1.008 * np.pi / 2) ** 2

    n = np.arange(20)
    np.testing.assert_allclose(schedule.alpha_bar[:-1], level(n) / level(0), rtol=1e-10)
    assert schedule.beta[-1] == 0.999  # the formula says 1 here


@pytest.mark.parametrize("beta", [[0.1, 0.0], [0.1, 1.0], [-0.1, 0.2], [0.5, np.nan], [1.5]])
def test_betas_outside_the_open_unit_interval_are_refused(beta):
    with pytest.raises(ValueError, match="beta"):
        schedules.from_betas(np.array(beta))
