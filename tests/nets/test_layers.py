"""Networks against plain numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import nets
from tests.exact import compiled, filled

# ---------------------------------------------------------------------------------------- mish

X = np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-3, 3, 601)]).astype(np.float32)


def exact_mish(x):
    """In float64: the value, the slope and the second derivative."""
    x = x.astype(np.float64)
    s = np.where(x > 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x)))  # sigmoid
    t = np.tanh(np.logaddexp(x, 0))
    t1 = (1 - t**2) * s
    t2 = -2 * t * t1 * s + (1 - t**2) * s * (1 - s)
    return x * t, t + x * t1, 2 * t1 + x * t2


def test_mish_and_its_derivatives_are_accurate_everywhere():
    first = jax.grad(lambda x: nets.mish(x))
    found = compiled(lambda x: [jax.vmap(f)(x) for f in (nets.mish, first, jax.grad(first))], X)
    for values, expected, allowed in zip(found, exact_mish(X), (3e-7, 1e-6, 3e-6), strict=True):
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, expected, rtol=allowed, atol=allowed)


def test_mish_agrees_with_jax():
    def both(x):
        return [(f(x), jax.vmap(jax.grad(f))(x)) for f in (nets.mish, jax.nn.mish)]

    ours, theirs = compiled(both, X)
    for one, other in zip(ours, theirs, strict=True):
        # jax's own slope is off by up to 7e-6 near x = 8, where ours is exact
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------- the networks, in plain numpy


def mish(x):
    return x * np.tanh(np.logaddexp(x, 0))


def dense(params, x):
    params = params.get("Dense_0", params)
    return x @ params["kernel"] + params["bias"]


def normalised(params, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"mish": mish, "relu": lambda x: np.maximum(x, 0), "gelu": gelu}


def perceptron(params, x, layer_norm, activation="mish", norm_after=False):
    layers = [
        params["_JoinedDense_0"],
        *(params[f"_Dense_{i}"] for i in range(len(params)) if f"_Dense_{i}" in params),
    ]
    for i, layer in enumerate(layers[:-1]):
        x = dense(layer, x)
        x = ACTIVATIONS[activation](x) if norm_after else x
        x = normalised(params[f"LayerNorm_{i}"], x) if layer_norm else x
        x = x if norm_after else ACTIVATIONS[activation](x)
    return dense(layers[-1], x)


def feature(params, n, size):
    """Section 7 of the paper's appendix: [cos, sin], frequencies 10000^(-i / (half - 1))."""
    i = np.arange(size // 2)
    angle = n[..., None] * np.exp(-i * np.log(10_000) / (size // 2 - 1))
    x = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    for i in range(2):
        x = mish(dense(params[f"_Dense_{i}"], x))
    return x


def joined(*inputs):
    full = np.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return np.concatenate([np.broadcast_to(x, (*full, x.shape[-1])) for x in inputs], -1)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CLOSE = {"rtol": 2e-4, "atol": 2e-4}


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("rows", [3, 640], ids=["whole", "in blocks"])
def test_perceptron_is_the_one_over_the_concatenation(layer_norm, rows):
    net = nets.mlp((16, 8), 3, layer_norm=layer_norm)
    shared, samples = draws(rows, 1, 5), draws(rows, 4, 2, seed=1)
    params = filled(net.init, shared, samples)
    assert ("LayerNorm_0" in params, "LayerNorm_1" in params) == (layer_norm, layer_norm)
    found = compiled(net.apply, params, shared, samples)
    assert found.shape == (rows, 4, 3)
    expected = perceptron(params, joined(shared, samples), layer_norm)
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("rows", [3, 640], ids=["whole", "in blocks"])
@pytest.mark.parametrize(
    ("level", "activation"), [("scalar", "mish"), ("row", "gelu"), ("sample", "mish")]
)
def test_stepped_networks_read_the_step_by_its_feature(level, activation, rows):
    """The noise network never has a LayerNorm, V always has it, before the activation.

    Of 640 rows, several share each of the 51 steps, whose features are then computed once.
    """
    kind = {"steps": 50, "activation": activation}
    eps, value = nets.stepped_mlp((16, 8), 2, **kind), nets.stepped_scalar_mlp((16, 8), **kind)
    shared, x = draws(rows, 1, 5), draws(rows, 4, 2, seed=1)
    rng = np.random.default_rng(2)
    shape = {"scalar": (), "row": (rows, 1), "sample": (rows, 4)}[level]
    n = np.asarray(rng.integers(0, 51, shape), np.int32)
    params = filled(eps.init, x, shared, n), filled(value.init, shared, x, n, seed=1)
    found = compiled(
        lambda p, q: (
            eps.apply(p, x, shared, jnp.asarray(n)),
            value.apply(q, shared, x, jnp.asarray(n)),
        ),
        *params,
    )
    assert found[0].shape == (rows, 4, 2) and found[1].shape == (rows, 4)
    of_step = [feature(p["_StepFeature_0"], n, 64) for p in params]
    expected = perceptron(params[0]["mlp"], joined(x, shared, of_step[0]), False, activation)
    np.testing.assert_allclose(found[0], expected, **CLOSE)
    expected = perceptron(params[1]["mlp"], joined(shared, x, of_step[1]), True, activation)
    np.testing.assert_allclose(found[1], expected[..., 0], **CLOSE)
    assert "LayerNorm_0" not in params[0]["mlp"] and "LayerNorm_1" in params[1]["mlp"]


def test_the_table_of_steps_has_the_gradients_of_each_row():
    """With 640 steps or more, 640 rows compute each its own feature, from the same parameters."""
    few, many = (nets.stepped_mlp((16, 8), 2, steps=steps) for steps in (50, 640))
    x, weight = draws(640, 4), draws(640, 2, seed=1)
    n = np.random.default_rng(2).integers(0, 51, 640).astype(np.int32)
    params = filled(few.init, x, n)

    def gradients(params):
        losses = [lambda p, net=net: (weight * net.apply(p, x, n)).sum() for net in (few, many)]
        return [jax.grad(loss)(params) for loss in losses]

    table, rows = compiled(gradients, params)
    for mine, theirs in zip(jax.tree.leaves(table), jax.tree.leaves(rows), strict=True):
        assert np.abs(theirs).max() > 0
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine / scale, theirs / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("step_size", "expected"), [(8, False), (16, True)])
def test_a_table_of_steps_is_used_where_it_costs_less(step_size, expected):
    """17 steps: less than twice 16, and not less than twice 8."""
    net = nets.stepped_mlp((8,), 2, steps=17, step_size=step_size)
    x, n = draws(640, 4), np.zeros(640, np.int32)
    params = filled(net.init, x, n)
    assert ("[640,18]" in str(jax.make_jaxpr(net.apply)(params, x, n))) == expected


def test_scalar_heads_drop_their_axis():
    net = nets.scalar_mlp((8,))
    params = filled(net.init, draws(3, 5), draws(3, 2))
    found = compiled(
        lambda p: (net.apply(p, draws(3, 5), draws(3, 2)), net.apply(p, draws(5), draws(2))), params
    )
    assert found[0].shape == (3,) and found[1].shape == ()
    assert "LayerNorm_0" not in params


@pytest.mark.parametrize("activation", ["mish", "relu", "gelu"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_activation_and_layer_norm_are_chosen_by_value(activation, layer_norm):
    """The layer norm follows GELU here, and precedes the others."""
    after = activation == "gelu"
    settings = {"activation": activation, "layer_norm": layer_norm, "initialiser": "lecun"}
    settings |= {"norm_after": after}
    vector, scalar = nets.mlp((16, 8), 3, **settings), nets.scalar_mlp((16, 8), **settings)
    state, action = draws(4, 5), draws(4, 2, seed=1)
    params = filled(vector.init, state, action), filled(scalar.init, state, action, seed=1)
    found = compiled(
        lambda p, q: (vector.apply(p, state, action), scalar.apply(q, state, action)), *params
    )
    x = joined(state, action)
    expected = [perceptron(p, x, layer_norm, activation, after) for p in params]
    np.testing.assert_allclose(found[0], expected[0], **CLOSE)
    np.testing.assert_allclose(found[1], expected[1][:, 0], **CLOSE)


@pytest.mark.parametrize("rows", [1, 511, 512, 1024, 1031, 1536])
def test_blocks_change_nothing(rows):
    """Sizes around the block length, primes included, with inputs that all blocks share."""
    net = nets.mlp((8,), 2)
    inputs = draws(rows, 3), draws(1, 2, seed=1)
    params = filled(net.init, *inputs)
    expected = perceptron(params, joined(*inputs), False)
    np.testing.assert_allclose(compiled(net.apply, params, *inputs), expected, **CLOSE)


def test_initial_kernels_are_orthogonal_with_gain_sqrt_two_and_biases_zero():
    net = nets.stepped_mlp((16, 16), 4, steps=5, step_size=8)
    params = compiled(
        lambda k: net.init(k, draws(1, 4), draws(1, 4), np.ones(1, np.int32)), jax.random.key(3)
    )
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    assert len(kernels) == 5
    for kernel in kernels:
        small = kernel if kernel.shape[0] < kernel.shape[1] else kernel.T
        np.testing.assert_allclose(small @ small.T, 2 * np.eye(len(small)), atol=1e-5)
    for bias in (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 1):
        np.testing.assert_array_equal(bias, 0)


def kernels_of(params):
    return [params["_JoinedDense_0"]["kernel"]] + [
        params[f"_Dense_{i}"]["Dense_0"]["kernel"] for i in range(len(params) - 1)
    ]


def test_lecun_kernels_have_the_variance_of_plain_flax_and_biases_zero():
    net = nets.mlp((400, 300), 200, activation="relu", initialiser="lecun")
    params = compiled(lambda k: net.init(k, draws(1, 60), draws(1, 40)), jax.random.key(0))
    for kernel in kernels_of(params):
        entries = kernel.size
        # a normal law cut at two deviations has less than its kurtosis
        assert abs(kernel.var() * len(kernel) - 1) < 5 * np.sqrt(2 / entries)
        assert abs(kernel.mean()) < 5 / np.sqrt(entries * len(kernel))
    for bias in (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 1):
        np.testing.assert_array_equal(bias, 0)


@pytest.mark.parametrize("initialiser", ["orthogonal", "lecun"])
def test_a_small_last_layer_changes_that_layer_alone(initialiser):
    def start(gain):
        net = nets.mlp((8, 8), 2, initialiser=initialiser, last_gain=gain)
        return compiled(lambda k: net.init(k, draws(1, 5)), jax.random.key(1))

    *same, last = kernels_of(start(1.0))
    *others, small = kernels_of(start(0.01))
    for one, other in zip(same, others, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(small, 0.01 * last, rtol=1e-6)
    assert np.abs(last).max() > 0.1


# ------------------------------------------------------------------------------------ ensembles


def test_members_differ_at_the_start_and_answer_one_by_one():
    single = nets.scalar_mlp((8, 8))
    net = nets.ensemble(single, 3)
    state, action = draws(6, 2), draws(6, 2, seed=1)
    params = compiled(lambda k: net.init(k, state, action), jax.random.key(0))
    for leaf in (x for x in jax.tree.leaves(params) if x.ndim == 3):
        assert len(leaf) == 3
        assert np.abs(leaf[0] - leaf[1]).max() > 0.1 and np.abs(leaf[1] - leaf[2]).max() > 0.1
    found, batched = compiled(
        lambda p: (
            net.apply(p, state, action),
            jax.vmap(lambda q: single.apply(q, state, action))(p),
        ),
        params,
    )
    assert found.shape == (3, 6)
    np.testing.assert_allclose(found, batched, rtol=1e-5, atol=1e-6)
    for k in range(3):
        member = jax.tree.map(lambda leaf, k=k: leaf[k], params)
        expected = perceptron(member, joined(state, action), False)[:, 0]
        np.testing.assert_allclose(found[k], expected, **CLOSE)


def test_an_ensemble_looks_alike_on_an_accelerator(monkeypatch):
    net = nets.ensemble(nets.scalar_mlp((8,)), 3)
    state, action = draws(6, 2), draws(6, 2, seed=1)
    params = filled(net.init, state, action)
    on_cpu = compiled(lambda p: net.apply(p, state, action), params)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = compiled(lambda p: net.apply(p, state, action), params)
    np.testing.assert_allclose(on_cpu, elsewhere, rtol=1e-5, atol=1e-6)


def test_a_critic_s_gradient_is_that_of_plain_reverse_mode():
    """Samples share their observation and their level; members are weighed differently."""
    net = nets.ensemble(nets.stepped_scalar_mlp((8, 8), steps=4, step_size=8), 3)
    state, x, n = draws(5, 1, 2), draws(5, 4, 2, seed=1), np.arange(5, dtype=np.int32)[:, None]
    params = filled(net.init, state, x, n)
    weight = draws(3, 5, 4, seed=2)

    def by_critic(x, params):
        return jnp.sum(weight * nets.with_action_gradient(net, params, state, x, jnp.asarray(n)))

    def plain(x, params):
        return jnp.sum(weight * net.apply(params, state, x, jnp.asarray(n)))

    def all_ways(x, p):
        slope, of_params = jax.grad(by_critic, argnums=(0, 1))(x, p)
        return by_critic(x, p), plain(x, p), slope, jax.grad(plain)(x, p), of_params

    value, expected, slope, plain_slope, of_params = compiled(all_ways, x, params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, plain_slope, rtol=1e-4, atol=1e-5)
    assert np.abs(slope).max() > 0.01
    for leaf in jax.tree.leaves(of_params):  # differentiable in x alone
        np.testing.assert_array_equal(leaf, 0)
    seeds = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), params)  # an ensemble of seeds
    both = compiled(jax.vmap(jax.grad(by_critic), (None, 0)), x, seeds)
    np.testing.assert_allclose(both[0], plain_slope, rtol=1e-4, atol=1e-5)
    assert np.abs(both[1] - both[0]).max() > 0.01
