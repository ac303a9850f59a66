"""How BDPO chooses among candidates, and what it measures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.types import Net, Spec
from tests.exact import M, batch_of, compiled, fixed, linear_parts, linear_state, replaced

CANDIDATES = np.array([[-0.5], [0.0], [0.3], [0.9]], np.float32)  # [K, A]
# Members disagree most about the last candidate: the best mean and the worst lower bound.
Q = np.array([[0.0, 0.3, 0.5, 2.0], [0.0, 0.3, 0.5, -0.8]], np.float32)  # [E, K]


def spread_critic():
    """Q_k of the j-th candidate is params[k][j]; it knows them by their action."""

    def apply(own_q, observation, action):
        same = jnp.abs(action - CANDIDATES.reshape(1, 1, -1)) < 1e-6  # [B, K, candidates]
        return jnp.sum(same * own_q.reshape(1, 1, -1), -1)

    return nets.ensemble(Net(lambda key, *inputs: jnp.zeros(4), apply), 2)


def parts_of(**changes):
    """Samples are the candidates in order; parameters are NaN, target networks are not."""
    settings = bdpo.Config(**{"candidates": 4, "rho": 5.0, **changes})

    def sample(actor, observation, key, count):
        order = jnp.asarray(CANDIDATES[:count])[None] + actor
        return jnp.tile(order, (len(observation), 1, 1))

    parts = linear_parts(settings)._replace(critic=spread_critic())
    return parts._replace(policy=replaced(parts.policy, sample=sample))


def state_of():
    return linear_state().replace(
        actor=fixed(np.float32(np.nan), np.float32(0)),
        behavior=fixed(np.float32(np.nan), np.float32(0.25)),
        critic=fixed(np.full_like(Q, np.nan), Q),
    )


def chosen_actions(parts, rows=3):
    state = jnp.zeros((rows, 1))
    return compiled(lambda s: bdpo.act(s, state, jax.random.key(0), parts=parts), state_of())


def test_the_best_mean_is_taken_not_the_best_lower_bound():
    np.testing.assert_array_equal(chosen_actions(parts_of()), np.full((3, 1), 0.9, np.float32))


def test_each_state_gets_its_own_candidate():
    parts = parts_of()

    def apply(own_q, observation, action):  # prefers the candidate nearest to the state
        return -jnp.square(action - observation).sum(-1)

    parts = parts._replace(critic=nets.ensemble(Net(lambda key, *inputs: 0.0, apply), 2))
    state = np.array([[0.8], [-0.9], [0.35]], np.float32)
    found = compiled(lambda s: bdpo.act(s, state, jax.random.key(0), parts=parts), state_of())
    np.testing.assert_array_equal(found, CANDIDATES[[3, 0, 2]])


def test_a_single_candidate_is_executed_without_asking_the_critic():
    def refused(*inputs):
        raise AssertionError("nothing to choose")

    parts = parts_of(candidates=1)._replace(critic=Net(refused, refused))
    np.testing.assert_array_equal(chosen_actions(parts), np.full((3, 1), -0.5, np.float32))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_a_temperature_samples_from_the_softmax_of_the_mean(temperature):
    rows = 40_000
    actions = chosen_actions(parts_of(temperature=temperature), rows)
    mean = Q.mean(0)
    weights = np.exp(mean / temperature) / np.exp(mean / temperature).sum()
    for action, share in zip(CANDIDATES[:, 0], weights, strict=True):
        found = np.mean(actions[:, 0] == action)
        assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / rows)


def test_the_behaviour_policy_executes_one_draw_of_the_behaviour_s_average():
    found = compiled(
        lambda s: bdpo.act_behavior(s, jnp.zeros((3, 1)), jax.random.key(0), parts=parts_of()),
        state_of(),
    )
    np.testing.assert_array_equal(found, np.full((3, 1), -0.25, np.float32))


@pytest.mark.usefixtures("x64")
def test_acting_draws_from_the_actor_s_average():
    """With the exact networks the executed actions have the sampler's moments (D)."""
    rows, parts = 20_000, linear_parts(bdpo.Config(candidates=1))
    state = linear_state().replace(actor=fixed(jnp.full(2, jnp.nan), jnp.asarray(M)))
    found = compiled(
        lambda s: bdpo.act(s, jnp.zeros((rows, 1)), jax.random.key(0), parts=parts), state
    )
    variance = 1 - 0.195875
    error = np.abs(found.mean(0) - (1 - np.exp(-5.05)) * M)
    assert (error < 5 * np.sqrt(variance / rows)).all()


@pytest.mark.usefixtures("x64")
def test_diagnosis_measures_the_averages():
    rows = 4_000
    spec = Spec(1, 2, rows, np.array([-1.0, 0.0]), np.array([1.0, 4.0]), *[np.zeros(1)] * 4)
    parts = linear_parts(bdpo.Config())._replace(spec=spec)
    action = np.random.default_rng(0).normal(size=(rows, 2))
    found = compiled(
        lambda s: bdpo.diagnose(s, batch_of(action), jax.random.key(0), parts=parts),
        linear_state(),
    )
    mean = {name: total / count for name, (total, count) in found.items()}
    eta = 0.3  # of the closed forms
    assert mean["path_kl"] == pytest.approx(1.2419883, abs=1e-5)
    assert mean["q_data"] == pytest.approx(eta * (action @ M).mean(), abs=1e-6)
    assert mean["q_spread"] == pytest.approx(np.std([-0.7, 0.3, 0.4]), abs=1e-6)
    error = 5 * eta * np.sqrt(2.5 / rows)
    assert abs(mean["q_policy"] - eta * (1 - np.exp(-5.05)) * 2.5) < error
    # uniform over [-1, 1] x [0, 4]: mean (0, 2), variances 1/3 and 4/3
    deviation = eta * np.sqrt((1.5**2 / 3 + 0.5**2 * 4 / 3) / rows)
    assert abs(mean["q_uniform"] + eta) < 5 * deviation
