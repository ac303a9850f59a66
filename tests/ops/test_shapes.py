"""Explicit broadcasting."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops.shapes import aligned, boxed


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3)])
def test_aligned_prepends_axes(shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    found = aligned(x, 4)
    assert found.shape == (1,) * (4 - len(shape)) + shape
    np.testing.assert_array_equal(np.asarray(found).ravel(), x.ravel())


def test_scalars_stay_scalars():
    assert aligned(2.0, 3).shape == ()


@pytest.mark.parametrize("shape", [(2,), (5, 2), (5, 4, 2)])
def test_boxed_clips_each_dimension_by_its_own_bounds(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 3
    low, high = np.array([-1.0, 0.0]), np.array([0.5, np.inf])
    found = boxed(jnp.asarray(x), low, high)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.clip(x, low.astype("f"), high.astype("f")))
