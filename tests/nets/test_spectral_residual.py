"""The spectrally normalised network: layers by hand, and its bound on slopes (BPR's check H)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.nets import spectral_residual
from tests.exact import compiled

BLOCKS, WIDTH = 3, 16
NET = spectral_residual.scalar(WIDTH, BLOCKS)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """Parameters far from their start, and vectors before and after 1,000 iterations."""

    def make(key):
        params = NET.init(key, draws(1, 4), draws(1, 2))
        noise = jax.random.split(key, len(jax.tree.leaves(params)))
        keys = jax.tree.unflatten(jax.tree.structure(params), list(noise))
        params = jax.tree.map(lambda x, k: x + 0.3 * jax.random.normal(k, x.shape), params, keys)
        start = NET.start(key, params)
        return (
            params,
            start,
            jax.lax.fori_loop(0, 1_000, lambda _, v: NET.power_iteration(params, v), start),
        )

    return compiled(make, jax.random.key(0))


def by_hand(params, vectors, *inputs):
    """The network in numpy, over the concatenated inputs."""

    def dense(name, x):
        kernel, u = params["layers"][name]["kernel"], vectors[name]
        v = u @ kernel / np.linalg.norm(u @ kernel)
        return x @ (kernel / (u @ kernel @ v)) + params["layers"][name].get("bias", 0)

    lead = np.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    x = np.concatenate([np.broadcast_to(x, (*lead, x.shape[-1])) for x in inputs], -1)
    x = dense("input", x)
    for i in range(BLOCKS):
        inner = dense(f"block{i}a", np.maximum(x, 0))
        x = x + dense(f"block{i}b", np.maximum(inner, 0))
    return np.exp(params["log_gain"]) * dense("output", np.maximum(x, 0))[..., 0]


def test_it_is_the_network_of_its_description(trained):
    params, start, vectors = trained
    observation, action = draws(5, 1, 4), draws(5, 7, 2, seed=1)
    for at in (start, vectors):
        found = compiled(NET.apply, params, at, observation, action)
        assert found.shape == (5, 7)
        # Sums of float32 numbers near 1: one that cancels is right to rounding of its terms.
        expected = by_hand(params, at, observation, action)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    alone = compiled(NET.apply, params, vectors, observation[0, 0], action[0, 0])
    assert alone == pytest.approx(found[0, 0], rel=1e-5)


def test_every_layer_is_there_once(trained):
    params, start, _ = trained
    assert len(params["layers"]) == 2 + 2 * BLOCKS
    assert params["layers"].keys() == start.keys()
    biased = {name for name, layer in params["layers"].items() if "bias" in layer}
    assert biased == start.keys() - {"output"}
    fresh = jax.eval_shape(NET.init, jax.random.key(0), draws(1, 4), draws(1, 2))
    shapes = {name: layer["kernel"].shape for name, layer in fresh["layers"].items()}
    assert shapes["input"] == (6, WIDTH) and shapes["output"] == (WIDTH, 1)
    for name, u in start.items():
        assert u.shape == shapes[name][:1]
        assert np.linalg.norm(u) == pytest.approx(1, abs=1e-5)


def test_converged_kernels_have_norm_one(trained):
    """H: every kernel, the output's included, as the network uses it."""
    params, _, vectors = trained
    for name, layer in params["layers"].items():
        kernel, u = layer["kernel"], vectors[name]
        used = kernel / (u @ kernel @ (u @ kernel / np.linalg.norm(u @ kernel)))
        assert np.linalg.norm(used, 2) == pytest.approx(1, abs=1e-3), name
        assert abs(np.linalg.norm(kernel, 2) - 1) > 0.05, name  # it was not one before


def test_slopes_stay_below_the_bound(trained):
    """H: |E(a) - E(a')| <= gain 2^blocks |a - a'|, near and far, at the steepest found."""
    params, _, vectors = trained
    params = {**params, "log_gain": np.float32(np.log(3.0))}
    bound = 3 * 2**BLOCKS

    def energy(x):
        return NET.apply(params, vectors, x[..., :4], x[..., 4:])

    def steepest(x):
        def climb(_, x):
            slope = jax.grad(lambda x: jnp.sum(jnp.linalg.norm(gradient(x), axis=-1)))(x)
            return x + 0.1 * slope

        gradient = jax.grad(lambda x: energy(x).sum())
        x = jax.lax.fori_loop(0, 20, climb, x)
        return jnp.linalg.norm(gradient(x), axis=-1)

    def quotients(x, step):
        return jnp.abs(energy(x + step) - energy(x)) / jnp.linalg.norm(step, axis=-1)

    x, step = draws(4_000, 6), draws(4_000, 6, seed=1)
    for size in (1e-2, 1.0, 10.0):
        assert compiled(quotients, 3 * x, size * step).max() < bound * 1.001
    assert 0.05 * bound < compiled(steepest, x).max() < bound * 1.001


def test_without_normalisation_the_bound_would_not_hold(trained):
    """The bound is the vectors' doing: a kernel ten times as large changes nothing."""
    params, _, vectors = trained
    x = draws(6, 4), draws(6, 2, seed=1)
    layers = dict(params["layers"])
    layers["block1a"] = {**layers["block1a"], "kernel": 10 * layers["block1a"]["kernel"]}
    scaled = compiled(NET.apply, {**params, "layers": layers}, vectors, *x)
    np.testing.assert_allclose(scaled, compiled(NET.apply, params, vectors, *x), atol=1e-4)


def test_vectors_take_no_gradient_and_power_iteration_takes_one_step(trained):
    params, start, _ = trained
    x = draws(6, 4), draws(6, 2, seed=1)

    def loss(params, vectors):
        return jnp.square(NET.apply(params, vectors, *x)).sum()

    by_params, by_vectors = compiled(jax.grad(loss, argnums=(0, 1)), params, start)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(by_params))
    for leaf in jax.tree.leaves(by_vectors):
        np.testing.assert_array_equal(leaf, 0)
    once = compiled(NET.power_iteration, params, start)
    for name, layer in params["layers"].items():
        moved = layer["kernel"] @ (layer["kernel"].T @ start[name])
        np.testing.assert_allclose(once[name], moved / np.linalg.norm(moved), atol=1e-5)


def test_the_gain_starts_at_one_and_is_positive():
    params = compiled(lambda k: NET.init(k, draws(1, 4), draws(1, 2)), jax.random.key(0))
    assert spectral_residual.gain(params) == 1
    assert spectral_residual.gain({"log_gain": jnp.float32(-30)}) > 0
