"""Networks behind `Net(init, apply)`. The only file that knows Flax's module API.

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

from jaxrl_prefs.ops.shapes import aligned
from jaxrl_prefs.types import Array, Key, Net, Params

_orthogonal_kernel = nn.initializers.orthogonal(math.sqrt(2.0))


def orthogonal(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Draws an orthogonal kernel of gain sqrt(2), as every layer of BDPO's networks has.

    Under vmap, kernels are drawn one after the other: on a CPU, jaxlib 0.10's batched QR waits
    inside XLA's thread pool for others of that pool, and two at once on two threads wait for ever.
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


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"mish": mish, "relu": jax.nn.relu}
INITIALISERS: dict[str, Callable[..., Array]] = {
    "orthogonal": orthogonal,
    "lecun": nn.initializers.lecun_normal(),  # variance 1 / inputs, as plain Flax draws it
    "glorot": nn.initializers.glorot_uniform(),  # as Keras draws it
}


def _initialiser(name: str, gain: float = 1.0) -> Callable[..., Array]:
    draw = INITIALISERS[name]
    if gain == 1:
        return draw
    return lambda key, shape, dtype=jnp.float32: gain * draw(key, shape, dtype)


class _JoinedDense(nn.Module):
    """A dense layer over the concatenation of inputs that are never concatenated."""

    width: int
    initialiser: str = "orthogonal"

    @nn.compact
    def __call__(self, inputs: Sequence[Array]) -> Array:
        sizes = [x.shape[-1] for x in inputs]
        draw = _initialiser(self.initialiser)
        kernel = self.param("kernel", draw, (sum(sizes), self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
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
    initialiser: str = "orthogonal"
    last_gain: float = 1.0

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        first, *others = self.hidden
        x = self._activated(_JoinedDense(first, self.initialiser)(inputs))
        for width in others:
            x = self._activated(_Dense(width, self.initialiser)(x))
        return _Dense(self.output, self.initialiser, self.last_gain)(x)

    def _activated(self, x: Array) -> Array:
        x = nn.LayerNorm()(x) if self.layer_norm else x
        return ACTIVATIONS[self.activation](x)


class _Dense(nn.Module):
    width: int
    initialiser: str = "orthogonal"
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.width, kernel_init=_initialiser(self.initialiser, self.gain))(x)


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
        *others, n = inputs
        return self.mlp(*others, _StepFeature(self.step_size)(n))


def _net(module: nn.Module, leading: Callable[..., list[tuple[int, ...]]] | None = None) -> Net:
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


def _leading_stepped(inputs: tuple[Array, ...]) -> list[tuple[int, ...]]:
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


def mlp(
    hidden: tuple[int, ...],
    output: int,
    *,
    activation: str = "mish",
    layer_norm: bool = False,
    initialiser: str = "orthogonal",
    last_gain: float = 1.0,
) -> Net:
    """A perceptron over the concatenation of its inputs: [..., I], [..., J] -> [..., output].

    Args:
        hidden: widths of the hidden layers, one at least.
        output: size of the linear output.
        activation: one of ACTIVATIONS.
        layer_norm: normalise every hidden layer before its activation.
        initialiser: one of INITIALISERS, of all kernels; "orthogonal" has gain sqrt(2) throughout,
            the output included. Biases start at zero.
        last_gain: factor of the output's kernel at the start.
    """
    return _net(_Mlp(hidden, output, activation, layer_norm, initialiser, last_gain))


def scalar_mlp(
    hidden: tuple[int, ...],
    *,
    activation: str = "mish",
    layer_norm: bool = False,
    initialiser: str = "orthogonal",
    last_gain: float = 1.0,
) -> Net:
    """A perceptron with one output, dropped to the inputs' leading axes: Q(s, a) -> [...].

    Arguments as those of `mlp`.
    """
    return _scalar(_net(_Mlp(hidden, 1, activation, layer_norm, initialiser, last_gain)))


def stepped_mlp(hidden: tuple[int, ...], output: int, *, step_size: int = 64) -> Net:
    """A perceptron that reads a diffusion step as its last input: eps(x, s, n) -> [..., output].

    n is an integer scalar or has the leading axes of the other inputs; its feature (BDPO, table 3)
    is computed once per entry of n.
    """
    return _net(_Stepped(_Mlp(hidden, output, "mish", False), step_size), _leading_stepped)


def stepped_scalar_mlp(hidden: tuple[int, ...], *, step_size: int = 64) -> Net:
    """V(s, x, n) -> [...], with LayerNorm in every hidden layer."""
    return _scalar(_net(_Stepped(_Mlp(hidden, 1, "mish", True), step_size), _leading_stepped))


def _scalar(net: Net) -> Net:
    return Net(net.init, lambda params, *inputs: net.apply(params, *inputs).squeeze(-1))


def ensemble(net: Net, size: int) -> Net:
    """`size` independent members on the same inputs; parameters and outputs gain a first axis E.

    On a CPU the members run one after the other, which keeps each one's activations in cache; on an
    accelerator they run as one batch.
    """

    def init(key: Key, *inputs: Array) -> Params:
        # One by one on a CPU: a batched QR (orthogonal kernels) waits in XLA's thread pool for
        # threads of that same pool, and two devices that do so at once wait for ever (jax 0.10.2).
        return over_members(lambda k: net.init(k, *inputs), jax.random.split(key, size))

    def apply(params: Params, *inputs: Array) -> Array:
        return over_members(lambda p: net.apply(p, *inputs), params)

    return Net(init, apply)


def over_members(fn: Callable[[Params], Any], params: Params) -> Any:
    """Maps over the first axis of `params`: a loop on a CPU, a batch on an accelerator."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(fn, params)
    return jax.vmap(fn)(params)


def judged(judge: Net, params: Params, context: Array, x: Array, *more: Array) -> Array:
    """An ensemble's opinion of x, differentiable in x alone: judge(context, x, *more) -> [E, ...].

    Each output depends on its own row of x only, so the gradient is one [E, ..., A] array computed
    beside the values, member by member; plain reverse mode would store every activation of every
    member first (421 MB against 83 MB for BDPO's actor step at batch 256, and slower).
    """

    params, context, more = jax.lax.stop_gradient((params, context, more))

    @jax.custom_vjp
    def values(x: Array) -> Array:
        return judge.apply(params, context, x, *more)

    def forward(x: Array) -> tuple[Array, Array]:
        def member(p: Params) -> tuple[Array, Array]:
            one = jax.tree.map(lambda leaf: leaf[None], p)
            y, pull = jax.vjp(lambda x: judge.apply(one, context, x, *more)[0], x)
            return y, pull(jnp.ones_like(y))[0]

        return over_members(member, params)

    def backward(slope: Array, cotangent: Array) -> tuple[Array]:
        return (jnp.sum(cotangent[..., None] * slope, 0),)

    values.defvjp(forward, backward)
    return values(x)


# --- Networks of ARQ ------------------------------------------------------------------------------

FREQUENCY = 30.0  # deviation of the random frequencies of time


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


class _TimeFeature(nn.Module):
    """Random Fourier features of the time t, [sin, cos], and a linear layer.

    The frequencies are drawn once, for every network alike, and never trained: a constant.
    """

    width: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        # RandomState's numbers are the same in every release, so a checkpoint keeps its meaning.
        draw = np.random.RandomState(0).normal(0, FREQUENCY, self.width // 2)
        angle = t[..., None] * aligned((2 * np.pi * draw).astype(np.float32), t.ndim + 1)
        return _Dense(self.width, "glorot")(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1))


class _ScoreNet(nn.Module):
    """Residual blocks that read the time before each of their two layers."""

    width: int
    blocks: int
    output: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        *others, t = inputs
        x = _JoinedDense(self.width, "glorot")(others)
        time = aligned(_TimeFeature(self.width)(t), x.ndim)
        for _ in range(self.blocks):
            start = x
            for _ in range(2):
                x = _Dense(self.width, "glorot")(swish(x + time))
            x = start + x
        return _Dense(self.output, "glorot")(x)


class _ResidualMlp(nn.Module):
    """A dense layer, blocks of two ReLU and dense layers each with a skip, a linear output."""

    width: int
    blocks: int
    output: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        x = _JoinedDense(self.width, "glorot")(inputs)
        for _ in range(self.blocks):
            start = x
            for _ in range(2):
                x = _Dense(self.width, "glorot")(jax.nn.relu(x))
            x = start + x
        return _Dense(self.output, "glorot")(x)


def score_net(width: int, blocks: int, output: int) -> Net:
    """A score network f(y, observation, t) -> [..., output] (ARQ, appendix A.2 and its code).

    t is a scalar, whose feature is then computed once, or has the leading axes of the others.
    """
    return _net(_ScoreNet(width, blocks, output), _leading_stepped)


def residual_mlp(width: int, blocks: int, output: int) -> Net:
    """A pre-activation residual network over the concatenation of its inputs."""
    return _net(_ResidualMlp(width, blocks, output))
