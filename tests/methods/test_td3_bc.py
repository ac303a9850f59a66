"""TD3+BC as a whole: its loss is tested beside its part, its step in test_td3."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.method import uniform
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.types import Spec
from jaxrl_prefs.values import td3
from tests import probes

SPEC = Spec(1, 2, 100, -np.ones(2, "f"), np.ones(2, "f"), *[np.zeros(1)] * 4)


def test_defaults_are_the_paper_s():
    config = td3_bc.Config()
    assert (config.alpha, config.tau, config.actor_interval, config.batch_size) == (
        2.5,
        5e-3,
        2,
        256,
    )
    assert (config.noise, config.noise_clip, config.train_steps) == (0.2, 0.5, 1_000_000)
    assert config.actor_hidden == config.critic_hidden == (256, 256)
    assert config.actor_learning_rate == config.critic_learning_rate == 3e-4


@pytest.mark.parametrize("field", ["batch_size", "actor_interval"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        td3_bc.make(td3_bc.Config(**{field: 0}), SPEC)


@pytest.fixture(scope="module")
def trained():
    """trained(probe, alpha) -> state after a moment of training; one program for all."""
    size = 512

    @jax.jit
    def program(data, alpha, key):
        config = td3_bc.Config(
            actor_hidden=(32,),
            critic_hidden=(32, 32),
            actor_learning_rate=3e-3,
            critic_learning_rate=3e-3,
            tau=0.05,
            batch_size=64,
        )
        parts = td3.from_config(config, Spec.of(probes.constant_reward(size).data))

        def body(step, state):
            rows = uniform(jax.random.key(7), step, size, config.batch_size)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            key = jax.random.fold_in(jax.random.key(8), step)
            return td3_bc.update(state, batch, key, step, parts=parts, alpha=alpha)[0]

        start = td3_bc.init(key, jax.tree.map(lambda x: x[:1], data), parts=parts)
        state = jax.lax.fori_loop(0, 1_500, body, start)
        q = parts.critic.apply(state.critic.params, data.observation, data.action)
        return q, parts.policy.act(state.actor.params, data.observation)

    return lambda probe, alpha: program(probe(size).data, alpha, jax.random.key(0)), size


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.__name__)
def test_probes_are_solved(trained, probe):
    """With imitation almost off: the data's actions are uniform, and their mean is not best."""
    run, size = trained
    data, q, best = probe(size)
    found, action = map(np.asarray, run(probe, 100.0))
    expected = q(data.observation, data.action)
    assert np.sqrt(np.mean((found - expected[None]) ** 2)) < 0.1
    if best is not None:
        assert np.abs(action - best(data.observation)).max() < 0.15


def test_without_the_value_it_is_behaviour_cloning(trained):
    run, size = trained
    _, action = run(probes.action_reward, 0.0)
    expected = probes.action_reward(size).data.action.mean()
    np.testing.assert_allclose(action, expected, atol=0.1)
