"""Convolutions, their gradients and their norms against the explicit matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import convolution, spectral
from tests.exact import compiled

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 7, 2))
KERNEL = RNG.normal(size=(3, 3, 2, 3))
FORMS = [(1, "VALID"), (2, "VALID"), (1, "SAME"), (2, "SAME")]
forms = pytest.mark.parametrize(("stride", "padding"), FORMS)


def plain(x: np.ndarray, kernel: np.ndarray, stride: int, padding: str) -> np.ndarray:
    """By numpy: pad, cut windows, multiply."""
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (stride,) * 2, padding)
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    return np.einsum("bhwixy,xyio->bhwo", windows[:, ::stride, ::stride], kernel)


def matrix(kernel: np.ndarray, stride: int, padding: str) -> np.ndarray:
    """The convolution of one image as a matrix [H W I, H' W' O]."""
    units = np.eye(X[0].size).reshape(-1, *X[0].shape)
    return plain(units, kernel, stride, padding).reshape(len(units), -1)


def pulled(function: Callable[..., Any], stride: int, padding: str) -> Callable[..., Any]:
    def program(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> Any:
        value, pull = jax.vjp(lambda *a: function(*a, stride, padding), x, kernel)
        return value, *pull(slope)

    return program


def expected(
    x: np.ndarray, kernel: np.ndarray, slope: np.ndarray, *form: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    by_x = slope.reshape(len(x), -1) @ matrix(kernel, *form).T
    units = np.eye(kernel.size).reshape(-1, *kernel.shape)
    by_kernel = [np.sum(plain(x, unit, *form) * slope) for unit in units]
    return plain(x, kernel, *form), by_x.reshape(x.shape), np.reshape(by_kernel, kernel.shape)


@forms
@pytest.mark.parametrize("block", [2**20, 100], ids=["whole", "in blocks"])
@pytest.mark.usefixtures("x64")
def test_value_and_gradients(
    stride: int, padding: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "PATCH_NUMBERS", block)
    slope = RNG.normal(size=plain(X, KERNEL, stride, padding).shape)
    found = compiled(pulled(convolution.exact, stride, padding), X, KERNEL, slope)
    for one, other in zip(found, expected(X, KERNEL, slope, stride, padding), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_hidden_factors_are_rounded_under_bfloat16() -> None:
    def rounded(x: Any) -> np.ndarray:
        return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16), np.float64)

    def program(*given: jax.Array) -> Any:
        with jax.default_matmul_precision("bfloat16"):
            return [pulled(f, 1, "VALID")(*given) for f in FUNCTIONS]

    slope = RNG.normal(size=(4, 4, 5, 3))
    given = [a.astype(np.float32) for a in (X, KERNEL, slope)]
    close = {"rtol": 2e-5, "atol": 2e-5}
    found = compiled(program, *given)
    for factors, results in zip((given, [rounded(a) for a in given]), found, strict=True):
        for one, other in zip(results, expected(*factors, 1, "VALID"), strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, **close)


FUNCTIONS = convolution.exact, convolution.hidden


@forms
@pytest.mark.usefixtures("x64")
def test_the_norm_is_the_largest_singular_value_of_the_matrix(stride: int, padding: str) -> None:
    def norm(kernel: jax.Array, u: jax.Array) -> jax.Array:
        def linear(x: jax.Array) -> jax.Array:
            return convolution.exact(x, kernel, stride, padding)

        u = jax.lax.fori_loop(0, 300, lambda _, u: spectral.operator_step(linear, u), u)
        return spectral.operator_norm(linear, u)

    found = compiled(norm, KERNEL, spectral.direction(jnp.asarray(X[:1])))
    sizes = np.linalg.svd(matrix(KERNEL, stride, padding), compute_uv=False)
    assert found == pytest.approx(sizes[0], rel=1e-4)


@pytest.mark.usefixtures("x64")
def test_the_norm_of_a_matrix_agrees_with_that_of_a_kernel() -> None:
    kernel, u = RNG.normal(size=(5, 4)), np.ones(5) / np.sqrt(5)

    def both(kernel: jax.Array, u: jax.Array) -> Any:
        def norm(kernel: jax.Array) -> jax.Array:
            return spectral.operator_norm(lambda u: u @ kernel, u)

        step = spectral.operator_step(lambda u: u @ kernel, u)
        return norm(kernel), jax.grad(norm)(kernel), step

    def known(kernel: jax.Array, u: jax.Array) -> Any:
        norm = spectral.spectral_norm
        return norm(kernel, u), jax.grad(norm)(kernel, u), spectral.power_step(kernel, u)

    for one, other in zip(compiled(both, kernel, u), compiled(known, kernel, u), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
