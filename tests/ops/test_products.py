"""Products at a precision, against numpy's of the rounded factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops import products
from tests.exact import compiled

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 7)).astype(np.float32)
KERNEL = RNG.normal(size=(7, 3)).astype(np.float32)
SLOPE = RNG.normal(size=(2, 5, 3)).astype(np.float32)


def rounded(x: Any) -> np.ndarray:
    return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16), np.float64)


def at(level: str, function: Callable[..., Any], *arguments: Any) -> Any:
    def program(*given: Any) -> Any:
        with jax.default_matmul_precision(level):
            return function(*given)

    return compiled(program, *arguments)


def pulled(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> Any:
    value, pull = jax.vjp(products.hidden, x, kernel)
    return value, *pull(slope)


def test_factors_are_rounded_and_sums_are_not() -> None:
    value, by_x, by_kernel = at("bfloat16", pulled, X, KERNEL, SLOPE)
    x, kernel, slope = map(rounded, (X, KERNEL, SLOPE))
    assert value.dtype == by_x.dtype == by_kernel.dtype == np.float32
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(value, x @ kernel, **close)
    np.testing.assert_allclose(by_x, slope @ kernel.T, **close)
    np.testing.assert_allclose(by_kernel, np.einsum("bti,bto->io", x, slope), **close)
    assert np.abs(value - X @ KERNEL).max() > 1e-3  # else the test could not fail


@pytest.mark.parametrize("level", ["highest", "tensorfloat32"])
def test_the_other_precisions_are_a_plain_product_on_a_cpu(level: str) -> None:
    for found, expected in zip(
        at(level, pulled, X, KERNEL, SLOPE),
        compiled(lambda *given: (given[0] @ given[1], *pulled(*given)[1:]), X, KERNEL, SLOPE),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_gradients_of_gradients_and_members() -> None:
    """A penalty on a slope, as in the energy's loss; each member has its own kernel."""

    def penalty(kernel: jax.Array, x: jax.Array) -> jax.Array:
        slope = jax.grad(lambda x: jnp.sum(jnp.square(products.hidden(x, kernel))))(x)
        return jnp.sum(jnp.square(slope))

    both = jnp.stack([KERNEL, 2 * KERNEL])
    found = at("bfloat16", jax.vmap(jax.grad(penalty), (0, None)), both, X[0])
    expected = compiled(jax.vmap(jax.grad(penalty), (0, None)), both, X[0])
    # Four roundings of 2^-9 each, relative to the largest entries.
    assert np.abs(found - expected).max() < 4 * 2**-9 * np.abs(expected).max()
    assert (found != expected).any()


def test_exact_is_exact() -> None:
    found = at("bfloat16", products.exact, X, KERNEL)
    np.testing.assert_array_equal(found, compiled(products.exact, X, KERNEL))
