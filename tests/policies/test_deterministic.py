"""Deterministic policies: their network, their box, and their cloning loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.types import Box, Net, Spec
from tests.exact import compiled

pytestmark = pytest.mark.usefixtures("x64")

LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 4.0])
SPEC = Spec(3, 2, 10, LOW, HIGH, *[np.zeros(1)] * 4)
STATE = np.random.default_rng(0).normal(size=(7, 3))
LINEAR = Deterministic(Net(lambda key, s: jnp.zeros((3, 2)), lambda w, s: s @ w), Box(LOW, HIGH))
WEIGHT = np.random.default_rng(2).normal(size=(3, 2))


def by_hand():
    return (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * np.tanh(STATE @ WEIGHT)


def test_policies_are_relu_networks_under_a_tanh_onto_the_box():
    with jax.enable_x64(False):
        spec = SPEC._replace(action_low=LOW.astype("f"), action_high=HIGH.astype("f"))
        policy = deterministic.relu_policy((8,), spec)
        state = STATE.astype("f")
        params = compiled(lambda k: policy.init(k, state), jax.random.key(0))
        action = compiled(policy.act, params, state)
    first, last = params["_JoinedDense_0"], params["_Dense_0"]["Dense_0"]
    hidden = np.maximum(STATE @ first["kernel"] + first["bias"], 0)
    expected = (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * np.tanh(hidden @ last["kernel"] + last["bias"])
    np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


def test_samples_are_copies_of_the_action():
    found = compiled(lambda w: LINEAR.sample(w, STATE, jax.random.key(0), 3), WEIGHT)
    np.testing.assert_allclose(found, np.repeat(by_hand()[:, None], 3, 1), rtol=1e-12)
    mean, std = compiled(lambda w: LINEAR.moments(w, STATE), WEIGHT)
    np.testing.assert_allclose(mean, by_hand(), rtol=1e-12)
    np.testing.assert_array_equal(std, 0)


def test_cloning_minimises_the_mean_squared_error():
    action = np.random.default_rng(1).uniform(LOW, HIGH, (7, 2))
    found = compiled(lambda w: LINEAR.bc_loss(w, STATE, action, jax.random.key(0)), WEIGHT)
    assert found == pytest.approx(((by_hand() - action) ** 2).mean(), rel=1e-12)
