"""Choosing one of several actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.policies import candidates
from tests.exact import compiled

ACTIONS = np.arange(24, dtype="f").reshape(4, 3, 2)
Q = np.log(np.array([[1, 2, 1], [6, 1, 1], [1, 1, 2], [1, 1, 1]], "f"))


def test_the_best_is_that_of_the_highest_value():
    found = compiled(candidates.best, ACTIONS, Q)
    np.testing.assert_array_equal(found, ACTIONS[np.arange(4), [1, 0, 2, 0]])


def test_temperature_0_takes_the_best_and_1_draws_by_the_softmax():
    def many(actions, q):
        keys = jax.random.split(jax.random.key(0), 20_000)
        drawn = jax.vmap(lambda key: candidates.chosen(actions, q, key, 1.0))(keys)
        return drawn, candidates.chosen(actions, q, keys[0], 0.0)

    drawn, best = compiled(many, ACTIONS, Q)
    np.testing.assert_array_equal(best, ACTIONS[np.arange(4), [1, 0, 2, 0]])
    shares = (drawn[..., None, 0] == ACTIONS[None, ..., 0]).mean(0)
    np.testing.assert_allclose(shares, jax.nn.softmax(jnp.asarray(Q), -1), atol=0.02)


def test_rules_say_what_is_done():
    assert candidates.rule("min Q", 1, 2.0) == "single sample"
    assert candidates.rule("min Q", 5) == "argmax min Q"
    assert candidates.rule("min Q", 5, 0.5) == "softmax(min Q / 0.5)"
