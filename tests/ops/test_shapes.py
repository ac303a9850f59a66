"""Explicit broadcasting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, squashed, uniform_in
from jaxrl_prefs.types import Box


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3)])
def test_expanding_prepends_axes(shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    found = expand_rank(x, 4)
    assert found.shape == (1,) * (4 - len(shape)) + shape
    np.testing.assert_array_equal(np.asarray(found).ravel(), x.ravel())


def test_scalars_stay_scalars():
    assert expand_rank(2.0, 3).shape == ()


@pytest.mark.parametrize("shape", [(2,), (5, 2), (5, 4, 2)])
def test_clipping_clips_each_dimension_by_its_own_bounds(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 3
    low, high = np.array([-1.0, 0.0]), np.array([0.5, np.inf])
    found = clip_to_box(jnp.asarray(x), Box(low, high))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.clip(x, low.astype("f"), high.astype("f")))


def test_squashed_maps_the_line_onto_the_box():
    low, high = np.array([-1.0, 0.0], "f"), np.array([0.5, 4.0], "f")
    x = np.array([[0.0, 0.0], [0.3, -2.0], [1e4, 1e4], [-1e4, -1e4]], "f")
    found = np.asarray(squashed(jnp.asarray(x), Box(low, high)))
    expected = (low + high) / 2 + (high - low) / 2 * np.tanh(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(found[2:], [high, low])


def test_uniform_points_fill_the_box_evenly():
    rows, low, high = 20_000, np.array([-1.0, 0.0], "f"), np.array([1.0, 4.0], "f")
    found = np.asarray(uniform_in(Box(low, high), jax.random.key(0), (rows, 2), jnp.float32))
    unit = (found - low) / (high - low)
    assert (unit >= 0).all() and (unit <= 1).all()
    assert np.abs(unit.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / rows)
    np.testing.assert_allclose(unit.var(0), 1 / 12, rtol=5 * np.sqrt(0.8 / rows))
    assert abs(np.corrcoef(unit.T)[0, 1]) < 5 / np.sqrt(rows)
