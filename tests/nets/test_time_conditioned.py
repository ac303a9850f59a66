"""ARQ's networks against plain numpy, and their sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from tests.exact import compiled, filled


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def size(net, *inputs):
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("observation", "action", "score", "critic"),
    [
        (11, 3, 465_155, 69_889),  # hopper
        (17, 6, 468_230, 72_193),  # halfcheetah, walker2d
        (29, 8, 472_328, 75_777),  # antmaze
        (45, 24, 484_632, None),  # pen
        (60, 9, 480_777, None),  # kitchen
        (19, 7, 469_255, None),  # lift
        (59, 14, 483_086, None),  # transport
    ],
)
def test_sizes_are_the_published_ones(observation, action, score, critic):
    inputs = jnp.zeros((1, action)), jnp.zeros((1, observation))
    assert size(nets.score_net(256, 3, action), *inputs, jnp.zeros(())) == score
    if critic:
        assert size(nets.scalar_mlp((256, 256), activation="relu"), *inputs) == critic


def swish(x):
    return x / (1 + np.exp(-x))


def test_swish_and_its_slope_are_accurate_everywhere():
    x = np.concatenate([np.linspace(-200, 200, 4001), np.linspace(-3, 3, 601)])
    found = compiled(lambda x: (nets.swish(x), jax.vmap(jax.grad(nets.swish))(x)), np.float32(x))
    x = np.float64(np.float32(x))
    gate = np.exp(-np.logaddexp(0, -x))
    for one, exact in zip(found, (x * gate, gate * (1 + x * (1 - gate))), strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-6, atol=1e-6)


def dense(params, x):
    params = params.get("Dense_0", params)
    return x @ params["kernel"] + params["bias"]


def features(params, t, width):
    rate = np.random.RandomState(0).normal(0, 30, width // 2)
    angle = 2 * np.pi * rate * t[..., None]
    return dense(params["_Dense_0"], np.concatenate([np.sin(angle), np.cos(angle)], -1))


@pytest.mark.parametrize("time", ["scalar", "row"])
def test_the_score_network(time):
    """h <- h + D(swish(D(swish(h + te)) + te)), one time vector for all layers, skip before it."""
    net = nets.score_net(16, 2, 3)
    y, state = draws(5, 4, 3), draws(5, 1, 2, seed=1)
    t = {"scalar": np.float32(0.3), "row": np.float32([[0.1], [0.9], [0.5], [0.0], [1.0]])}[time]
    params = filled(net.init, y, state, t)
    found = compiled(net.apply, params, y, state, jnp.asarray(t))
    te = features(params["_TimeFeature_0"], t, 16)
    h = dense(params["_JoinedDense_0"], np.concatenate([y, np.tile(state, (1, 4, 1))], -1))
    for block in range(2):
        start = h
        for half in range(2):
            h = dense(params[f"_Dense_{2 * block + half}"], swish(h + te))
        h = start + h
    np.testing.assert_allclose(found, dense(params["_Dense_4"], h), rtol=1e-3, atol=1e-3)


def test_the_residual_network():
    net = nets.residual_mlp(16, 2, 3)
    x = draws(5, 4)
    params = filled(net.init, x)
    h = dense(params["_JoinedDense_0"], x)
    for block in range(2):
        start = h
        for half in range(2):
            h = dense(params[f"_Dense_{2 * block + half}"], np.maximum(h, 0))
        h = start + h
    expected = dense(params["_Dense_4"], h)
    np.testing.assert_allclose(compiled(net.apply, params, x), expected, rtol=1e-4, atol=1e-4)


def test_kernels_are_drawn_as_keras_draws_them():
    """Evenly within +-sqrt(6 / (inputs + outputs)); biases are zero."""
    net = nets.score_net(64, 1, 3)
    params = compiled(
        lambda key: net.init(key, draws(1, 3), draws(1, 5), jnp.zeros(())), jax.random.key(0)
    )
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 1:
            np.testing.assert_array_equal(leaf, 0)
        else:
            bound = np.sqrt(6 / sum(leaf.shape))
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            assert leaf.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_idql_s_residual_network_is_plain_arithmetic_of_the_published_size():
    """Blocks of LayerNorm, four times the width, mish and a skip; the step counts from 0."""
    net = nets.stepped_residual_mlp(8, 2, 3, step_size=6, step_hidden=5)
    x, s, n = draws(4, 3), draws(4, 2, seed=1), np.array([1, 2, 3, 5], np.int32)
    params = filled(net.init, x, s, n)

    def mish(x):
        return x * np.tanh(np.logaddexp(0, x))

    def normal(params, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * params["scale"] + params["bias"]

    step = params["_LearnedStepFeature_0"]
    angle = 2 * np.pi * (n - 1)[:, None] * step["frequency"]
    feature = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    feature = dense(step["_Dense_1"], mish(dense(step["_Dense_0"], feature)))
    h = dense(params["_JoinedDense_0"], np.concatenate([x, s, feature], -1))
    for block in range(2):
        wide = dense(params[f"_Dense_{2 * block}"], normal(params[f"LayerNorm_{block}"], h))
        h = h + dense(params[f"_Dense_{2 * block + 1}"], mish(wide))
    expected = dense(params["_Dense_4"], mish(h))
    np.testing.assert_allclose(compiled(net.apply, params, x, s, n), expected, rtol=2e-4, atol=1e-4)

    full = nets.stepped_residual_mlp(256, 3, 6)
    inputs = jnp.zeros((1, 6)), jnp.zeros((1, 17)), jnp.ones(1, jnp.int32)
    # of the authors' code with 17 observations and 6 actions
    assert size(full, *inputs) == 1_643_558
