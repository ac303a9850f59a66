"""IQL and IQL-BST as wholes: weights, isolation of the values, what is refused."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs import learner
from jaxrl_prefs.methods import iql, iql_bst
from jaxrl_prefs.types import Spec, Transition
from tests import probes
from tests.exact import batch_of, compiled, filled

SPEC = Spec(3, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)
SMALL = {"actor_hidden": (8,), "critic_hidden": (8,), "train_steps": 100}
TINY_MORSE = {"behavior_hidden": (8,), "negative_samples": 2}


@pytest.mark.parametrize("method", [iql, iql_bst])
@pytest.mark.parametrize("expectile", [0.0, 1.0, 1.5])
def test_expectiles_lie_between_zero_and_one(method, expectile):
    with pytest.raises(ValueError, match="expectile must lie between 0 and 1"):
        method.make(method.Config(expectile=expectile), SPEC)


def test_defaults_are_the_paper_s():
    config = iql.Config()
    assert (config.expectile, config.temperature, config.max_weight) == (0.7, 3.0, 100.0)
    assert (config.tau, config.batch_size, config.actor_learning_rate) == (0.005, 256, 3e-4)


def test_the_policy_s_loss_is_the_weighted_likelihood():
    """Weights exp(3 A) up to 100, on the log-density of the data's actions."""
    parts = iql.build(iql.Config(**SMALL), SPEC)
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (6, 2)).astype("f")
    batch = batch_of(action)._replace(observation=rng.normal(size=(6, 3)).astype("f"))
    advantage = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 50.0], "f")

    def both(key):
        params = parts.policy.init(key, batch.observation)
        loss, metrics = iql.actor_loss(params, batch=batch, advantage=advantage, parts=parts)
        return loss, metrics, parts.policy.moments(params, batch.observation)

    loss, metrics, (mean, std) = compiled(both, jax.random.key(0))
    weight = np.exp(np.minimum(3 * advantage, np.log(100)))
    np.testing.assert_allclose(std, 1, rtol=1e-6)  # its start
    expected = -(weight * scipy.stats.norm.logpdf(action, mean, std).sum(1)).mean()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert metrics["actor_weight"][0] == pytest.approx(weight.mean(), rel=1e-5)


def start(parts, method, data):
    """A state of normal numbers, which are quicker to make than orthogonal ones."""
    shapes, fresh = filled(partial(method.init, parts=parts), data, scale=0.3), learner.init
    # the values' numbers are IQL's and IQL-BST's alike
    critic = filled(parts.iql.critic.init, data.observation, data.action, seed=1)
    value = filled(parts.iql.value.init, data.observation, seed=2)
    return shapes.replace(
        actor=fresh(shapes.actor.params, parts.actor_optimizer),
        critic=fresh(critic, parts.iql.critic_optimizer, target=True),
        value=fresh(value, parts.iql.value_optimizer),
    )


def trained(method, parts, state, data, *twists):
    """States after five updates; the actor is pushed aside before each, by a number per state."""
    update = jax.jit(partial(method.update, parts=parts))
    for twist in twists:
        now = state
        for i in range(5):
            aside = jax.tree.map(lambda x, twist=twist: x + twist, now.actor.params)
            now = now.replace(actor=now.actor.replace(params=aside))
            now, _ = update(now, data, jax.random.key(i), jnp.int32(i))
        yield now


def test_policy_improvement_changes_neither_q_nor_v():
    """T10: IQL's and IQL-BST's values are the same to the bit, whatever becomes of the policy."""
    data: Transition = jax.tree.map(
        jnp.asarray, probes.episodes(size=64, length=8, observation_dim=3, action_dim=2)
    )
    parts = iql.build(iql.Config(**SMALL), SPEC)
    (plain,) = trained(iql, parts, start(parts, iql, data), data, 0.0)
    parts = iql_bst.build(iql_bst.Config(**SMALL, **TINY_MORSE), SPEC)
    tuned, twisted = trained(iql_bst, parts, start(parts, iql_bst, data), data, 0.0, 0.3)
    for other in (tuned, twisted):
        for one, two in zip(
            jax.tree.leaves((plain.critic, plain.value)),
            jax.tree.leaves((other.critic, other.value)),
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)
    moved = [
        np.abs(one - two).max()
        for one, two in zip(
            jax.tree.leaves(tuned.actor.params), jax.tree.leaves(twisted.actor.params), strict=True
        )
    ]
    assert min(moved) > 0.1  # the policies were different ones
    for one, two in zip(*(jax.tree.leaves(s.morse) for s in (tuned, twisted)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_diagnosis_counts_weights_at_their_bound():
    """With the critic's averages at 0 and V a constant, every advantage is known."""
    config = iql.Config(**SMALL)
    method = iql.make(config, SPEC)
    data = batch_of(np.zeros((8, 2), "f"))._replace(observation=np.ones((8, 3), "f"))
    state = filled(method.init, data)
    zeros = jax.tree.map(jnp.zeros_like, state.critic.target)
    value = jax.tree.map(jnp.zeros_like, state.value.params)

    def shares(advantage):
        bias = value | {
            "_Dense_0": {
                "Dense_0": value["_Dense_0"]["Dense_0"] | {"bias": jnp.full(1, -advantage)}
            }
        }
        at = state.replace(
            critic=state.critic.replace(target=zeros), value=state.value.replace(params=bias)
        )
        found = method.diagnose(at, data, jax.random.key(1))
        return jnp.stack([found["weight_saturation"][0], found["advantage"][0]])

    found = compiled(jax.vmap(shares), np.array([1.5, 1.6], "f"))  # log(100) / 3 = 1.535
    np.testing.assert_allclose(found, [[0, 1.5], [1, 1.6]], rtol=1e-6)
