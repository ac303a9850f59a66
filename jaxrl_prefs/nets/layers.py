"""Dense layers, activations and initialisers, and the way from a Flax module to a `Net`.

A network takes several inputs whose leading axes broadcast against each other, and multiplies each
by its own rows of the first layer before broadcasting: an observation [B, 1, O] shared by K samples
[B, K, A] costs one row, not K. The parameters are those of the layer over the concatenation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import products
from jaxrl_prefs.ops.shapes import expand_rank
from jaxrl_prefs.types import Array, Key, Net, Params

_orthogonal_kernel = nn.initializers.orthogonal(math.sqrt(2.0))


def orthogonal(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Initialises an orthogonal kernel of gain sqrt(2), as in every layer of BDPO's networks.

    Under vmap, kernels are made one after the other: on a CPU, jaxlib 0.10's batched QR waits
    inside XLA's thread pool for other threads of that pool, and two at once deadlock.
    """
    return jax.custom_batching.sequential_vmap(lambda key: _orthogonal_kernel(key, shape, dtype))(
        key
    )


@jax.custom_jvp
def mish(x: Array) -> Array:
    """x tanh(softplus(x)), by one exponential instead of three transcendental functions.

    tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2) with e = exp(x); above x = 20
    the ratio is 1 in float32.
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    u = e * (e + 2)
    return x * (u / (u + 2))


@mish.defjvp
def _mish_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    e = jnp.exp(jnp.minimum(x, 20.0))
    u = e * (e + 2)
    inverse = 1 / (u + 2)
    ratio = u * inverse
    # d ratio / dx = 2 u' / (u + 2)^2 with u' = 2 e (e + 1)
    slope = ratio + x * (4 * e * (e + 1) * inverse * inverse)
    return x * ratio, slope * dx


@jax.custom_jvp
def swish(x: Array) -> Array:
    """x sigmoid(x), by one exponential; its slope by the same one."""
    return x / (1 + jnp.exp(-x))


@swish.defjvp
def _swish_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    gate = 1 / (1 + jnp.exp(-x))
    value = x * gate
    return value, (gate + value * (1 - gate)) * dx


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "mish": mish,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,  # by a tanh, as Flax's default
}
INITIALISERS: dict[str, Callable[..., Array]] = {
    "orthogonal": orthogonal,
    "lecun": nn.initializers.lecun_normal(),  # variance 1 / inputs, Flax's default
    "glorot": nn.initializers.glorot_uniform(),  # Keras' default
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # PyTorch's default
}


def initialiser(name: str, gain: float = 1.0) -> Callable[..., Array]:
    init = INITIALISERS[name]
    if gain == 1:
        return init
    return lambda key, shape, dtype=jnp.float32: gain * init(key, shape, dtype)


def constant(value: float) -> Callable[..., Array]:
    return nn.initializers.constant(value) if value else nn.initializers.zeros_init()


class _JoinedDense(nn.Module):
    """A dense layer over the concatenation of its inputs, without concatenating them."""

    width: int
    initialiser: str = "orthogonal"
    bias: float = 0.0  # its initial value

    @nn.compact
    def __call__(self, inputs: Sequence[Array]) -> Array:
        sizes = [x.shape[-1] for x in inputs]
        init = initialiser(self.initialiser)
        kernel = self.param("kernel", init, (sum(sizes), self.width), jnp.float32)
        bias = self.param("bias", constant(self.bias), (self.width,), jnp.float32)
        parts = jnp.split(kernel, np.cumsum(sizes)[:-1])
        ndim = max(x.ndim for x in inputs)
        # Smallest products first, so that the largest array is added to only once.
        terms = [
            expand_rank(products.exact(x, part), ndim)
            for x, part in zip(inputs, parts, strict=True)
        ]
        terms.sort(key=lambda term: term.size)
        total = terms[0] + expand_rank(bias, ndim)
        for term in terms[1:]:
            total = term + total
        return total


class _Dense(nn.Module):
    width: int
    initialiser: str = "orthogonal"
    gain: float = 1.0
    bias: float = 0.0  # its initial value
    hidden: bool = False  # its input and output are hidden layers

    @nn.compact
    def __call__(self, x: Array) -> Array:
        product = products.hidden if self.hidden else products.exact
        return nn.Dense(
            self.width,
            kernel_init=initialiser(self.initialiser, self.gain),
            bias_init=constant(self.bias),
            dot_general=_as_dot_general(product),
        )(x)


def _as_dot_general(product: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """A product in the form in which Flax's layer calls it."""
    return lambda x, kernel, axes, precision=None: product(x, kernel)


# Flax names parameters by their class, so the classes keep the names that checkpoints hold.
Dense, JoinedDense = _Dense, _JoinedDense


def as_net(module: nn.Module, leading: Callable[..., list[tuple[int, ...]]] | None = None) -> Net:
    shapes = leading or _leading

    def init(key: Key, *inputs: Array) -> Params:
        return module.init(key, *inputs)["params"]

    def apply(params: Params, *inputs: Array) -> Array:
        def whole(*x: Array) -> Array:
            return jnp.asarray(module.apply({"params": params}, *x))

        return _by_blocks(whole, inputs, shapes(inputs))

    return Net(init, apply)


def _leading(inputs: tuple[Array, ...]) -> list[tuple[int, ...]]:
    return [x.shape[:-1] for x in inputs]


def leading_with_time(inputs: tuple[Array, ...]) -> list[tuple[int, ...]]:
    *others, n = inputs
    return [*_leading(tuple(others)), n.shape]


BLOCK = 512  # rows; 512 x 256 float32 activations are half a core's second-level cache


def _by_blocks(
    fn: Callable[..., Array], inputs: tuple[Array, ...], shapes: list[tuple[int, ...]]
) -> Array:
    """`fn(*inputs)`, on a CPU by blocks of about BLOCK rows along the first axis.

    A large batch's activations leave the cache between two layers, a block's do not: a fifth off
    the time of a forward pass, a quarter off a gradient. Inputs of size 1 there go to every block.
    """
    full = jnp.broadcast_shapes(*shapes)
    blocks = int(np.prod(full)) // BLOCK
    while blocks > 1 and full[0] % blocks:
        blocks -= 1
    if blocks < 2 or jax.default_backend() != "cpu":
        return fn(*inputs)
    split = [len(shape) == len(full) and shape[0] == full[0] for shape in shapes]

    def block(parts: list[Array]) -> Array:
        rest = iter(parts)
        return fn(*(next(rest) if s else x for x, s in zip(inputs, split, strict=True)))

    parts = [x.reshape(blocks, -1, *x.shape[1:]) for x, s in zip(inputs, split, strict=True) if s]
    result = jax.lax.map(block, parts)
    return result.reshape(full[0], *result.shape[2:])


def scalar_output(net: Net) -> Net:
    return Net(net.init, lambda params, *inputs: net.apply(params, *inputs).squeeze(-1))
