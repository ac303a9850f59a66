"""The threshold of a support as a quantile of the data's own log-densities, and its warnings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.behavior import support_threshold

STD = 0.3
ROWS = 4_000
# Exact quantiles: in two dimensions exp(-chi^2 / 2) is uniform on (0, 1).
LEVELS = (np.arange(ROWS) + 0.5) / ROWS
ANGLES = np.random.default_rng(0).uniform(0, 2 * np.pi, ROWS)
OFFSETS = np.sqrt(-2 * np.log(LEVELS))[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def log_density(mean: jax.Array, action: jax.Array) -> jax.Array:
    """Of N(mean, STD^2) in two dimensions."""
    return -np.log(2 * np.pi * STD**2) - 0.5 * jnp.sum(jnp.square((action - mean) / STD), -1)


def of_rows(size: int) -> jax.Array:
    mean = jnp.float32(np.random.default_rng(1).normal(size=(ROWS, 2)))
    action = mean + jnp.float32(STD * OFFSETS)
    return support_threshold.in_blocks(log_density, mean, action, size)


@pytest.mark.parametrize("q", [0.02, 0.3, 0.9])
def test_of_a_gaussian_the_threshold_is_a_quantile_of_chi_square(q):
    """The (1 - q)-quantile of chi^2 with two degrees of freedom is -2 log q."""
    density = of_rows(ROWS)
    found = support_threshold.quantile(density, q)
    assert found == pytest.approx(-np.log(2 * np.pi * STD**2) + np.log(q), abs=0.02)
    assert jnp.mean(density > found) == pytest.approx(1 - q, abs=1 / ROWS)
    fresh = STD * np.random.default_rng(2).normal(size=(20_000, 2))
    kept = np.mean(log_density(jnp.zeros((1, 2)), jnp.float32(fresh)) > found)
    assert kept == pytest.approx(1 - q, abs=4 * np.sqrt(q * (1 - q) / 20_000) + 1 / ROWS)


def test_a_fixed_threshold_keeps_all_of_narrow_data_and_nothing_of_broad_data():
    """A quantile moves with the data's width and dimensions."""
    noise = np.random.default_rng(3).normal(size=(5_000, 6))
    for std, fixed in ((0.01, 1.0), (1.0, 0.0)):
        density = -3 * np.log(2 * np.pi * std**2) - 0.5 * np.sum(noise**2, 1)
        assert np.mean(density > -5) == fixed
        found = support_threshold.quantile(jnp.float32(density), 0.1)
        assert np.mean(np.float32(density) > found) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "blocks", "each"), [(ROWS, 1, 4_000), (37, 109, 36), (1, 4_000, 1)]
)
def test_blocks_give_the_log_densities_of_all_rows_at_once(size, blocks, each):
    shapes = []

    def seen(mean: jax.Array, action: jax.Array) -> jax.Array:
        shapes.append(action.shape)
        return log_density(mean, action)

    rows = jnp.float32(STD * OFFSETS)
    found = support_threshold.in_blocks(seen, 0 * rows, rows, size)
    assert found.shape == (blocks * each,) and set(shapes) == {(each, 2)}
    np.testing.assert_allclose(found, log_density(0 * rows, rows)[: blocks * each], rtol=1e-5)


def test_unsolved_densities_count_as_the_lowest():
    density = jnp.array([jnp.nan, -jnp.inf, -2.0, -1.0, 0.0])
    assert support_threshold.quantile(density, 0.5) == -2
    assert support_threshold.quantile(density, 0.1) == support_threshold.LOWEST


@pytest.mark.parametrize(
    ("kept", "says"),
    [(0.0, "rejects more than 99%"), (0.009, "SARSA"), (0.02, ""), (0.98, ""), (1.0, "no")],
)
def test_a_threshold_without_effect_is_named_with_the_remedy(kept, says):
    found = support_threshold.warnings({"candidates_kept": kept})
    assert len(found) == bool(says)
    assert all(says in text and "threshold_quantile" in text for text in found)
    assert support_threshold.warnings({}) == ()
