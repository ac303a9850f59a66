"""Networks that read a time: a diffusion step (BDPO, IDQL), or a continuous time (ARQ's score)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.nets.layers import (
    Dense,
    JoinedDense,
    as_net,
    leading_with_time,
    mish,
    scalar_output,
    swish,
)
from jaxrl_prefs.nets.mlp import Mlp
from jaxrl_prefs.ops import products
from jaxrl_prefs.ops.shapes import expand_rank
from jaxrl_prefs.types import Array, Net

FREQUENCY = 30.0  # standard deviation of the random frequencies of time
STEP_FREQUENCY = 0.2  # standard deviation of the initial learned frequencies of a step


class _StepFeature(nn.Module):
    """A diffusion step n (a plain integer) as sinusoids [cos, sin] and two dense layers."""

    size: int
    hidden: int  # width of the first dense layer; the second has `size`

    @nn.compact
    def __call__(self, n: Array) -> Array:
        half = self.size // 2
        frequency = np.exp(-np.log(10_000.0) * np.arange(half) / (half - 1)).astype(np.float32)
        angle = n.astype(jnp.float32)[..., None] * expand_rank(frequency, n.ndim + 1)
        x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        for width in (self.hidden, self.size):
            x = mish(Dense(width)(x))
        return x


class _Stepped(nn.Module):
    """A perceptron that also reads the diffusion step n, given as its last input."""

    mlp: Mlp
    step_size: int
    step_hidden: int
    steps: int  # the largest n

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        *others, n = inputs
        feature = _StepFeature(self.step_size, self.step_hidden)
        # For each row, the product below costs about as many operations as there are steps, and
        # the feature's own layers cost `step_size` times their width.
        if n.size <= self.steps or self.steps + 1 >= 2 * self.step_size:
            return self.mlp(*others, feature(n))
        # Many rows share few steps. The rows are chosen by a product, not a gather, because the
        # gradient of a product is another product, and that of a gather adds row by row.
        levels = jnp.arange(self.steps + 1)
        chosen = (n[..., None] == expand_rank(levels, n.ndim + 1)).astype(jnp.float32)
        return self.mlp(*others, products.exact(chosen, feature(levels)))


class _LearnedStepFeature(nn.Module):
    """A diffusion step n >= 1 as Fourier features [cos, sin] of learned frequencies, two layers.

    The step is counted from 0, and the second layer is linear.
    """

    size: int
    hidden: int  # width of both layers

    @nn.compact
    def __call__(self, n: Array) -> Array:
        init = nn.initializers.normal(STEP_FREQUENCY)
        frequency = self.param("frequency", init, (self.size // 2,), jnp.float32)
        step = (n - 1).astype(jnp.float32)[..., None]
        angle = step * expand_rank(2 * np.pi * frequency, step.ndim)
        x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        x = mish(Dense(self.hidden, "glorot")(x))
        return Dense(self.hidden, "glorot")(x)


class _SteppedResidual(nn.Module):
    """Residual blocks of a LayerNorm and two layers, the first four times as wide."""

    width: int
    blocks: int
    output: int
    step_size: int
    step_hidden: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        *others, n = inputs
        feature = _LearnedStepFeature(self.step_size, self.step_hidden)(n)
        x = JoinedDense(self.width, "glorot")([*others, feature])
        for _ in range(self.blocks):
            wide = mish(Dense(4 * self.width, "lecun", hidden=True)(nn.LayerNorm()(x)))
            x = x + Dense(self.width, "lecun", hidden=True)(wide)
        return Dense(self.output, "glorot")(mish(x))


class _TimeFeature(nn.Module):
    """Random Fourier features of the time t, [sin, cos], and a linear layer.

    The frequencies are the same constants in every network and are not trained.
    """

    width: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        # RandomState gives the same numbers in every release, so checkpoints stay valid.
        frequency = np.random.RandomState(0).normal(0, FREQUENCY, self.width // 2)
        angle = t[..., None] * expand_rank((2 * np.pi * frequency).astype(np.float32), t.ndim + 1)
        return Dense(self.width, "glorot")(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1))


class _ScoreNet(nn.Module):
    """Residual blocks that read the time before each of their two layers."""

    width: int
    blocks: int
    output: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        *others, t = inputs
        x = JoinedDense(self.width, "glorot")(others)
        time = expand_rank(_TimeFeature(self.width)(t), x.ndim)
        for _ in range(self.blocks):
            start = x
            for _ in range(2):
                x = Dense(self.width, "glorot", hidden=True)(swish(x + time))
            x = start + x
        return Dense(self.output, "glorot")(x)


def stepped_mlp(
    hidden: tuple[int, ...],
    output: int,
    *,
    steps: int,
    step_size: int = 64,
    activation: str = "mish",
) -> Net:
    """A perceptron that reads a diffusion step as its last input: eps(x, s, n) -> [..., output].

    n is an integer scalar or has the leading axes of the other inputs. Its feature (BDPO, table 3)
    is computed once per entry of n, or once per step where n has more entries and that costs less.

    Args:
        hidden: widths of the hidden layers.
        output: width of the result.
        steps: the largest n; n lies in 0..steps, and no other n has a defined result.
        step_size: width of the feature of n.
        activation: of the hidden layers, one of ACTIVATIONS; the feature's is Mish.
    """
    net = _Stepped(Mlp(hidden, output, activation, False), step_size, step_size, steps)
    return as_net(net, leading_with_time)


def stepped_scalar_mlp(
    hidden: tuple[int, ...],
    *,
    steps: int,
    step_size: int = 64,
    step_hidden: int | None = None,
    activation: str = "mish",
) -> Net:
    """V(s, x, n) -> [...], with LayerNorm in every hidden layer; n as for `stepped_mlp`.

    Args:
        hidden: widths of the hidden layers.
        steps: the largest n; n lies in 0..steps, and no other n has a defined result.
        step_size: width of the feature of n.
        step_hidden: width of the layer before the feature; by default `step_size`.
        activation: of the hidden layers, one of ACTIVATIONS; the feature's is Mish.
    """
    mlp = Mlp(hidden, 1, activation, True)
    net = _Stepped(mlp, step_size, step_hidden or step_size, steps)
    return scalar_output(as_net(net, leading_with_time))


def stepped_residual_mlp(
    width: int, blocks: int, output: int, *, step_size: int = 64, step_hidden: int = 128
) -> Net:
    """A residual network that reads a diffusion step as its last input (IDQL's LN_Resnet).

    eps(x, s, n) -> [..., output], without the paper's dropout. A block adds
    W2 mish(W1 LayerNorm(x)), with W1 four times as wide as x. n is as for `stepped_mlp`.
    """
    net = _SteppedResidual(width, blocks, output, step_size, step_hidden)
    return as_net(net, leading_with_time)


def score_net(width: int, blocks: int, output: int) -> Net:
    """A score network f(y, observation, t) -> [..., output] (ARQ, appendix A.2 and its code).

    t is a scalar, whose feature is then computed once, or has the leading axes of the others.
    """
    return as_net(_ScoreNet(width, blocks, output), leading_with_time)
