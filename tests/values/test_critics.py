"""SARSA targets and regression of critics: Q_k(s, a) = w_k s + c_k |a|^2, beside numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner, nets
from jaxrl_prefs.types import Net, Transition
from jaxrl_prefs.values import critics
from tests.exact import compiled, filled

pytestmark = pytest.mark.usefixtures("x64")

LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 4.0])
PARAMS = {"w": np.array([6.0, -0.5]), "c": np.array([0.8, 0.3])}


def quadratic():
    def apply(p, observation, action):
        return p["w"] * observation[..., 0] + p["c"] * jnp.square(action).sum(-1)

    return nets.ensemble(Net(lambda key, *inputs: {"w": 0.0, "c": 0.0}, apply), 2)


def q(observation, action, params=PARAMS):
    return np.stack(
        [
            w * observation[:, 0] + c * (action**2).sum(-1)
            for w, c in zip(params["w"], params["c"], strict=True)
        ]
    )


def batch(rows=6):
    rng = np.random.default_rng(0)
    index = np.arange(rows, dtype=np.int32)
    return Transition(
        observation=rng.normal(size=(rows, 1)),
        action=rng.uniform(LOW, HIGH, (rows, 2)),
        reward=rng.normal(size=rows),
        discount=np.array([0.9, 0.0, 0.9, 0.9, 0.0, 0.9]),
        next_observation=rng.normal(size=(rows, 1)),
        next_action=rng.uniform(LOW, HIGH, (rows, 2)),
        has_next_action=np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0]),
        index=index,
        next_index=index,
    )


# --------------------------------------------------------------------------------- targets


def test_sarsa_uses_the_data_s_next_action_and_knows_where_there_is_none():
    """A terminal's target is its reward and counts; a row that was cut off does not."""
    data = batch()
    found, known = compiled(
        lambda p: (
            critics.sarsa_target(quadratic(), p, data),
            critics.has_sarsa_target(data),
        ),
        PARAMS,
    )
    expected = data.reward + data.discount * q(data.next_observation, data.next_action).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(known, [1, 1, 1, 0, 1, 1])


def test_sarsa_targets_are_not_differentiated():
    def total(params, action):
        data = batch()._replace(next_action=action)
        return critics.sarsa_target(quadratic(), params, data).sum()

    slopes = compiled(jax.grad(total, argnums=(0, 1)), PARAMS, np.ones((6, 2)))
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(leaf, 0)


# ------------------------------------------------------------------------------ regression


def test_regression_steps_every_member_towards_the_target():
    """Gradient descent in place of Adam: d/dw mean (Q - y)^2 = 2 mean (Q - y) s, by hand."""
    data, rate, net = batch(), 0.05, quadratic()
    y = np.random.default_rng(3).normal(size=6)
    opt = optax.sgd(rate)

    def step(params):
        part = learner.init(params, opt, target=True)
        return critics.regress(part, opt, net, data, y)

    part, metrics = compiled(step, jax.tree.map(jnp.asarray, PARAMS))
    error = q(data.observation, data.action) - y
    slope = {
        "w": 2 * (error * data.observation[:, 0]).mean(1),
        "c": 2 * (error * (data.action**2).sum(-1)).mean(1),
    }
    for name, expected in slope.items():
        np.testing.assert_allclose(part.params[name], PARAMS[name] - rate * expected, rtol=1e-10)
        np.testing.assert_array_equal(part.target[name], PARAMS[name])
    assert metrics["critic_loss"][0] == pytest.approx((error**2).mean(), rel=1e-6)
    assert metrics["q"][0] == pytest.approx(q(data.observation, data.action).mean(), rel=1e-6)


def test_the_mean_over_members_takes_a_share_of_the_sum_s_step():
    data, net, opt = batch(), quadratic(), optax.sgd(0.05)
    y = np.random.default_rng(3).normal(size=6)

    def stepped(params):
        part = learner.init(params, opt)
        both = [critics.regress(part, opt, net, data, y, mean=mean) for mean in (False, True)]
        return [(part.params, metrics["critic_loss"][0]) for part, metrics in both]

    (whole, loss), (mean, same) = compiled(stepped, jax.tree.map(jnp.asarray, PARAMS))
    assert loss == same
    for name, start in PARAMS.items():
        np.testing.assert_allclose(mean[name] - start, (whole[name] - start) / 2, rtol=1e-9)


def test_each_member_may_have_its_own_target():
    data, net, opt = batch(), quadratic(), optax.sgd(0.05)
    y = np.random.default_rng(3).normal(size=(2, 6))

    def stepped(params, target):
        return critics.regress(learner.init(params, opt), opt, net, data, target)[0].params

    both = compiled(stepped, PARAMS, y)
    for member in range(2):
        single = compiled(stepped, PARAMS, y[member])
        for name, found in both.items():
            np.testing.assert_allclose(found[member], single[name][member], rtol=1e-12)
    assert abs(both["w"][0] - compiled(stepped, PARAMS, y[1])["w"][0]) > 1e-3


def test_members_differentiated_one_by_one_are_those_of_plain_reverse_mode():
    data, net, opt = batch(), critics.twin((8, 8), layer_norm=True), optax.sgd(1.0)
    with jax.enable_x64(False):
        state, action = data.observation.astype("f"), data.action.astype("f")
        y = data.reward.astype("f")
        single = data._replace(observation=state, action=action)
        params = filled(net.init, state, action)

        def both(params):
            part = learner.init(params, opt)
            stepped, _ = critics.regress(part, opt, net, single, y)
            plain = jax.grad(
                lambda p: jnp.square(net.apply(p, state, action) - y[None]).mean(1).sum()
            )
            return jax.tree.map(lambda a, b: a - b, params, stepped.params), plain(params)

        found, expected = compiled(both, params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found)) > 0.1


def test_rows_of_weight_zero_neither_pull_nor_dilute():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 6))
    weight = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    kept = weight > 0
    found = compiled(critics.squared_error, prediction, target, weight)
    assert found == pytest.approx(np.square(prediction - target)[kept].mean(), rel=1e-12)
    assert compiled(critics.squared_error, prediction, target, np.zeros(6)) == 0
    assert compiled(critics.squared_error, prediction, target) == pytest.approx(
        np.square(prediction - target).mean(), rel=1e-12
    )


def test_the_first_member_is_the_first():
    data = batch()
    found = compiled(
        lambda p: critics.first_q(quadratic(), p, data.observation, data.action), PARAMS
    )
    np.testing.assert_allclose(found, q(data.observation, data.action)[0], rtol=1e-12)


def test_twins_are_two_relu_networks_that_start_apart():
    with jax.enable_x64(False):
        net = critics.twin((8,))
        state, action = np.ones((5, 3), "f"), np.ones((5, 2), "f")
        params = compiled(lambda k: net.init(k, state, action), jax.random.key(0))
        value = compiled(net.apply, params, state, action)
    first = params["_JoinedDense_0"]
    hidden = np.maximum(np.einsum("i,eij->ej", np.ones(5), first["kernel"]) + first["bias"], 0)
    last = params["_Dense_0"]["Dense_0"]
    expected = np.einsum("ej,ejk->e", hidden, last["kernel"]) + last["bias"][:, 0]
    np.testing.assert_allclose(value, np.tile(expected[:, None], 5), rtol=1e-5, atol=1e-6)
    assert abs(expected[0] - expected[1]) > 1e-3


# --------------------------------------------------------------------------------- diagnosis


def test_diagnostics_are_means_over_members_and_rows():
    data, rng = batch(), np.random.default_rng(4)
    policy, uniform = rng.uniform(LOW, HIGH, (2, 6, 2))
    found = compiled(lambda p: critics.q_diagnostics(quadratic(), p, data, policy, uniform), PARAMS)
    mean = {name: total / count for name, (total, count) in found.items()}
    s = data.observation
    assert mean["q_data"] == pytest.approx(q(s, data.action).mean(), rel=1e-6)
    assert mean["q_policy"] == pytest.approx(q(s, policy).mean(), rel=1e-6)
    assert mean["q_uniform"] == pytest.approx(q(s, uniform).mean(), rel=1e-6)
    assert mean["q_spread"] == pytest.approx(q(s, policy).std(0).mean(), rel=1e-6)
