"""TD3-BST as a whole: what it refuses, what its phases touch, and a bandit."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.method import uniform
from jaxrl_prefs.methods import td3_bst
from jaxrl_prefs.types import Spec
from tests.exact import batch_of, compiled

SPEC = Spec(17, 6, 100, -np.ones(6, "f"), np.ones(6, "f"), *[np.zeros(1)] * 4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kernel_scale", "k/zero", "kernel_scale must be a number above 0 or a multiple"),
        ("kernel", "gauss", "kernel must be one of rbf, laplace, cauchy, rational_quadratic"),
        ("weight_gradient", "half", "weight_gradient must be one of full, detached"),
        ("distance", "max", "distance must be one of mean, sum, standardised"),
        ("mu", 0.0, "mu must be above 0"),
        ("negative_samples", 0, "negative_samples must be at least 1"),
        ("actor_interval", 0, "actor_interval must be at least 1"),
        ("noise", -0.1, "noise must not be negative"),
    ],
)
def test_values_that_no_field_allows_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        td3_bst.make(td3_bst.Config(**{field: value}), SPEC)


def test_the_kernel_scale_follows_the_action_dimension():
    for text, scale in (("k/10", 0.6), ("k/2", 3.0), ("2k", 12.0), ("1.5", 1.5)):
        parts = td3_bst.build(td3_bst.Config(kernel_scale=text), SPEC)
        found = parts.supervisor.morse.kernel(jnp.float32(0.06))
        assert float(found) == pytest.approx(-(scale**2) * 0.06 / 2, rel=1e-5)


def test_networks_have_their_sizes():
    data = batch_of(np.zeros((1, 6), "f"))._replace(observation=np.zeros((1, 17), "f"))
    method = td3_bst.make(td3_bst.Config(), SPEC)
    state = jax.eval_shape(method.init, jax.random.key(0), data)

    def count(params):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))

    assert count(state.morse.params) == (23 * 256 + 256) + 2 * (256 * 256 + 256) + 256 * 6 + 6
    assert count(state.actor.params) == (17 * 256 + 256) + (256 * 256 + 256) + 256 * 6 + 6
    assert count(state.critic.params) == 2 * ((23 * 256 + 256) + (256 * 256 + 256) + 256 + 1)
    assert [(p.name, p.steps, p.batch_size) for p in method.phases] == [
        ("morse", 100_000, 1024),
        ("train", 1_000_000, 256),
    ]


# ------------------------------------------------------------------------ trained for a moment

ROWS = 2_000
MEAN, GOAL = np.array([0.4, -0.3], "f"), np.array([0.6, -0.2], "f")  # 1.5 deviations apart
SMALL = td3_bst.Config(
    behavior_hidden=(64, 64),
    behavior_learning_rate=2e-3,
    negative_samples=4,
    behavior_batch_size=128,
    kernel_scale="k",
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    batch_size=64,
    actor_interval=1,
)


@pytest.fixture(scope="module")
def trained():
    """A bandit in one state: reward 1 - |a - goal|^2, data around a mean that is not the goal."""
    action = np.random.default_rng(0).normal(MEAN, 0.15, (ROWS, 2)).astype("f")
    data = batch_of(action, reward=1 - np.square(action - GOAL).sum(-1))
    still = np.zeros((ROWS, 1), "f")
    data = data._replace(observation=still, next_observation=still)
    spec = Spec.of(jax.tree.map(np.asarray, data))
    method = td3_bst.make(SMALL, spec)

    def run(phase, state, steps):
        def body(step, carry):
            state, _ = carry
            rows = uniform(jax.random.key(7), step, ROWS, phase.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            return phase.update(state, batch, jax.random.fold_in(jax.random.key(8), step), step)

        shapes = jax.eval_shape(lambda: body(0, (state, {}))[1])
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, steps, body, (state, empty))[0]

    @jax.jit
    def train(key):
        start = method.init(key, jax.tree.map(lambda x: x[:1], data))
        morse, actor = method.phases
        tuned = run(morse, start, 1_000)
        return start, tuned, run(actor, tuned, 2_000)

    return method, data, train(jax.random.key(0))


def test_training_leaves_the_morse_network_alone(trained):
    _, _, (start, tuned, state) = trained
    for before, between, after in zip(
        *(jax.tree.leaves(s.morse) for s in (start, tuned, state)), strict=True
    ):
        np.testing.assert_array_equal(between, after)
        assert np.abs(before - after).max() > 0 or before.ndim == 0
    for field in ("actor", "critic"):
        leaves = (jax.tree.leaves(getattr(s, field)) for s in (start, tuned))
        for before, between in zip(*leaves, strict=True):
            np.testing.assert_array_equal(before, between)


def test_a_goal_in_the_data_is_reached_although_its_mean_is_elsewhere(trained):
    method, _, (*_, state) = trained
    action = method.policies["actor"].act(state, np.zeros((1, 1), "f"), jax.random.key(0))[0]
    # the mean of the data, where behaviour cloning ends, is 0.22 away from the goal
    assert np.linalg.norm(action - GOAL) < 0.08


def test_the_diagnosis_tells_data_from_noise(trained):
    method, data, (*_, state) = trained
    found = compiled(method.diagnose, state, data, jax.random.key(3))
    mean = {name: total / count for name, (total, count) in found.items()}
    assert mean["certainty_data"] > 0.9
    assert mean["certainty_policy"] > 0.9
    assert mean["certainty_uniform"] < mean["certainty_data"] - 0.3
    assert mean["q_policy"] == pytest.approx(1, abs=0.05)
    assert mean["q_data"] == pytest.approx(float(np.mean(data.reward)), abs=0.05)


def test_the_switch_of_the_weight_s_gradient_reaches_the_loss(trained):
    """With a Morse network at its start, whose M has a slope off the origin, gradients differ."""
    _, data, (state, *_) = trained
    spec, batch = Spec.of(jax.tree.map(np.asarray, data)), jax.tree.map(lambda x: x[:64], data)

    def slope(params, gradient):
        parts = td3_bst.build(dataclasses.replace(SMALL, weight_gradient=gradient), spec)
        critic_params = state.critic.params

        def loss(params):
            return td3_bst.actor_loss(params, critic_params, state=state, batch=batch, parts=parts)[
                0
            ]

        return jax.grad(loss)(params)

    kinds = "full", "detached"
    aside = jax.tree.map(lambda x: x + 0.1, state.actor.params)
    full, detached = compiled(lambda p: [slope(p, kind) for kind in kinds], aside)
    pairs = zip(jax.tree.leaves(full), jax.tree.leaves(detached), strict=True)
    assert max(np.abs(one - other).max() for one, other in pairs) > 1e-3
