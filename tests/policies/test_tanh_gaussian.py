"""The squashed policy: its box, its density as a density, and the way back from an action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.types import Box, Net
from tests.exact import compiled, import_distrax

pytestmark = pytest.mark.usefixtures("x64")

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 4.0])
TABLE = Net(
    lambda key, observation: jnp.zeros(4),
    lambda output, observation: jnp.broadcast_to(output, (len(observation), len(output))),
)
POLICY = TanhGaussian(TABLE, Box(LOW, HIGH))
OUTPUT = np.array([0.3, -0.2, np.log(0.5), np.log(0.8)])


def test_actions_fill_their_own_box():
    u = np.array([[-30.0, 30.0], [0.0, 0.0], [0.5, -0.5]])
    expected = [[-1, 4], [0, 1], [np.tanh(0.5), 1 - 3 * np.tanh(0.5)]]
    np.testing.assert_allclose(POLICY.squash(jnp.asarray(u)), expected, rtol=1e-12)


def test_samples_are_normal_before_the_tanh():
    u = compiled(
        lambda: POLICY.sample_pre_tanh(OUTPUT, jnp.zeros((4, 1)), jax.random.key(0), 20_000)
    )
    assert u.shape == (4, 20_000, 2)
    for dimension, (mean, std) in enumerate([(0.3, 0.5), (-0.2, 0.8)]):
        assert u[..., dimension].mean() == pytest.approx(mean, abs=4 * std / np.sqrt(80_000))
        assert u[..., dimension].std() == pytest.approx(std, rel=0.01)


def test_the_density_is_one_over_the_box():
    unit = (np.arange(200) + 0.5) / 200  # the midpoint rule, on an area of 12
    grid = np.stack(
        np.meshgrid(*(low + unit * (high - low) for low, high in zip(LOW, HIGH, strict=True))), -1
    )
    points = jnp.asarray(grid.reshape(1, -1, 2))
    u = POLICY.unsquash(points)
    total = (
        np.exp(compiled(lambda: POLICY.log_density_pre_tanh(OUTPUT, jnp.zeros((1, 1)), u))).mean()
        * 12
    )
    assert total == pytest.approx(1, abs=1e-3)


def test_densities_of_two_samples_differ_by_normal_and_jacobian():
    u = np.array([[[0.1, 0.2], [-1.0, 2.0]]])
    found = compiled(lambda: POLICY.log_density_pre_tanh(OUTPUT, jnp.zeros((1, 1)), u))[0]
    law = scipy.stats.norm(OUTPUT[:2], np.exp(OUTPUT[2:]))
    slope = np.log([1, 3]) + np.log(1 - np.tanh(u[0]) ** 2)
    np.testing.assert_allclose(found, (law.logpdf(u[0]) - slope).sum(-1), rtol=1e-10)


def test_data_actions_come_back_from_the_tanh():
    u = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(POLICY.unsquash(POLICY.squash(jnp.asarray(u))), u, rtol=1e-8)
    edges = POLICY.unsquash(jnp.array([[-1.0, 4.0], [1.0, -2.0]]))
    far = np.arctanh(1 - 1e-5)
    np.testing.assert_allclose(edges, [[-far, far], [far, -far]], rtol=1e-8)


def test_standard_deviations_are_bounded():
    _, std = POLICY.moments(np.array([0.0, 0.0, -50.0, 50.0]), jnp.zeros((1, 1)))
    np.testing.assert_allclose(std, [[np.exp(-5), np.exp(2)]], rtol=1e-12)


def test_the_density_carries_the_gradient_at_a_fixed_sample():
    """At a fixed u, the slope in the mean is (u - mean) / std^2: the score."""
    u = np.array([[[0.1, 0.2]]])
    slope = compiled(
        jax.grad(lambda p: POLICY.log_density_pre_tanh(p, jnp.zeros((1, 1)), u).sum()), OUTPUT
    )
    std = np.exp(OUTPUT[2:])
    np.testing.assert_allclose(slope[:2], (u[0, 0] - OUTPUT[:2]) / std**2, rtol=1e-10)
    np.testing.assert_allclose(slope[2:], ((u[0, 0] - OUTPUT[:2]) / std) ** 2 - 1, rtol=1e-10)


def test_the_distribution_is_the_density_of_actions():
    """distrax's log-density at actions is ours, by u and by the action."""
    import_distrax()
    u = np.random.default_rng(1).normal(size=(5, 1, 2))
    state = jnp.zeros((5, 1))

    def both(u):
        action = POLICY.squash(u)[:, 0]
        law = POLICY.distribution(OUTPUT, state)
        by_u = POLICY.log_density_pre_tanh(OUTPUT, state, u)[:, 0]
        return law.log_prob(action), by_u, POLICY.log_density(OUTPUT, state, action)

    found, by_u, by_action = compiled(both, u)
    np.testing.assert_allclose(found, by_u, rtol=1e-8)
    np.testing.assert_allclose(by_action, by_u, rtol=1e-8)
    samples = compiled(lambda: POLICY.sample(OUTPUT, state, jax.random.key(0), 4))
    assert samples.shape == (5, 4, 2) and (samples > LOW).all() and (samples < HIGH).all()


def test_cloning_minimises_the_negative_log_likelihood():
    u = np.random.default_rng(1).normal(size=(5, 2))
    state = jnp.zeros((5, 1))

    def loss(u):
        return POLICY.bc_loss(OUTPUT, state, POLICY.squash(u), jax.random.key(0))

    by_u = compiled(lambda: POLICY.log_density_pre_tanh(OUTPUT, state, u[:, None]))
    assert compiled(loss, u) == pytest.approx(-by_u.mean(), rel=1e-8)
