"""Encoders: networks from uint8 images [B, H, W, C] to features [B, features].

An encoder is convolutions and a trunk: a dense layer, LayerNorm and tanh. Pixels become numbers
x / 255 - 0.5 once, at the encoder's input; until then images stay uint8. C counts the channels of
all stacked frames. The convolutions compute in float32 at the input and at the precision in force
between hidden layers; the trunk computes in float32.

"drq": DrQ-v2's four convolutions with orthogonal kernels (Yarats et al. 2021, arXiv 2107.09645).
Deviation: DrQ-v2's actor and critic each have a trunk over shared convolutions; here the trunk
belongs to the encoder, so whoever shares an encoder shares the trunk.

"impala_small": the residual encoder of IMPALA (Espeholt et al. 2018, arXiv 1802.01561) with one
block of two convolutions in each of three stages, as OGBench and FQL use it. Deviations: DrQ's
trunk in place of their dense layer of 512, and pixels are centred.

"two_layers": what a CPU trains in minutes on small pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl_prefs.nets.layers import Dense, as_net, initialiser
from jaxrl_prefs.ops import convolution, spectral
from jaxrl_prefs.types import STATE, Array, Key, Net, Params

MIN_SIZE = 16
POWER_ITERATIONS = 10


class _Convolution(nn.Module):
    """A 3x3 convolution with bias; with `spectral`, its linear map is divided by its norm."""

    width: int
    initialiser: str
    stride: int = 1
    padding: str = "VALID"
    hidden: bool = True  # its input is a hidden layer
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = 3, 3, x.shape[-1], self.width
        kernel = self.param("kernel", initialiser(self.initialiser), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        if self.spectral:
            kernel = _normalised(kernel, x.shape[1:], self.stride, self.padding)
        product = convolution.hidden if self.hidden else convolution.exact
        return product(x, kernel, self.stride, self.padding) + bias[None, None, None]


def _normalised(kernel: Array, shape: tuple[int, ...], stride: int, padding: str) -> Array:
    """The kernel divided by the norm of its convolution on images of `shape` [H, W, I].

    Power iterations always start from the same vector, so the network stays a function of its
    parameters. They cost as much as 2 POWER_ITERATIONS images more in a batch.
    """

    def linear(kernel: Array) -> Callable[[Array], Array]:
        return lambda x: convolution.exact(x, kernel, stride, padding)

    fixed = linear(jax.lax.stop_gradient(kernel))
    u = spectral.direction(jax.random.normal(jax.random.key(0), (1, *shape)))
    u = jax.lax.fori_loop(0, POWER_ITERATIONS, lambda _, u: spectral.operator_step(fixed, u), u)
    return kernel / jnp.maximum(spectral.operator_norm(linear(kernel), u), spectral.TINY)


class _Trunk(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        # Orthogonal of gain 1: no ReLU follows.
        return jnp.tanh(nn.LayerNorm()(Dense(self.features, gain=math.sqrt(0.5))(flat)))


class _Plain(nn.Module):
    features: int
    spectral: bool
    width: int
    strides: tuple[int, ...]

    @nn.compact
    def __call__(self, image: Array) -> Array:
        x = _numbers(image)
        for place, stride in enumerate(self.strides):
            layer = _Convolution(
                self.width, "orthogonal", stride, hidden=place > 0, spectral=self.spectral
            )
            x = jax.nn.relu(layer(x))
        return _Trunk(self.features)(x)


class _ImpalaSmall(nn.Module):
    features: int
    spectral: bool

    @nn.compact
    def __call__(self, image: Array) -> Array:
        x = _numbers(image)
        for stage, width in enumerate((16, 32, 32)):
            x = _max_pool(self._convolution(width, hidden=stage > 0)(x))
            start = x
            for _ in range(2):
                x = self._convolution(width)(jax.nn.relu(x))
            x = start + x
        return _Trunk(self.features)(jax.nn.relu(x))

    def _convolution(self, width: int, hidden: bool = True) -> _Convolution:
        return _Convolution(width, "glorot", padding="SAME", hidden=hidden, spectral=self.spectral)


def _max_pool(x: Array) -> Array:
    """The maximum over 3x3 windows, every second one: [B, H, W, C] -> [B, H / 2, W / 2, C].

    By slices, rows first: a CPU takes a sixth of the time for this gradient that it takes for
    XLA's own pooling. Equal maxima share the gradient.
    """
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        length = x.shape[axis] - 2  # of each slice, before every second one is taken
        first, second, third = (jax.lax.slice_in_dim(x, i, i + length, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def _numbers(image: Array) -> Array:
    return image.astype(jnp.float32) / 255 - 0.5


def _checked(net: Net) -> Net:
    def init(key: Key, image: Array) -> Params:
        _require_images(image)
        return net.init(key, image)

    def apply(params: Params, image: Array) -> Array:
        _require_images(image)
        return net.apply(params, image)

    return Net(init, apply)


def _require_images(image: Array) -> None:
    if image.dtype != jnp.uint8 or image.ndim != 4:
        raise TypeError(
            f"images are uint8 [B, H, W, C], but this array is {image.dtype} {list(image.shape)}; "
            "pass the pixels 0..255 as they were recorded, and a single image as image[None]"
        )
    height, width = image.shape[1:3]
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for the encoder; "
            f"render or resize them to {MIN_SIZE}x{MIN_SIZE} at least"
        )


def _encoder(module: nn.Module) -> Net:
    return _checked(as_net(module, lambda inputs: [inputs[0].shape[:1]]))


def drq(features: int = 50, *, spectral: bool = False) -> Net:
    """DrQ-v2's encoder: uint8 [B, H, W, C] -> [B, features] in (-1, 1), float32.

    Args:
        features: size of the trunk's output.
        spectral: divide every convolution by its spectral norm, as an energy's layers are; the
            trunk's dense layer is not, since a LayerNorm follows.

    Raises (both functions of the net):
        TypeError: an array that is not uint8 [B, H, W, C].
        ValueError: images smaller than 16 x 16.
    """
    return _encoder(_Plain(features, spectral, 32, (2, 1, 1, 1)))


def impala_small(features: int = 50, *, spectral: bool = False) -> Net:
    """IMPALA's small residual encoder; arguments, shapes and errors as those of `drq`."""
    return _encoder(_ImpalaSmall(features, spectral))


def two_layers(features: int = 50, *, spectral: bool = False) -> Net:
    """Two convolutions of 16 filters with stride 2; arguments, shapes and errors as those of `drq`.

    For small pictures of simple things: a twentieth of DrQ's operations. Ours.
    """
    return _encoder(_Plain(features, spectral, 16, (2, 2)))


ENCODERS: dict[str, Callable[..., Net]] = {
    "drq": drq,
    "impala_small": impala_small,
    "two_layers": two_layers,
}


def image_and_vector(encoder: Net) -> Net:
    """Cameras' features, then the vector: {camera: uint8 [B, H, W, C], "state": [B, O]} ->
    [B, cameras * features + O].

    Each camera has an encoder with parameters of its own; cameras come in the order of their names.
    An observation without "state" gives the features alone.
    """

    def init(key: Key, observation: dict[str, Array]) -> Params:
        names = _cameras(observation)
        keys = jax.random.split(key, len(names))
        return {
            name: encoder.init(k, observation[name]) for name, k in zip(names, keys, strict=True)
        }

    def apply(params: Params, observation: dict[str, Array]) -> Array:
        parts = [encoder.apply(params[name], observation[name]) for name in _cameras(observation)]
        if STATE in observation:
            parts.append(observation[STATE])
        return jnp.concatenate(parts, -1)

    return Net(init, apply)


def _cameras(observation: dict[str, Array]) -> list[str]:
    return sorted(name for name in observation if name != STATE)
