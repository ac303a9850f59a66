"""Matrix products at a stated precision.

JAX's `jax.default_matmul_precision` says how precisely the products inside networks are computed:
the contract's `with_precision` sets it for a whole method. Only products between two hidden layers
follow it (`hidden`). First and last layers, norms of kernels and log-densities are always computed
in float32 (`exact`): there a coarser product costs accuracy and saves little time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array

HALF = jnp.bfloat16


def exact(x: Array, y: Array) -> Array:
    """x @ y in float32 on every device: [..., I] by [I, J], or vectors."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def hidden(x: Array, kernel: Array) -> Array:
    """x [..., I] @ kernel [I, J] at the precision in force; the result is float32.

    Under "bfloat16", factors are rounded to bfloat16 and products accumulated in float32, in the
    gradients as well: a CPU ignores JAX's own setting, and a GPU would use TF32. Gradients are then
    reverse mode only.

    >>> x = jnp.array([[1 + 2.0**-9]])
    >>> with jax.default_matmul_precision("bfloat16"):
    ...     print(hidden(x, jnp.ones((1, 1))))
    [[1.]]
    """
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if asked == "bfloat16" and x.dtype == jnp.float32:
        return _rounded(x, kernel)
    return x @ kernel


@jax.custom_vjp
def _rounded(x: Array, kernel: Array) -> Array:
    return _product(x.astype(HALF), kernel.astype(HALF), x.ndim - 1, 0)


def _product(x: Array, y: Array, of_x: int, of_y: int) -> Array:
    """The sum over axis `of_x` of x and `of_y` of y, in float32."""
    axes = (((of_x,), (of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    halves = x.astype(HALF), kernel.astype(HALF)
    return _product(*halves, x.ndim - 1, 0), halves


def _backward(halves: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = halves
    rows = x.reshape(-1, x.shape[-1]).T.astype(jnp.float32)
    by_x = _rounded(slope, kernel.T.astype(jnp.float32))
    return by_x, _rounded(rows, slope.reshape(-1, slope.shape[-1]))


_rounded.defvjp(_forward, _backward)
