"""Networks behind `Net(init, apply)`. The only file that knows Flax's module API.

A network takes several inputs whose leading axes broadcast against each other, and multiplies each
by its own rows of the first layer before broadcasting: an observation [B, 1, O] shared by K samples
[B, K, A] costs one row, not K. The parameters are those of the layer over the concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops.shapes import aligned
from jaxrl_prefs.types import Array, Key, Net, Params

ORTHOGONAL = nn.initializers.orthogonal(np.sqrt(2.0))  # every layer of BDPO's networks


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


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"mish": mish, "relu": jax.nn.relu}


class _JoinedDense(nn.Module):
    """A dense layer over the concatenation of inputs that are never concatenated."""

    width: int

    @nn.compact
    def __call__(self, inputs: Sequence[Array]) -> Array:
        sizes = [x.shape[-1] for x in inputs]
        kernel = self.param("kernel", ORTHOGONAL, (sum(sizes), self.width))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        parts = jnp.split(kernel, np.cumsum(sizes)[:-1])
        ndim = max(x.ndim for x in inputs)
        # The smallest products first: the large one is then added to once, with the bias inside.
        products = [aligned(x @ part, ndim) for x, part in zip(inputs, parts, strict=True)]
        products.sort(key=lambda product: product.size)
        total = products[0] + aligned(bias, ndim)
        for product in products[1:]:
            total = product + total
        return total


class _Mlp(nn.Module):
    """Dense layers with an activation, and a LayerNorm before it if asked; a linear output."""

    hidden: tuple[int, ...]
    output: int
    activation: str
    layer_norm: bool

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        first, *others = self.hidden
        x = self._activated(_JoinedDense(first)(inputs))
        for width in others:
            x = self._activated(_Dense(width)(x))
        return _Dense(self.output)(x)

    def _activated(self, x: Array) -> Array:
        x = nn.LayerNorm()(x) if self.layer_norm else x
        return ACTIVATIONS[self.activation](x)


class _Dense(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.width, kernel_init=ORTHOGONAL)(x)


class _StepFeature(nn.Module):
    """A diffusion step n (a plain integer) as sinusoids [cos, sin] and two dense layers."""

    size: int

    @nn.compact
    def __call__(self, n: Array) -> Array:
        half = self.size // 2
        frequency = np.exp(-np.log(10_000.0) * np.arange(half) / (half - 1)).astype(np.float32)
        angle = n.astype(jnp.float32)[..., None] * aligned(frequency, n.ndim + 1)
        x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        for _ in range(2):
            x = mish(_Dense(self.size)(x))
        return x


class _Stepped(nn.Module):
    """A perceptron that also reads the diffusion step n, given as its last input."""

    mlp: _Mlp
    step_size: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        *inputs, n = inputs
        return self.mlp(*inputs, _StepFeature(self.step_size)(n))


def _net(module: nn.Module, finish: Callable[[Array], Array] = lambda y: y) -> Net:
    def init(key: Key, *inputs: Array) -> Params:
        return module.init(key, *inputs)["params"]

    def apply(params: Params, *inputs: Array) -> Array:
        return finish(module.apply({"params": params}, *inputs))

    return Net(init, apply)


def _scalar(y: Array) -> Array:
    return y.squeeze(-1)


def mlp(
    hidden: tuple[int, ...], output: int, *, activation: str = "mish", layer_norm: bool = False
) -> Net:
    """A perceptron over the concatenation of its inputs: [..., I], [..., J] -> [..., output].

    Orthogonal kernels of gain sqrt(2) throughout, the output included, and zero biases.
    """
    return _net(_Mlp(hidden, output, activation, layer_norm))


def scalar_mlp(hidden: tuple[int, ...], *, layer_norm: bool = False) -> Net:
    """A perceptron with one output, dropped to the inputs' leading axes: Q(s, a) -> [...]."""
    return _net(_Mlp(hidden, 1, "mish", layer_norm), _scalar)


def stepped_mlp(hidden: tuple[int, ...], output: int, *, step_size: int = 64) -> Net:
    """A perceptron that reads a diffusion step as its last input: eps(x, s, n) -> [..., output].

    n is an integer scalar or has the leading axes of the other inputs; its feature (BDPO, table 3)
    is computed once per entry of n.
    """
    return _net(_Stepped(_Mlp(hidden, output, "mish", False), step_size))


def stepped_scalar_mlp(hidden: tuple[int, ...], *, step_size: int = 64) -> Net:
    """V(s, x, n) -> [...], with LayerNorm in every hidden layer."""
    return _net(_Stepped(_Mlp(hidden, 1, "mish", True), step_size), _scalar)


def ensemble(net: Net, size: int) -> Net:
    """`size` independent members on the same inputs; parameters and outputs gain a first axis E.

    On a CPU the members run one after the other, which keeps each one's activations in cache; on an
    accelerator they run as one batch.
    """

    def init(key: Key, *inputs: Array) -> Params:
        return jax.vmap(lambda k: net.init(k, *inputs))(jax.random.split(key, size))

    def apply(params: Params, *inputs: Array) -> Array:
        def member(p: Params) -> Array:
            return net.apply(p, *inputs)

        if jax.default_backend() == "cpu":
            return jax.lax.map(member, params)
        return jax.vmap(member)(params)

    return Net(init, apply)
