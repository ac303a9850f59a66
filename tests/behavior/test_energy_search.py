"""Langevin chains and derivative-free search on energies that are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl_prefs.behavior import energy_search, proposals
from jaxrl_prefs.types import Box
from tests.exact import compiled

BOX = Box(np.array([-1.0, 0.0], "f"), np.array([1.0, 4.0], "f"))
LOW, HIGH = BOX


# ------------------------------------------------------------------------------------- Langevin


def test_a_langevin_move_is_half_the_slope_and_the_noise():
    """One step of size .5 on E = c a, in half boxes: mean -.25 c r, standard deviation .25."""
    slope = np.array([0.4, -0.3], "f")  # in half boxes: .4 and -.6

    def move():
        start = jnp.zeros((20_000, 1, 2)) + jnp.array([0.0, 2.0])[None, None]
        return energy_search.langevin(
            lambda s, a: jnp.sum(a * slope[None, None], -1),
            jnp.zeros((20_000, 1)),
            start,
            jax.random.key(0),
            steps=1,
            box=BOX,
        )

    moved = (compiled(move)[:, 0] - [0, 2]) / [1, 2]
    law = [scipy.stats.norm(centre, 0.25) for centre in (-0.1, 0.15)]
    for found, normal_law in zip(moved.T, law, strict=True):
        assert np.abs(found).max() == pytest.approx(0.5)  # the longest move
        assert np.median(found) == pytest.approx(normal_law.mean(), abs=0.01)
        assert (found >= 0.5).mean() == pytest.approx(normal_law.sf(0.5), abs=0.005)


def test_langevin_chains_settle_where_energy_is_low():
    def chains(start):
        def bowl(s, a):
            return jnp.sum(jnp.square(a - jnp.array([0.5, 1.0])[None, None]), -1) / 0.02

        return energy_search.langevin(
            bowl, jnp.zeros((4, 1)), start, jax.random.key(0), steps=100, box=BOX
        )

    start = proposals.uniform(BOX).sample(jnp.zeros((4, 1)), jax.random.key(1), 50)
    samples = compiled(chains, start)
    assert (samples >= LOW).all() and (samples <= HIGH).all()
    np.testing.assert_allclose(samples.reshape(-1, 2).mean(0), [0.5, 1.0], atol=0.05)
    slope = compiled(jax.grad(lambda x: chains(x).sum()), start)
    np.testing.assert_array_equal(slope, 0)


# --------------------------------------------------------------------------- derivative-free


def bowl(s, a):
    centre = jnp.concatenate([s, 3 + s], -1)
    return jnp.sum(jnp.square(a - centre), -1) / 0.02


def test_the_search_finds_the_lowest_energy_of_each_state():
    states = np.linspace(-0.5, 0.5, 6, dtype=np.float32)[:, None]

    def found(rounds):
        action, level = energy_search.search(
            bowl, jnp.asarray(states), jax.random.key(0), count=256, rounds=rounds, box=BOX
        )
        return action, level, energy_search.lowest(action, level)

    errors = {}
    for rounds in (1, 3, 5):
        action, level, best = compiled(lambda rounds=rounds: found(rounds))
        assert action.shape == (6, 256, 2) and level.shape == (6, 256)
        assert (action >= LOW).all() and (action <= HIGH).all()
        np.testing.assert_allclose(level, compiled(bowl, states[:, None], action), rtol=1e-5)
        errors[rounds] = np.abs(best - np.concatenate([states, 3 + states], 1)).max()
        np.testing.assert_array_equal(best, action[np.arange(6), level.argmin(1)])
    assert errors[5] < 0.1 and errors[5] < errors[1]


def test_resampling_follows_the_weights():
    share = np.array([0.5, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(share), (5_000, 1)).astype(np.float32)
    action = np.tile(np.arange(4.0, dtype=np.float32)[:, None], (5_000, 1, 1))
    samples = compiled(lambda: energy_search.resampled(action, logits, jax.random.key(0)))
    assert samples.shape == (5_000, 4, 1)
    found = np.bincount(samples.astype(int).ravel(), minlength=4) / samples.size
    np.testing.assert_allclose(found, share, atol=0.015)


def test_without_an_energy_the_search_stays_uniform():
    flat = compiled(
        lambda: energy_search.search(
            lambda s, a: jnp.zeros(a.shape[:-1]), jnp.zeros((50, 1)), jax.random.key(0),
            count=100, rounds=1, box=BOX,
        )[0]
    ).reshape(-1, 2)  # fmt: skip
    np.testing.assert_allclose(flat.mean(0), [0, 2], atol=0.06)
    np.testing.assert_allclose(flat.var(0), [1 / 3, 4 / 3], rtol=0.06)
