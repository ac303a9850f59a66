"""Flow policies with the exact velocity of Gaussian data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import flow
from jaxrl_prefs.ops.shapes import to_unit
from jaxrl_prefs.policies.flow import FlowPolicy, OneStepPolicy, distillation_error, gelu_net
from jaxrl_prefs.types import Box, Net, Spec
from tests.exact import compiled, filled

pytestmark = pytest.mark.usefixtures("x64")

MEAN, STD = np.array([0.3, -0.2]), np.array([0.1, 0.2])  # of data in the unit box
BOX = Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]))
UNIT = Box(-np.ones(2), np.ones(2))
EXACT = Net(
    lambda key, *inputs: jnp.zeros(()),
    lambda offset, observation, x, t: flow.gaussian_velocity(x, t[..., 0], MEAN, STD) + offset,
)
LINEAR = Net(  # mu(s, z) = mean + std z + offset: what distillation should find
    lambda key, *inputs: jnp.zeros(()),
    lambda offset, observation, z: flow.gaussian_flow(z, MEAN, STD) + offset,
)


def test_samples_have_the_data_s_moments_in_the_box_s_units():
    policy = FlowPolicy(EXACT, BOX, flow.midpoint, 20)
    rows = 10_000
    action = compiled(lambda s: policy.sample(0.0, s, jax.random.key(0), 2), np.zeros((rows, 1)))
    assert action.shape == (rows, 2, 2)
    centre, radius = np.array([0.0, 5.0]), np.array([2.0, 5.0])
    error = np.abs(action.mean(0) - (centre + radius * MEAN))
    assert (error < 5 * radius * STD / np.sqrt(rows)).all()
    np.testing.assert_allclose(action.std(0), np.tile(radius * STD, (2, 1)), rtol=0.04)
    assert abs(np.corrcoef(action[:, 0, 0], action[:, 1, 0])[0, 1]) < 5 / np.sqrt(rows)


def test_actions_are_clipped_to_the_box():
    """An offset of 30 carries everything beyond the upper bounds."""
    flowing, single = FlowPolicy(EXACT, BOX, flow.euler, 4), OneStepPolicy(LINEAR, BOX)
    observation = np.zeros((3, 1))

    def both(s):
        return flowing.sample(30.0, s, jax.random.key(0), 2), single.sample(
            30.0, s, jax.random.key(0), 2
        )

    for action in compiled(both, observation):
        np.testing.assert_array_equal(action, np.broadcast_to(BOX.high, (3, 2, 2)))


def test_the_exact_velocity_leaves_the_conditional_variance():
    """The loss of a velocity that is off by c is that of the exact one plus c^2."""
    rows, policy = 20_000, FlowPolicy(EXACT, BOX, flow.euler, 1)
    unit = MEAN + STD * np.random.default_rng(0).normal(size=(rows, 2))
    action = np.array([0.0, 5.0]) + np.array([2.0, 5.0]) * unit

    def losses(s, a):
        return [policy.bc_loss(c, s, a, jax.random.key(1)) for c in (0.0, 0.5)]

    least, off = compiled(losses, np.zeros((rows, 1)), action)
    # Var[x_1 - x_0 | x_t] = std^2 / ((1 - t)^2 + t^2 std^2), and its integral over t is
    # std arctan(t std / (1 - t)), from 0 at t = 0 to std pi / 2 at t = 1
    assert least == pytest.approx(np.mean(STD * np.pi / 2), rel=0.05)
    assert off - least == pytest.approx(0.25, rel=0.05)


def test_distillation_s_error_is_the_flow_s_own():
    """For Gaussian data the exact one-step policy is known: mean + std z."""
    behavior, policy = FlowPolicy(EXACT, UNIT, flow.midpoint, 100), OneStepPolicy(LINEAR, UNIT)
    noise = np.random.default_rng(1).normal(size=(64, 2))
    s = np.zeros((64, 1))

    def error(offset, noise):
        target = behavior.transport(0.0, s, noise)
        return distillation_error(policy.transport(offset, s, noise), target)

    def all_of(noise):
        slope = jax.grad(lambda c: distillation_error(noise, c * noise))(2.0)
        return error(0.0, noise), error(0.1, noise), slope

    exact, off, slope = compiled(all_of, noise)
    assert exact < 1e-7
    assert off == pytest.approx(0.01, rel=1e-2)
    assert slope == 0  # the target is fixed


def test_networks_read_observation_noise_and_time():
    spec = Spec(3, 2, 10, UNIT.low, UNIT.high, *[np.zeros(1)] * 4)
    policy = FlowPolicy(gelu_net((8, 8), spec, layer_norm=True), UNIT, flow.euler, 2)
    rng = np.random.default_rng(2)
    observation, x = (rng.normal(size=(4, n)).astype("f") for n in (3, 2))
    params = filled(policy.init, observation)

    def found(s, x):
        t = jnp.full(4, 0.25, s.dtype)
        velocity = policy.velocity_fn(params, s)
        moved = [policy.velocity_fn(params, 2 * s)(x, t), velocity(2 * x, t), velocity(x, 2 * t)]
        # a scalar time is that time in every row, and K samples share their observation
        shared = policy.velocity_fn(params, s[:, None])(jnp.stack([x, 2 * x], 1), t[0])
        return velocity(x, t), moved, shared

    base, moved, shared = compiled(found, observation, x)
    assert base.shape == (4, 2)
    assert all((np.abs(other - base) > 1e-3).any(-1).all() for other in moved)
    np.testing.assert_allclose(shared[:, 0], base, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shared[:, 1], moved[1], rtol=1e-5, atol=1e-5)


def test_scaling_to_the_unit_box_changes_no_bit_there():
    x = np.random.default_rng(3).normal(size=(5, 2)).astype("f")
    np.testing.assert_array_equal(compiled(lambda x: to_unit(x, UNIT), x), x)
