"""Log-densities of exact mixtures by the probability-flow ODE."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import likelihood, mixtures, products
from tests.exact import compiled


def adaptive(mixture, y, starts=(likelihood.START,)):
    """Item by item, each with steps of its own, from each of some starts: [starts, items]."""

    def one(y, start):
        return likelihood.adaptive_log_density(mixture.score, y, start=start)

    each = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    return compiled(each, jnp.float32(y), jnp.float32(starts))


def fixed(mixture, y, **more):
    return compiled(partial(likelihood.log_density, mixture.score, **more), jnp.float32(y))


LINE = mixtures.pair(1, weight=0.5)
LINE_POINTS, LINE_VALUES = [[0.7], [0.8], [0.9], [0.0]], [0.69050, 0.19050, -1.30950, -23.11635]
PLANE_POINTS = [[0.8, 0], [0.8, 0.05], [0.9, 0], [0, 0]]
PLANE_VALUES = [2.76729, 2.26729, 0.76729, -123.85]


@pytest.mark.parametrize("solve", [adaptive, fixed])
def test_normal_data_have_the_normal_density(solve):
    y = np.random.default_rng(0).normal(size=(20, 3))
    expected = -0.5 * (y**2).sum(-1) - 1.5 * math.log(2 * math.pi)
    found = np.reshape(solve(mixtures.normal(3), y), -1)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_a_line_of_two_modes():
    """From START the density of the data, from 1e-3 that of the data with that much noise."""
    np.testing.assert_allclose(LINE.log_density(jnp.float32(LINE_POINTS)), LINE_VALUES, rtol=2e-4)
    found, later = adaptive(LINE, LINE_POINTS, (likelihood.START, 1e-3))
    np.testing.assert_allclose(found[:3], LINE_VALUES[:3], atol=5e-4)
    np.testing.assert_allclose(later[:3], [0.68507, 0.19011, -1.29408], atol=5e-4)
    np.testing.assert_allclose([found[3], later[3]], [-23.1141, -22.8554], atol=0.02)


def test_a_plane_of_four_modes():
    (found,) = adaptive(mixtures.cross(), PLANE_POINTS)
    np.testing.assert_allclose(found[:3], [2.7669, 2.2672, 0.76778], atol=1e-3)
    np.testing.assert_allclose(found[:3], PLANE_VALUES[:3], atol=1e-3)
    assert found[3] == pytest.approx(PLANE_VALUES[3], abs=0.1)


@pytest.mark.parametrize(
    ("mixture", "allowed"),
    [
        (mixtures.pair(1), 0.005),
        (mixtures.pair(1, std=0.3), 0.003),
        (mixtures.pair(3, std=0.15), 0.005),
        (mixtures.cross(), 0.01),
    ],
)
def test_fixed_steps_are_accurate_on_samples(mixture, allowed):
    """Over 2,000 samples, 32 evaluations; at the border between two modes errors reach 1."""
    y = mixture.sample(2_000)
    error = fixed(mixture, y) - np.asarray(mixture.log_density(jnp.asarray(y)))
    assert np.abs(error).mean() < allowed
    assert np.quantile(np.abs(error), 0.98) < 10 * allowed


@pytest.mark.parametrize("nodes", [6, 200])
def test_fixed_steps_converge(nodes):
    y = np.array([[0.7], [0.85]])
    error = np.abs(fixed(LINE, y, nodes=nodes) - np.asarray(LINE.log_density(jnp.float32(y))))
    assert (error.max() < 1e-3) == (nodes == 200)


def test_too_few_nodes_are_refused():
    with pytest.raises(ValueError, match="6 nodes"):
        likelihood.log_density(LINE.score, jnp.zeros((1, 1)), nodes=5)


def bent(y, t):
    """A field whose Jacobian is full."""
    matrix = jnp.array([[1.0, 2.0, 0.5], [-1.0, 3.0, 0.0], [0.3, 0.2, -2.0]], y.dtype)
    return jnp.tanh(y @ matrix) * (1 + t)


def traces(y, t):
    return np.array([np.trace(jax.jacobian(lambda x: bent(x[None], t)[0])(x)) for x in y])


def test_the_exact_trace():
    y = jnp.float32(np.random.default_rng(0).normal(size=(5, 3)))
    value, trace = likelihood.exact(bent, y, 0.5)
    np.testing.assert_allclose(value, bent(y, 0.5), rtol=1e-6)
    np.testing.assert_allclose(trace, traces(y, 0.5), rtol=1e-4, atol=1e-5)


def test_random_signs_are_exact_on_a_diagonal():
    y = jnp.float32(np.random.default_rng(0).normal(size=(5, 3)))
    diagonal = lambda y, t: jnp.sin(y) * t  # noqa: E731
    estimate = likelihood.hutchinson(jax.random.key(0), 3, probes=1)
    np.testing.assert_allclose(
        estimate(diagonal, y, 0.5)[1], (jnp.cos(y) * 0.5).sum(-1), rtol=1e-5, atol=1e-6
    )


def test_random_signs_are_unbiased():
    y = jnp.float32(np.random.default_rng(0).normal(size=(3, 3)))

    def one(key):
        return likelihood.hutchinson(key, 3, probes=1)(bent, y, 0.5)[1]

    found = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 4_000)))
    deviation = found.std(0)
    assert (deviation > 0.1).all()  # a single sample is not exact
    error = np.abs(found.mean(0) - traces(y, 0.5)) / (deviation / np.sqrt(len(found)))
    assert (error < 4).all()


def test_a_solver_that_gives_up_says_minus_infinity():
    def broken(y, t):
        return jnp.full_like(y, jnp.nan)

    assert compiled(partial(likelihood.adaptive_log_density, broken), jnp.zeros(2)) == -np.inf


def test_no_callback_is_compiled():
    """Inside somebody's scan, on any device."""
    text = str(jax.make_jaxpr(partial(likelihood.adaptive_log_density, LINE.score))(jnp.zeros(1)))
    assert "callback" not in text


@pytest.mark.parametrize(
    "density", [likelihood.log_density, partial(likelihood.adaptive_log_density, tolerance=1e-3)]
)
def test_a_coarse_precision_leaves_densities_alone(density):
    """The score of normal data as a layer of a network, whose products follow the precision."""
    y = jnp.float32(np.random.default_rng(0).normal(size=(20, 3)))

    def found(y):
        return density(lambda y, t: products.hidden(-y, jnp.eye(3)), y)

    with jax.default_matmul_precision("bfloat16"):
        coarse = compiled(found, y)
        assert (compiled(products.hidden, y, jnp.eye(3)) != y).any()
    np.testing.assert_array_equal(coarse, compiled(found, y))
