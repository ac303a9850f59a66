"""Power iteration against numpy's singular values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import spectral
from tests.exact import compiled

pytestmark = pytest.mark.usefixtures("x64")

KERNEL = np.random.default_rng(0).normal(size=(7, 5))
START = np.ones(7) / np.sqrt(7)


def iterated(steps: int) -> np.ndarray:
    def go(kernel, u):
        return jax.lax.fori_loop(0, steps, lambda _, u: spectral.power_step(kernel, u), u)

    return compiled(go, KERNEL, START)


def test_the_vector_converges_to_the_first_singular_pair():
    left, sizes, _ = np.linalg.svd(KERNEL)
    u = iterated(300)
    assert abs(u @ left[:, 0]) == pytest.approx(1, abs=1e-9)
    assert spectral.spectral_norm(jnp.asarray(KERNEL), u) == pytest.approx(sizes[0], rel=1e-9)


def test_one_step_is_one_iteration_of_k_k_transposed():
    expected = KERNEL @ (KERNEL.T @ START)
    np.testing.assert_allclose(iterated(1), expected / np.linalg.norm(expected), rtol=1e-12)


def test_before_convergence_the_norm_is_underestimated():
    found = [float(spectral.spectral_norm(jnp.asarray(KERNEL), iterated(n))) for n in (0, 1, 3)]
    assert found[0] < found[1] < found[2] < np.linalg.norm(KERNEL, 2)


def test_the_gradient_takes_both_vectors_as_constants():
    u = np.random.default_rng(1).normal(size=7)
    v = u @ KERNEL / np.linalg.norm(u @ KERNEL)
    slope, of_u = compiled(jax.grad(spectral.spectral_norm, argnums=(0, 1)), KERNEL, u)
    np.testing.assert_allclose(slope, np.outer(u, v), rtol=1e-12)
    np.testing.assert_array_equal(of_u, 0)


def test_a_normalised_kernel_has_norm_one_and_zero_stays_zero():
    kernel = compiled(spectral.normalized, KERNEL, iterated(300))
    assert np.linalg.norm(kernel, 2) == pytest.approx(1, abs=1e-9)
    np.testing.assert_array_equal(compiled(spectral.normalized, 0 * KERNEL, START), 0)
    np.testing.assert_array_equal(compiled(spectral.power_step, 0 * KERNEL, START), 0)


def test_many_kernels_at_once():
    kernels = np.random.default_rng(2).normal(size=(3, 7, 5))
    both = compiled(jax.vmap(spectral.power_step, (0, None)), kernels, START)
    for kernel, u in zip(kernels, both, strict=True):
        np.testing.assert_allclose(compiled(spectral.power_step, kernel, START), u, rtol=1e-12)
