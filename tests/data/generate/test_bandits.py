"""The 2-D tasks against their published descriptions, and their exact values against sampling."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrl_prefs.data.generate import bandits
from jaxrl_prefs.data.generate.bandits import BANDITS, retarget, softmax, transitions

SIZE = 200_000
ETAS = (0.06, 0.05, 0.25)

# Value of the best policy at each of ETAS; its mean energy, its KL to the data, and mean and
# deviation of its points at eta .06; mean energy of the data. Computed apart, by 2e6 samples.
TABLE = {
    "8gaussians": ((0.8811, 0.8990, 0.6855), 0.985, 1.740, (2.07, 1.80), (0.43, 0.75), 0.5),
    "2spirals": ((0.7111, 0.7410, 0.4806), 0.880, 2.82, (0, 0), (0.35, 0.45), 0.3717),
    "moons": ((0.95841, 0.96534, 0.83125), 1.0, 0.6931, (1.00, -0.47), (1.43, 0.65), 0.5),
    "checkerboard": ((0.95841, 0.96534, 0.83125), 1.0, 0.6931, (-1, -1), (2.08, 2.08), 0.5),
    "rings": ((0.91706, 0.93075, 0.72876), 0.9987, 1.361, (0, 0), (1.07, 1.07), 0.5),
    "swissroll": ((0.86566, 0.92331, 0.56747), 1.162, 4.93, None, None, 0.4365),
}
WEIGHTS = {
    ("8gaussians", 0.06): (5e-8, 6e-7, 6e-6, 6.6e-5, 0.000717, 0.007759, 0.083913, 0.907538),
    ("8gaussians", 0.25): (0.0081, 0.0143, 0.0253, 0.0447, 0.0792, 0.1403, 0.2484, 0.4398),
    ("rings", 0.06): (0.00387, 0.000015, 0.99611, 0),
    ("rings", 0.25): (0.1953, 0.0513, 0.7398, 0.0136),
}
WITH_MODES = [name for name, bandit in BANDITS.items() if bandit.modes]


@pytest.fixture(scope="module", params=BANDITS)
def drawn(request: pytest.FixtureRequest) -> tuple[bandits.Bandit, np.ndarray, np.ndarray]:
    bandit = BANDITS[request.param]
    return bandit, *bandit.draw(np.random.default_rng(0), SIZE)


def test_the_table_has_all_tasks():
    assert list(BANDITS) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_exact_values_are_those_of_the_table(name):
    values, energy, kl, *_, mean = TABLE[name]
    bandit = BANDITS[name]
    for eta, value in zip(ETAS, values, strict=True):
        assert bandit.value(eta) == pytest.approx(value, abs=6e-5)
    assert bandit.target_energy(0.06) == pytest.approx(energy, abs=6e-4)
    assert bandit.target_kl(0.06) == pytest.approx(kl, abs=6e-3)
    assert bandit.mean_energy == pytest.approx(mean, abs=6e-4)


@pytest.mark.parametrize(("name", "eta"), WEIGHTS)
def test_mode_weights_are_those_of_the_table(name, eta):
    exact = BANDITS[name].mode_weights(eta)
    np.testing.assert_allclose(exact, WEIGHTS[name, eta], atol=6e-5, rtol=0.1)
    assert exact.sum() == pytest.approx(1)


def test_exact_values_are_what_the_generators_give(drawn):
    """Within five standard errors, at eta .25: below it few points carry the mean."""
    bandit, _, energies = drawn
    assert energies.mean() == pytest.approx(bandit.mean_energy, abs=5 * _error(energies))
    gains = np.exp(energies / 0.25)
    expected = np.exp(bandit.value(0.25) / 0.25)
    assert gains.mean() == pytest.approx(expected, abs=5 * _error(gains))


def _error(x: np.ndarray) -> float:
    return x.std() / np.sqrt(len(x))


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[3]])
def test_the_best_policy_lies_where_the_table_says(name):
    """Not for the swiss roll: a few points of its tail are the target at eta .06."""
    *_, mean, deviation, _ = TABLE[name]
    points, energies = BANDITS[name].draw(np.random.default_rng(0), SIZE)
    best = retarget(np.random.default_rng(1), points, energies, 0.06, 50_000)
    np.testing.assert_allclose(best.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(best.std(0), deviation, atol=0.03)


def test_the_energy_of_a_point_is_the_one_it_was_drawn_with(drawn):
    """Exactly where it is a function of the point, nearly where noise blurs it."""
    bandit, points, energies = drawn
    blurred = {"2spirals": 0.02, "moons": 0.06, "rings": 0.01}
    gap = bandit.energy(points[:5_000]) - energies[:5_000]
    assert np.sqrt(np.square(gap).mean()) <= blurred.get(bandit.name, 0)


@pytest.mark.parametrize("name", WITH_MODES)
def test_modes_share_the_data_equally(name):
    bandit = BANDITS[name]
    size, count = 20_000, len(bandit.modes.energy)
    points, _ = bandit.draw(np.random.default_rng(0), size)
    shares = np.bincount(bandit.modes.of(points), minlength=count) / size
    np.testing.assert_allclose(shares, 1 / count, atol=5 * np.sqrt(1 / count / size))


def test_a_task_along_a_curve_has_no_modes():
    with pytest.raises(ValueError, match="'swissroll' has no modes"):
        BANDITS["swissroll"].mode_weights(0.25)


def test_the_swiss_roll_has_no_value_where_its_tail_outweighs_the_noise():
    assert BANDITS["swissroll"].value(0.01) > 0
    with pytest.raises(ValueError, match="no value for eta"):
        BANDITS["swissroll"].value(0.008)


# ------------------------------------------------------------------------------------- shapes


def points_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    return BANDITS[name].draw(np.random.default_rng(2), 50_000)


def test_eight_gaussians_go_counter_clockwise_from_the_top():
    points, energies = points_of("8gaussians")
    angle = np.arctan2(points[:, 1], points[:, 0])
    for k in range(8):
        mode = points[np.isclose(energies, k / 7)]
        bearing = np.pi / 2 + k * np.pi / 4
        centre = 4 / 1.414 * np.array([np.cos(bearing), np.sin(bearing)])
        np.testing.assert_allclose(mode.mean(0), centre, atol=0.03)
        np.testing.assert_allclose(mode.std(0), 0.5 / 1.414, atol=0.02)
    upper_right = (angle > 0.2 * np.pi) & (angle < 0.3 * np.pi)
    assert np.all(energies[upper_right] == 1)


def test_moons_lie_on_two_half_circles():
    points, energies = points_of("moons")
    for energy, centre, side in ((0, (-1, -0.2), 1), (1, (1, 0.8), -1)):
        moon = points[energies == energy] - np.array(centre)
        radius = np.linalg.norm(moon, axis=1)
        assert radius.mean() == pytest.approx(2, abs=0.02)  # 2 + .2^2 / (2 * 2)
        assert radius.std() == pytest.approx(0.2, abs=0.01)
        assert side * moon[:, 1].mean() == pytest.approx(4 / np.pi, abs=0.03)


def test_squares_alternate():
    points, energies = points_of("checkerboard")
    assert np.abs(points).max() <= 4
    cell = np.floor(points / 2).astype(int)
    assert np.all((cell[:, 0] + cell[:, 1]) % 2 == 0)
    np.testing.assert_array_equal(energies == 1, np.isin(cell[:, 0], (-2, 0)))


def test_rings_have_their_radii_and_energies():
    points, energies = points_of("rings")
    radius = np.linalg.norm(points, axis=1)
    for energy, expected in ((0.667, 3), (0.333, 2.25), (1, 1.5), (0, 0.75)):
        ring = radius[energies == energy]
        assert len(ring) / len(points) == pytest.approx(0.25, abs=0.01)
        assert ring.mean() == pytest.approx(expected + 0.08**2 / 2 / expected, abs=0.003)
        assert ring.std() == pytest.approx(0.08, abs=0.002)


def test_spirals_wind_outwards_as_the_energy_falls():
    points, energies = points_of("2spirals")
    m = 10 * (1 - energies)
    assert m.min() >= 0 and m.max() <= 3 * np.pi
    assert (m**2).mean() == pytest.approx((3 * np.pi) ** 2 / 2, rel=0.01)  # m = 3 pi sqrt(u)
    arm = np.stack([-m * np.cos(m), m * np.sin(m)], 1) / 3
    offset = 0.25 / 3  # uniform noise on 0 to .5, reflected with its arm
    gaps = [points - sign * (arm + offset) for sign in (1, -1)]
    distance = np.minimum(*(np.linalg.norm(gap, axis=1) for gap in gaps))
    spread = 2 * (0.1**2 + (0.5 / 3) ** 2 / 12)
    far = m > 3  # where the other arm is far away
    assert np.square(distance[far]).mean() == pytest.approx(spread, rel=0.03)


def test_the_swiss_roll_winds_outwards():
    points, energies = points_of("swissroll")
    np.testing.assert_allclose(energies, np.square(points).sum(1) / 9)
    t = np.linspace(1.5 * np.pi, 4.5 * np.pi, 1_000)
    assert 9 * energies.mean() * 25 == pytest.approx((t**2).mean() + 2, rel=0.02)
    curve = np.stack([t * np.cos(t), t * np.sin(t)], 1) / 5
    sample = points[:1_000]
    nearest = np.sqrt(np.square(sample[:, None] - curve[None]).sum(-1).min(1))
    assert np.quantile(nearest, 0.68) == pytest.approx(1 / 5, rel=0.1)  # 68 % within one deviation


# ---------------------------------------------------------------------------------- datasets


def test_a_dataset_is_a_bandit_s():
    data = transitions(BANDITS["rings"], 1_000, seed=3)
    points, energies = BANDITS["rings"].draw(np.random.default_rng(3), 1_000)
    np.testing.assert_array_equal(data.action, points.astype(np.float32))
    np.testing.assert_array_equal(data.reward, energies.astype(np.float32))
    np.testing.assert_array_equal(data.observation, np.zeros((1_000, 1)))
    for name in ("discount", "has_next_action"):
        assert not np.any(getattr(data, name))
    np.testing.assert_array_equal(data.next_index, np.arange(1_000))
    assert {leaf.dtype.name for leaf in data[:7]} == {"float32"}
    other = transitions(BANDITS["rings"], 1_000, seed=4)
    assert not np.array_equal(data.action, other.action)


def test_retargeting_draws_by_weight():
    points = np.arange(8.0).reshape(4, 2)
    energies = np.array([0.0, 0.1, 0.2, 0.5])
    drawn = retarget(np.random.default_rng(0), points, energies, 0.25, 100_000)
    shares = np.bincount((drawn[:, 0] / 2).astype(int)) / 100_000
    np.testing.assert_allclose(shares, softmax(energies / 0.25), atol=0.01)
