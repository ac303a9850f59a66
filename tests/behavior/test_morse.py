"""Morse networks: the known answers T1 to T4 of kernels, loss and training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_prefs import learner
from jaxrl_prefs.behavior import morse
from jaxrl_prefs.types import Box, Net, Spec
from tests import modes
from tests.exact import batch_of, compiled

pytestmark = pytest.mark.usefixtures("x64")

R = np.array([0.05, 0.1, 0.25, 0.5, 1.0])
EVERYWHERE = {"observation": np.zeros((6, 1)), "action": np.linspace(-1, 1, 12).reshape(6, 2)}


# ----------------------------------------------------------------------------- T1: kernels


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (4.0, [0.98020, 0.92312, 0.60653, 0.13534, 0.00034]),
        (0.8, [0.9992, 0.9968, 0.9802, 0.9231, 0.7261]),
    ],
)
def test_the_rbf_has_the_values_of_the_sheet(scale, expected):
    digits = 5 if scale == 4 else 4
    found = np.exp(compiled(morse.rbf, R**2, scale))
    np.testing.assert_array_equal(found.round(digits), expected)
    assert np.exp(morse.rbf(jnp.float64(0.01), 8.0)) == pytest.approx(0.7261, abs=5e-5)


@pytest.mark.parametrize("name", morse.KERNELS)
def test_every_kernel_is_one_at_no_distance_and_falls_from_there(name):
    square = np.linspace(0, 3, 301) ** 2
    found = np.exp(compiled(morse.KERNELS[name], square, 1.5))
    assert found[0] == 1 and (np.diff(found) < 0).all() and found[-1] > 0
    slope = compiled(jax.vmap(jax.grad(morse.KERNELS[name]), (0, None)), square, 1.5)
    assert np.isfinite(slope).all()


def test_laplace_and_cauchy_are_their_formulas():
    np.testing.assert_allclose(compiled(morse.laplace, R**2, 3.0), -3 * R, rtol=1e-12)
    expected = 1 / (1 + 9 * R**2)
    np.testing.assert_allclose(np.exp(compiled(morse.cauchy, R**2, 3.0)), expected, rtol=1e-12)


def test_the_rational_quadratic_tends_to_the_rbf_in_float32_too():
    square = jnp.asarray(R**2, jnp.float32)
    found = jnp.exp(morse.rational_quadratic(square, 4.0, kappa=1e6))
    np.testing.assert_allclose(found, jnp.exp(morse.rbf(square, 4.0)), atol=1e-4)
    assert morse.rational_quadratic(jnp.float64(2.0), 3.0) == pytest.approx(-np.log(10))


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("k/10", 0.8),
        ("k/2", 4),
        ("k", 8),
        ("2k", 16),
        ("1.5", 1.5),
        (" 0.5k/4 ", 1),
        ("1e-2", 0.01),
    ],
)
def test_scales_are_numbers_or_multiples_of_the_action_dimension(text, scale):
    assert morse.scale_of(text, 8) == pytest.approx(scale)


@pytest.mark.parametrize("text", ["", "half", "k/0", "-1", "0", "2k/", "k2", "nan", "inf", "-k"])
def test_other_scales_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="kernel_scale must be a number above 0"):
        morse.scale_of(text, 8)


# ---------------------------------------------------------------------- T2: loss by shifts


def loss_of(network, action, uniform, weight=None):
    weight = np.ones(len(action)) if weight is None else weight
    return compiled(
        lambda a, u, w: morse.loss((), morse=network, batch=batch_of(a), negatives=u, weight=w)[0],
        action,
        uniform,
        weight,
    )


@pytest.mark.parametrize(("r", "total"), [(0.0, 1.0), (0.25, 1.10653), (1.0, 8.00034)])
def test_a_network_that_always_misses_by_r_has_a_known_loss(r, total):
    """lambda^2 r^2 / 2 + exp(-lambda^2 r^2 / 2) >= 1; the identity, r = 0, is the trivial one."""
    network = modes.shifted([0.6 * r, -0.8 * r], 4.0)
    rng = np.random.default_rng(0)
    found = loss_of(network, rng.uniform(-1, 1, (5, 2)), rng.uniform(-1, 1, (5, 3, 2)))
    assert found == pytest.approx(total, abs=5e-6)
    state, action = EVERYWHERE.values()
    certain, unsure, energy = compiled(
        lambda: tuple(
            f(network, (), state, action)
            for f in (morse.certainty, morse.uncertainty, morse.energy)
        )
    )
    np.testing.assert_allclose(certain, np.exp(-8 * r**2), rtol=1e-12)
    np.testing.assert_allclose(unsure, 1 - np.exp(-8 * r**2), atol=1e-15)
    np.testing.assert_allclose(energy, 8 * r**2, atol=1e-14)


def test_energies_do_not_underflow_where_certainties_do():
    network, action = modes.shifted([4.0, 0.0], 12.0), np.zeros((2, 2))
    with jax.enable_x64(False):
        found = loss_of(network, np.float32(action), np.zeros((2, 1, 2), "f"), np.ones(2, "f"))
    assert found == pytest.approx(12**2 * 16 / 2)


def test_the_loss_weighs_rows_and_averages_over_uniform_actions():
    """-log M by hand on actions that miss by themselves: f = 0, so r = |a|."""
    network = modes.shifted([0.0, 0.0], 2.0)
    zero = Net(lambda key, *inputs: (), lambda p, s, a: jnp.zeros_like(a))
    network = network._replace(net=zero)
    rng = np.random.default_rng(1)
    action, uniform = rng.uniform(-1, 1, (4, 2)), rng.uniform(-1, 1, (4, 3, 2))
    weight = np.array([1.0, 0.0, 1.0, 1.0])
    energy = 2 * (action**2).sum(-1)
    certain = np.exp(-2 * (uniform**2).sum(-1))
    expected = np.sum(weight * (energy + certain.mean(1))) / 3
    assert loss_of(network, action, uniform, weight) == pytest.approx(expected, rel=1e-12)


def test_the_target_moves_with_the_action():
    """With f = 0 the energy is lambda^2 |a|^2 / 2: its slope is that of the target alone."""
    zero = Net(lambda key, *inputs: (), lambda p, s, a: jnp.zeros_like(a))
    network = modes.shifted([0.0, 0.0], 3.0)._replace(net=zero)
    action = np.array([[0.3, -0.4]])
    slope = compiled(
        jax.grad(lambda a: morse.energy(network, (), np.zeros((1, 1)), a).sum()), action
    )
    np.testing.assert_allclose(slope, 9 * action, rtol=1e-12)


# -------------------------------------------------------------- T3: the population optimum


def optimum(share, steps=3_000, weight=1.0, negatives=None):
    """M by bins that minimise the loss for data of these shares. Negatives: all, or these."""
    bins = len(share)
    action = np.arange(bins, dtype=float)[:, None]

    def apply(miss, observation, a):
        return a + miss[a[..., 0].astype(int)][..., None]

    network = modes.shifted([0.0], 1.0)._replace(
        net=Net(lambda key, *inputs: (), apply), negative_weight=weight
    )
    opt = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    drawn = action if negatives is None else action[negatives]
    batch, drawn = batch_of(action), jnp.broadcast_to(drawn[None], (bins, len(drawn), 1))

    def step(_, carry):
        miss, state = carry
        slope = jax.grad(
            lambda m: morse.loss(m, morse=network, batch=batch, negatives=drawn, weight=share)[0]
        )(miss)
        move, state = opt.update(slope, state)
        return optax.apply_updates(miss, move), state

    def run(miss):
        return jax.lax.fori_loop(0, steps, step, (miss, opt.init(miss)))[0]

    miss = jax.jit(run)(jnp.full(bins, 0.5))
    return np.asarray(morse.certainty(network, miss, jnp.zeros((bins, 1)), jnp.asarray(action)))


def test_certainty_tends_to_the_density_ratio_clipped_at_one():
    """Data N(0, .1^2) on [-1, 1], where the uniform density is .5."""
    a = np.arange(-100, 100) / 100
    density = np.exp(-50 * a**2) / np.sqrt(2 * np.pi) / 0.1
    found = optimum(density / 100)
    assert np.abs(found[np.abs(a) <= 0.2038] - 1).max() < 1e-3
    for at, expected in ((0.25, 0.3506), (0.3, 0.0886), (0.4, 0.0027)):
        assert found[np.abs(a - at) < 1e-9] == pytest.approx(expected, abs=1e-3)
        assert found[np.abs(a + at) < 1e-9] == pytest.approx(expected, abs=1e-3)


def test_with_volume_for_weight_certainty_tends_to_the_density_clipped_at_one():
    """The same data; twice the uniform density of .5 is 1."""
    a = np.arange(-100, 100) / 100
    density = np.exp(-50 * a**2) / np.sqrt(2 * np.pi) / 0.1
    found = optimum(density / 100, weight=2.0)
    np.testing.assert_allclose(found, np.minimum(1, density), atol=1e-3)
    assert found[np.abs(a - 0.25) < 1e-9] == pytest.approx(0.1753, abs=1e-3)


def test_the_weight_of_negatives_counts_dimensions():
    made = morse.network((8,), spec(3), kernel="rbf", scale=1.0, negative_weight=2.0)
    assert made.negative_weight == 8
    with pytest.raises(ValueError, match="negative_weight must be above 0"):
        morse.network((8,), spec(3), kernel="rbf", scale=1.0, negative_weight=0.0)


def test_certainty_of_bins_is_their_ratio_clipped_at_one():
    np.testing.assert_allclose(
        optimum(np.array([0.5, 0.3, 0.15, 0.05])), [1, 1, 0.6, 0.2], atol=1e-3
    )


def test_against_shuffled_actions_certainty_is_the_ratio_to_the_mixture():
    """p(a|s) = .5, .3, .15, .05; u = .5 * 1/4 + .5 * p(a) with p(a) = .2, .2, .2, .4."""
    mixture = np.repeat(np.arange(4), [9, 9, 9, 13])  # of 40: .225, .225, .225, .325
    found = optimum(np.array([0.5, 0.3, 0.15, 0.05]), negatives=mixture)
    np.testing.assert_allclose(found, [1, 1, 0.15 / 0.225, 0.05 / 0.325], atol=1e-3)


# --------------------------------------------------------------------------- the negatives


def test_negatives_are_uniform_but_for_their_share_of_other_rows():
    action = 10 * np.arange(1.0, 6)[:, None] + np.arange(2)  # outside of the box: 10, 11; 20, ..
    network = modes.shifted([0.0, 0.0], 1.0)._replace(shuffled=0.25)
    drawn, is_uniform = morse.sample_negatives(network, action, jax.random.key(0), 20_000)
    assert drawn.shape == (5, 20_000, 2) and is_uniform.shape == (5, 20_000)
    inside = (np.abs(drawn) <= 1).all(-1)
    np.testing.assert_array_equal(inside, is_uniform == 1)
    assert inside.mean() == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 1e5))
    uniform = drawn[inside]
    assert np.abs(uniform.mean(0)).max() < 0.02 and np.abs(uniform.var(0) - 1 / 3).max() < 0.01
    rows, counts = np.unique(drawn[~inside], axis=0, return_counts=True)
    np.testing.assert_array_equal(rows, action)  # whole rows, each as often
    assert np.abs(counts / counts.sum() - 0.2).max() < 0.02


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_is_exact(share):
    network = modes.shifted([0.0], 1.0)._replace(shuffled=share)
    _, is_uniform = morse.sample_negatives(network, jnp.zeros((3, 1)), jax.random.key(0), 1_000)
    assert (is_uniform == 1 - share).all()


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan])
def test_a_share_is_in_0_to_1(share):
    with pytest.raises(ValueError, match="shuffled must be in 0 to 1"):
        morse.network((8,), spec(), kernel="rbf", scale="k", shuffled=share)


# --------------------------------------------------------------------------- the update


def spec(size=2):
    one, zero = np.ones(size, np.float32), np.zeros(size, np.float32)
    return Spec(1, size, 100, -one, one, zero[:1], one[:1], zero, one)


def test_an_unknown_kernel_is_refused_with_the_options():
    with pytest.raises(ValueError, match="kernel must be one of rbf, laplace"):
        morse.network((8,), spec(), kernel="gauss", scale="k")


def test_held_out_rows_are_measured_and_not_trained_on():
    """f is a constant vector: its gradient is that of the mean over the other rows, by hand."""

    def apply(params, observation, action):
        return jnp.broadcast_to(params.reshape((1,) * (action.ndim - 1) + (-1,)), action.shape)

    network = modes.shifted([0.0, 0.0], 1.0)
    net = Net(lambda key, *inputs: jnp.zeros(2), apply)
    # uniform actions far away: their certainty, and its slope, is 0
    far = np.array([100.0, 100.0])
    network = network._replace(net=net, box=Box(far, far + 1))
    rng, f = np.random.default_rng(0), np.array([0.2, -0.1])
    action = rng.uniform(-1, 1, (6, 2))
    batch = batch_of(action)._replace(index=jnp.array([0, 3, 20, 19, 41, 60], jnp.int32))
    trained = np.array([False, True, False, True, True, False])
    opt = optax.sgd(0.5)

    def step(params):
        part = learner.init(params, opt)
        return morse.update(part, batch, jax.random.key(0), morse=network, opt=opt, negatives=2)

    part, metrics = compiled(step, jnp.asarray(f))
    np.testing.assert_allclose(
        part.params, f - 0.5 * (f - action[trained].mean(0)), rtol=1e-10, atol=1e-12
    )
    certain = np.exp(-0.5 * ((f - action) ** 2).sum(-1))
    total, count = metrics["certainty_held_out"]
    assert count == 3 and total == pytest.approx(certain[~trained].sum(), rel=1e-6)
    total, count = metrics["certainty_data"]
    assert count == 3 and total == pytest.approx(certain[trained].sum(), rel=1e-6)
    assert metrics["certainty_uniform"][0] == 0
    loss = -np.log(certain)[trained].mean()
    assert metrics["morse_loss"][0] == pytest.approx(loss, rel=1e-6)


def test_shuffled_actions_teach_states_in_many_dimensions():
    """Two states, 16 action dimensions, negatives of other rows alone: the optimum is
    min(1, p(a|s) / p(a)), which is 1 for a state's own actions and 0 for the other's."""
    with jax.enable_x64(False):
        rng, size = np.random.default_rng(0), 16
        state = np.sign(rng.normal(size=(2_000, 1)))
        noise = 0.01 * rng.normal(size=(2_000, size))
        action = 0.2 * state * np.sign(rng.normal(size=size)) + noise
        data = batch_of(action.astype("f"))._replace(
            observation=state.astype("f"), index=np.arange(2_000, dtype=np.int32)
        )
        opt = optax.adam(2e-3)

        network = morse.network((32, 32), spec(size), kernel="rbf", scale="k/2", shuffled=1.0)

        def step(i, part):
            key, rows_key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
            rows = jax.random.randint(rows_key, (64,), 0, 2_000)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            return morse.update(part, batch, key, morse=network, opt=opt, negatives=4)[0]

        @jax.jit
        def certainties():
            start = network.net.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros((1, size)))
            part = jax.lax.fori_loop(0, 1_000, step, learner.init(start, opt))
            return tuple(
                morse.certainty(network, part.params, sign * data.observation, data.action).mean()
                for sign in (1, -1)
            )

        own, others = certainties()
    assert own > 0.9 and others < 0.05, (own, others)


# ---------------------------------------------------------------- T4: a trained network


def test_training_finds_all_four_modes():
    """M above .99 at the centres, lower between them and lowest in the corners of the box; the loss
    below the trivial network's 1; certain of rows it was not trained on. Kernel scale k/2."""
    with jax.enable_x64(False):
        data = jax.tree.map(
            lambda x: np.asarray(x, "f") if x.dtype == np.float64 else np.asarray(x),
            modes.clusters(2_000),
        )
        network = morse.network((64, 64), spec(), kernel="rbf", scale="k/2")
        opt = optax.adam(2e-3)

        def step(i, part):
            key = jax.random.fold_in(jax.random.key(1), i)
            rows = jax.random.randint(key, (128,), 0, 2_000)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            key = jax.random.fold_in(key, 1)
            return morse.update(part, batch, key, morse=network, opt=opt, negatives=4)[0]

        @jax.jit
        def run(key):
            start = jnp.zeros((1, 1)), jnp.zeros((1, 2))
            part = learner.init(network.net.init(key, *start), opt)
            part = jax.lax.fori_loop(0, 2_500, step, part)
            corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]], "f")
            places = jnp.concatenate([jnp.asarray(modes.CENTRES, jnp.float32), corners])
            found = morse.certainty(network, part.params, jnp.zeros((9, 1)), places)
            _, metrics = morse.update(part, data, key, morse=network, opt=opt, negatives=4)
            return found, metrics

        found, metrics = run(jax.random.key(0))
    centres, corners, origin = found[:4], found[4:8], found[8]
    assert (centres > 0.99).all(), centres
    assert origin < centres.min() - 0.05
    assert corners.max() < origin
    loss, held_out, uniform = (
        float(metrics[name][0] / metrics[name][1])
        for name in ("morse_loss", "certainty_held_out", "certainty_uniform")
    )
    assert loss < 1 and held_out > 0.95 and uniform < held_out - 0.1
