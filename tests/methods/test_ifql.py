"""IFQL: how it acts, and what one update reads. Its values are tested with IQL, its flow alone."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.methods import ifql
from jaxrl_prefs.types import Spec
from tests.exact import compiled, filled

SPEC = Spec(3, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(3)] * 4)
SMALL = ifql.Config(
    actor_hidden=(16,), critic_hidden=(16,), flow_steps=3, candidates=5, batch_size=96
)


def test_defaults_are_the_code_s():
    config = ifql.Config()
    assert (config.expectile, config.candidates, config.flow_steps) == (0.9, 32, 10)
    assert config.actor_hidden == config.critic_hidden == (512, 512, 512, 512)
    assert (config.tau, config.batch_size, config.train_steps) == (0.005, 256, 1_000_000)
    assert config.behavior_learning_rate == config.critic_learning_rate == 3e-4


@pytest.mark.parametrize("field", ["batch_size", "flow_steps", "candidates"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        ifql.make(ifql.Config(**{field: 0}), SPEC)


def test_the_action_is_the_sample_with_the_highest_smallest_q(tiny):
    """And with a single candidate it is the flow's sample itself."""
    parts, key = ifql.build(SMALL, SPEC), jax.random.key(1)
    single = parts._replace(config=replace(SMALL, candidates=1))

    state = filled(lambda key: ifql.init(key, tiny, parts=parts))

    def both(batch, state):
        s = batch.observation
        samples = parts.behavior.sample(state.behavior.params, s, key, SMALL.candidates)
        q = jnp.stack(
            [parts.iql.critic.apply(state.critic.params, s, samples[:, i]) for i in range(5)], -1
        )
        ways = ifql.act(state, s, key, parts=parts), ifql.act(state, s, key, parts=single)
        return samples, q, *ways, ifql.act_behavior(state, s, key, parts=parts)

    samples, q, action, alone, behavior = compiled(both, tiny, state)
    assert q.shape == (2, 96, 5)
    best = q.min(0).argmax(-1)
    assert len(set(best)) == 5  # every place wins somewhere
    np.testing.assert_allclose(action, samples[np.arange(96), best], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(alone, behavior)


def test_an_update_starts_from_the_state_as_it_was(tiny):
    """Q's target uses V before its step, however large that is; the target network lags."""
    parts = ifql.build(replace(SMALL, critic_learning_rate=1.0), SPEC)
    start = filled(lambda key: ifql.init(key, tiny, parts=parts))

    def both(key, batch, state):
        after, metrics = ifql.update(state, batch, key, jnp.int32(0), parts=parts)
        v = parts.iql.value.apply(state.value.params, batch.next_observation)
        return after.critic, metrics, jnp.mean(batch.reward + batch.discount * v)

    after, metrics, target = compiled(both, jax.random.key(0), tiny, start)
    assert metrics["critic_target"][0] == pytest.approx(target, rel=1e-5)
    for before, params, now in zip(
        *map(jax.tree.leaves, (start.critic.target, start.critic.params, after.target)), strict=True
    ):
        np.testing.assert_allclose(now, 0.995 * before + 0.005 * params, rtol=1e-5, atol=1e-6)
