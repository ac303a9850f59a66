"""Convolutions of images [B, H, W, I] with kernels [h, w, I, O], fast to differentiate on a CPU.

XLA's own gradients are right everywhere but slow on a CPU inside a loop, where all training runs.
There its convolution for the kernel's gradient leaves the fast path, and so does the one for the
input's where it reverses the kernel in place: 32-pixel images at batch 128 took seconds a step.
Both are written out here: patches and one matrix product for the kernel, and a convolution with a
kernel that has been reversed before for the input. Reverse mode only.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array

AXES = ("NHWC", "HWIO", "NHWC")
PATCH_NUMBERS = 2**20  # of one block of images; all patches of a batch are 9 times its activations
Pads = tuple[tuple[int, int], tuple[int, int]]


class _Form(NamedTuple):
    """What is fixed when a convolution is compiled."""

    stride: int
    pads: Pads
    precision: jax.lax.Precision | None
    rounded: bool  # factors are rounded to bfloat16, in the gradients as well


def exact(x: Array, kernel: Array, stride: int = 1, padding: str = "VALID") -> Array:
    """The convolution in float32 on every device: [B, H, W, I] -> [B, H', W', O].

    `padding` is "VALID" or "SAME" (zeros).
    """
    pads = _pads(x, kernel, stride, padding)
    return _convolve(x, kernel, _Form(stride, pads, jax.lax.Precision.HIGHEST, rounded=False))


def hidden(x: Array, kernel: Array, stride: int = 1, padding: str = "VALID") -> Array:
    """The convolution between hidden layers, at the precision in force; see `products.hidden`."""
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    rounded = asked == "bfloat16" and x.dtype == jnp.float32
    pads = _pads(x, kernel, stride, padding)
    return _convolve(x, kernel, _Form(stride, pads, None, rounded))


def _pads(x: Array, kernel: Array, stride: int, padding: str) -> Pads:
    rows, columns = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride,) * 2, padding)
    return rows, columns


def _plain(x: Array, kernel: Array, form: _Form) -> Array:
    strides = form.stride, form.stride
    return jax.lax.conv_general_dilated(
        x, kernel, strides, form.pads, dimension_numbers=AXES, precision=form.precision
    )


def _to_factor(x: Array, form: _Form) -> Array:
    # Not by astype and back, which XLA may drop as an excess of precision.
    return jax.lax.reduce_precision(x, 8, 7) if form.rounded else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, form: _Form) -> Array:
    return _plain(_to_factor(x, form), _to_factor(kernel, form), form)


def _forward(x: Array, kernel: Array, form: _Form) -> tuple[Array, tuple[Array, Array]]:
    factors = _to_factor(x, form), _to_factor(kernel, form)
    return _plain(*factors, form), factors


def _backward(form: _Form, factors: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = factors
    slope = _to_factor(slope, form)
    if jax.default_backend() != "cpu":
        by_x, by_kernel = jax.vjp(lambda x, kernel: _plain(x, kernel, form), x, kernel)[1](slope)
        return by_x, by_kernel
    return _input_slope(x, kernel, slope, form), _kernel_slope(x, kernel, slope, form)


_convolve.defvjp(_forward, _backward)


def _input_slope(x: Array, kernel: Array, slope: Array, form: _Form) -> Array:
    """The slope, spread out by the stride and convolved with the reversed kernel."""
    # The barrier keeps XLA from reversing inside the convolution.
    kernel_back = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    pads = [
        (size - 1 - low, length + low - 1 - form.stride * (steps - 1))
        for size, (low, _), length, steps in zip(
            kernel.shape[:2], form.pads, x.shape[1:3], slope.shape[1:3], strict=True
        )
    ]
    spread = form.stride, form.stride
    return jax.lax.conv_general_dilated(
        slope, kernel_back, (1, 1), pads, spread, dimension_numbers=AXES, precision=form.precision
    )


def _kernel_slope(x: Array, kernel: Array, slope: Array, form: _Form) -> Array:
    """All patches times all slopes, some images at a time."""
    numbers = slope.shape[1] * slope.shape[2] * kernel[..., 0].size
    blocks = min(len(x), -(-len(x) * numbers // PATCH_NUMBERS))
    while len(x) % blocks:
        blocks += 1

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _product_of_patches(*part, kernel.shape[:2], form), None

    if blocks == 1:
        return _product_of_patches(x, slope, kernel.shape[:2], form).reshape(kernel.shape)
    parts = [a.reshape(blocks, -1, *a.shape[1:]) for a in (x, slope)]
    zero = jnp.zeros((kernel[..., 0].size, slope.shape[-1]), slope.dtype)
    total, _ = jax.lax.scan(add, zero, (parts[0], parts[1]))
    return total.reshape(kernel.shape)


def _product_of_patches(x: Array, slope: Array, size: tuple[int, ...], form: _Form) -> Array:
    """[h w I, O]: the sum over images and places of patch times slope."""
    patch = _patches(x, slope.shape[1:3], size, form)
    rows, slopes = (a.reshape(-1, a.shape[-1]) for a in (patch, slope))
    # Contracted where they lie: a transpose would spoil the layout for the convolutions around it.
    return jax.lax.dot_general(rows, slopes, (((0,), (0,)), ((), ())), precision=form.precision)


def _patches(x: Array, steps: tuple[int, ...], size: tuple[int, ...], form: _Form) -> Array:
    """[B, H, W, I] -> [B, H', W', h w I], in the order of the kernel's rows, columns, inputs."""
    x = jnp.pad(x, ((0, 0), *form.pads, (0, 0)))
    height, width = ((n - 1) * form.stride + 1 for n in steps)
    step = form.stride
    return jnp.concatenate(
        [
            x[:, i : i + height : step, j : j + width : step]
            for i in range(size[0])
            for j in range(size[1])
        ],
        axis=-1,
    )
