"""Proposals against densities that are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxrl_prefs.behavior import proposals
from jaxrl_prefs.types import Box
from tests.exact import compiled

BOX = Box(np.array([-1.0, 0.0], "f"), np.array([1.0, 4.0], "f"))
LOW, HIGH = BOX


def test_the_uniform_proposal_fills_its_box():
    proposal = proposals.uniform(BOX)
    states = jnp.zeros((50, 1))
    samples = compiled(lambda: proposal.sample(states, jax.random.key(0), 400)).reshape(-1, 2)
    assert (samples >= LOW).all() and (samples <= HIGH).all()
    np.testing.assert_allclose(samples.mean(0), [0, 2], atol=0.04)
    np.testing.assert_allclose(samples.var(0), [4 / 12, 16 / 12], rtol=0.03)
    density = proposal.log_density(states, jnp.asarray(samples))
    np.testing.assert_allclose(density, -np.log(8), rtol=1e-6)


def by_state(observation):
    """Mean s / 2 and 2 + s, standard deviations .4 and 1.5."""
    mean = jnp.concatenate([observation / 2, 2 + observation], -1)
    return mean, jnp.broadcast_to(jnp.array([0.4, 1.5]), mean.shape)


def cut_off(state):
    mean, std = np.array([state / 2, 2 + state]), np.array([0.4, 1.5])
    return scipy.stats.truncnorm((LOW - mean) / std, (HIGH - mean) / std, mean, std)


def test_gaussian_proposals_are_cut_off_at_the_box():
    proposal, states = proposals.truncated_normal(by_state, BOX), np.array([[0.0], [1.9]], "f")
    samples = compiled(lambda: proposal.sample(jnp.asarray(states), jax.random.key(0), 20_000))
    assert (samples >= LOW).all() and (samples <= HIGH).all()
    density = proposal.log_density(jnp.asarray(states)[:, None], jnp.asarray(samples))
    for state, actions, levels in zip(states[:, 0], samples, density, strict=True):
        law = cut_off(state)
        np.testing.assert_allclose(actions.mean(0), law.mean(), atol=0.03)
        np.testing.assert_allclose(actions.var(0), law.var(), rtol=0.05)
        np.testing.assert_allclose(levels, law.logpdf(actions).sum(-1), atol=2e-4)


def test_half_of_a_mixture_s_samples_are_each_component_s():
    states = jnp.array([[0.0], [1.9]])
    low, high = LOW + np.array([0.9, 0], "f"), HIGH  # a part of the box
    whole, part = proposals.uniform(BOX), proposals.uniform(Box(low, high))
    mixture = proposals.even_mixture(whole, part)
    samples = compiled(lambda: mixture.sample(states, jax.random.key(0), 20_000))
    inside = (samples >= low).all(-1)
    share = 0.5 + 0.5 * 1.1 / 2
    assert np.abs(inside.mean(1) - share).max() < 5 * np.sqrt(share * (1 - share) / 20_000)
    middle = proposals.even_mixture(whole, proposals.truncated_normal(by_state, BOX))
    point = jnp.array([[0.1, 1.0], [0.5, 3.0]])
    exact = [
        0.5 / 8 + 0.5 * np.exp(cut_off(state).logpdf(x).sum())
        for state, x in zip(states[:, 0], point, strict=True)
    ]
    np.testing.assert_allclose(middle.log_density(states, point), np.log(exact), rtol=1e-5)
