"""Perceptrons over the concatenation of their inputs, plain and residual."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxrl_prefs.nets.layers import ACTIVATIONS, Dense, JoinedDense, as_net, scalar_output
from jaxrl_prefs.types import Array, Net


class Mlp(nn.Module):
    """Dense layers with an activation, optionally a LayerNorm beside it; a linear output."""

    hidden: tuple[int, ...]
    output: int
    activation: str
    layer_norm: bool
    initialiser: str = "orthogonal"
    last_gain: float = 1.0
    norm_after: bool = False  # the LayerNorm follows the activation instead of preceding it
    hidden_bias: float = 0.0  # initial biases of the hidden layers

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        first, *others = self.hidden
        x = self._activated(JoinedDense(first, self.initialiser, self.hidden_bias)(inputs))
        for width in others:
            x = self._activated(
                Dense(width, self.initialiser, bias=self.hidden_bias, hidden=True)(x)
            )
        return Dense(self.output, self.initialiser, self.last_gain)(x)

    def _activated(self, x: Array) -> Array:
        if self.layer_norm and not self.norm_after:
            x = nn.LayerNorm()(x)
        x = ACTIVATIONS[self.activation](x)
        return nn.LayerNorm()(x) if self.layer_norm and self.norm_after else x


class _ResidualMlp(nn.Module):
    """A dense layer, blocks of two ReLU and dense layers each with a skip, a linear output."""

    width: int
    blocks: int
    output: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        x = JoinedDense(self.width, "glorot")(inputs)
        for _ in range(self.blocks):
            start = x
            for _ in range(2):
                x = Dense(self.width, "glorot", hidden=True)(jax.nn.relu(x))
            x = start + x
        return Dense(self.output, "glorot")(x)


def mlp(
    hidden: tuple[int, ...],
    output: int,
    *,
    activation: str = "mish",
    layer_norm: bool = False,
    initialiser: str = "orthogonal",
    last_gain: float = 1.0,
    norm_after: bool = False,
    hidden_bias: float = 0.0,
) -> Net:
    """A perceptron over the concatenation of its inputs: [..., I], [..., J] -> [..., output].

    Args:
        hidden: widths of the hidden layers, one at least.
        output: size of the linear output.
        activation: one of ACTIVATIONS.
        layer_norm: normalise every hidden layer, before its activation.
        initialiser: one of INITIALISERS, of all kernels; "orthogonal" has gain sqrt(2) throughout,
            the output included.
        last_gain: factor of the output layer's initial kernel.
        norm_after: normalise after the activation instead.
        hidden_bias: initial biases of the hidden layers; those of the output start at zero.
    """
    shape = hidden, output, activation, layer_norm, initialiser, last_gain, norm_after
    return as_net(Mlp(*shape, hidden_bias))


def scalar_mlp(
    hidden: tuple[int, ...],
    *,
    activation: str = "mish",
    layer_norm: bool = False,
    initialiser: str = "orthogonal",
    last_gain: float = 1.0,
    norm_after: bool = False,
    hidden_bias: float = 0.0,
) -> Net:
    """A perceptron with one output, dropped to the inputs' leading axes: Q(s, a) -> [...].

    Arguments as those of `mlp`.
    """
    shape = hidden, 1, activation, layer_norm, initialiser, last_gain, norm_after
    return scalar_output(as_net(Mlp(*shape, hidden_bias)))


def residual_mlp(width: int, blocks: int, output: int) -> Net:
    """A pre-activation residual network over the concatenation of its inputs."""
    return as_net(_ResidualMlp(width, blocks, output))
