"""Implicit behavioural cloning: its config, and two modes that a mean would miss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.methods import ibc
from jaxrl_prefs.types import Spec
from tests import probes
from tests.exact import batch_of


@pytest.mark.parametrize("field", ["negatives", "batches"])
def test_unknown_choices_are_refused(field):
    spec = Spec.of(probes.constant_reward(8).data)
    with pytest.raises(ValueError, match=f"{field} must be one of"):
        ibc.make(ibc.Config(**{field: "misspelt"}), spec)


@pytest.mark.parametrize("field", ibc.AT_LEAST_ONE)
def test_counts_below_one_are_refused(field):
    spec = Spec.of(probes.constant_reward(8).data)
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        ibc.make(ibc.Config(**{field: 0}), spec)


@pytest.mark.parametrize("field", ibc.NONNEGATIVE)
def test_negative_strengths_are_refused(field):
    spec = Spec.of(probes.constant_reward(8).data)
    with pytest.raises(ValueError, match=f"{field} must not be negative"):
        ibc.make(ibc.Config(**{field: -1}), spec)


def test_actions_are_modes_and_never_their_mean():
    """The data's actions lie around -.5 and .5; the mean, 0, has never been taken."""
    rng = np.random.default_rng(0)
    action = rng.choice([-0.5, 0.5], (4_000, 1)) + 0.1 * rng.normal(size=(4_000, 1))
    data = batch_of(action.astype(np.float32))
    config = ibc.Config(
        behavior_width=16,
        behavior_blocks=1,
        negative_samples=8,
        behavior_learning_rate=1e-2,
        batch_size=64,
        train_steps=300,
        search_samples=64,
    )
    method = ibc.make(config, Spec.of(data))
    (phase,) = method.phases

    @jax.jit
    def trained(key, data):
        state = method.init(key, data)

        def step(i, state):
            rows = jax.random.randint(jax.random.fold_in(key, i), (64,), 0, 4_000)
            batch = jax.tree.map(lambda x: x[rows], data)
            return phase.update(state, batch, jax.random.fold_in(key, 10_000 + i), i)[0]

        state = jax.lax.fori_loop(0, phase.steps, step, state)
        found = method.policies["actor"].act(state, jnp.zeros((100, 1)), key)
        return found, method.diagnose(state, data, key)

    found, metrics = trained(jax.random.key(0), data)
    np.testing.assert_allclose(np.abs(found), 0.5, atol=0.15)
    assert float(metrics["rank_accuracy"][0]) > 0.75  # .5 where nothing is known
