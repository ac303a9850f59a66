"""Behaviour cloning: the mean action, and for the Gaussian its standard deviation, by state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs import learner
from jaxrl_prefs.methods import bc
from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Box, Net, Spec
from tests.exact import batch_of, compiled

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="policy must be one of deterministic, gaussian"):
        bc.make(bc.Config(policy="diffusion"), SPEC)


@pytest.mark.parametrize(("policy", "names"), [("deterministic", 1), ("gaussian", 2)])
def test_the_mean_is_the_headline(policy, names):
    policies = bc.make(bc.Config(policy=policy), SPEC).policies
    assert list(policies) == ["actor", "sample"][:names]
    assert policies["actor"].rule == "mean"


@pytest.mark.parametrize("policy", ["deterministic", "gaussian"])
def test_cloning_recovers_the_mean_action_and_its_standard_deviation(policy):
    """Actions N(s / 2, .1^2) and N(-s / 4, .2^2) for states -1 and 1."""
    rng, rows = np.random.default_rng(0), 4_000
    state = rng.choice([-1.0, 1.0], (rows, 1)).astype("f")
    mean, std = state * np.array([[0.5, -0.25]]), np.array([0.1, 0.2])
    data = batch_of(rng.normal(mean, std).astype("f"))._replace(observation=state)
    config = bc.Config(policy, actor_hidden=(16,), actor_learning_rate=1e-2, batch_size=rows)
    method, parts = bc.make(config, SPEC), bc.build(config, SPEC)

    @jax.jit
    def train(key):
        def step(i, state):
            return method.phases[0].update(state, data, key, i)[0]

        return jax.lax.fori_loop(0, 300, step, method.init(key, data))

    trained, ends = train(jax.random.key(0)), np.array([[-1.0], [1.0]], "f")
    found, spread = parts.policy.moments(trained.actor.params, ends)
    action = method.policies["actor"].act(trained, ends, jax.random.key(1))
    np.testing.assert_array_equal(action, found)
    for i, at in enumerate((-1, 1)):
        here = np.asarray(data.action)[state[:, 0] == at]  # the sample's own moments
        np.testing.assert_allclose(found[i], here.mean(0), atol=0.01)
        expected = here.std(0) if policy == "gaussian" else 0
        np.testing.assert_allclose(spread[i], expected, atol=0.01)


@pytest.mark.usefixtures("x64")
def test_a_shared_standard_deviation_is_one_for_all_states():
    inner = Net(lambda key, s: jnp.zeros((1, 2)), lambda w, s: s @ w)
    policy = DiagonalGaussian(gaussian.shared_std(inner, 2), Box(-np.ones(2), np.ones(2)))
    params = {"mean": np.array([[0.7, -0.3]]), "log_std": np.log([0.2, 0.5])}
    state = np.array([[1.0], [-2.0], [0.5]])
    action = np.array([[0.1, 0.2], [0.3, -0.4], [0.9, 0.0]])

    def both(params):
        loss = policy.bc_loss(params, state, action, jax.random.key(0))
        return *policy.moments(params, state), loss

    mean, std, loss = compiled(both, params)
    np.testing.assert_allclose(mean, np.tanh(state @ params["mean"]), rtol=1e-12)
    np.testing.assert_allclose(std, np.tile([0.2, 0.5], (3, 1)), rtol=1e-12)
    expected = -scipy.stats.norm.logpdf(action, mean, std).sum(1).mean()
    assert loss == pytest.approx(expected, rel=1e-12)
    start = policy.init(jax.random.key(0), state)
    np.testing.assert_array_equal(start["log_std"], 0)


@pytest.mark.usefixtures("x64")
def test_samples_are_normal_and_stay_in_the_box():
    rows, low, high = 20_000, np.array([-1.0, 0.0]), np.array([1.0, 4.0])
    mean, std = np.tile([0.5, 2.0], (rows, 1)), np.tile([0.5, 0.1], (rows, 1))
    found = compiled(
        lambda m, s: gaussian.clipped_sample(m, s, jax.random.key(0), 1, Box(low, high))[:, 0],
        mean,
        std,
    )
    assert (found >= low).all() and (found <= high).all()
    share = (found[:, 0] == 1).mean()
    assert abs(share - scipy.stats.norm.sf(1.0)) < 5 * np.sqrt(share * (1 - share) / rows)
    assert found[:, 1].std() == pytest.approx(0.1, rel=5 * np.sqrt(0.5 / rows))


def test_one_step_is_adam_s_on_the_squared_error():
    """The rate against the gradient's sign, for an output bias that misses on one side."""
    config = bc.Config(actor_hidden=(4,), actor_learning_rate=0.01, batch_size=3)
    method, data = bc.make(config, SPEC), batch_of(np.full((3, 2), 0.9, "f"))
    start = method.init(jax.random.key(0), data)
    after, metrics = method.phases[0].update(start, data, jax.random.key(0), 0)
    bias = after.actor.params["_Dense_0"]["Dense_0"]["bias"]
    np.testing.assert_allclose(bias, 0.01, rtol=1e-4)
    assert float(metrics["actor_loss"][0]) == pytest.approx(0.81, rel=1e-5)
    assert start.actor.target is None and isinstance(start.actor, learner.Trainable)
