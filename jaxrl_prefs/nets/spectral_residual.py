"""A residual network with spectrally normalised layers, as pure functions of explicit state.

Input layer, blocks x + W2 relu(W1 relu(x)), a last relu, linear output (pre-activation: He et al.
2016), one learned positive gain. Every kernel, the output's included, is divided by its spectral
norm, so a block at most doubles a slope, and the whole has slopes up to gain * 2^blocks. The output
has no bias: an energy is meant up to a constant, and a parameter without a gradient would be moved
only by rounding errors.

The vectors of the power iteration are not parameters. The training code keeps them beside the
parameters, moves them by `power_iteration`, and stops doing so when the network is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import products, spectral
from jaxrl_prefs.ops.shapes import expand_rank
from jaxrl_prefs.types import Array, Key, Params

Vectors = dict[str, Array]  # layer -> u [inputs of the layer]
INPUT, OUTPUT = "input", "output"


class Residual(NamedTuple):
    """The network: `apply(params, vectors, *inputs) -> [...]`, a scalar per row.

    Inputs' leading axes broadcast, and each input is multiplied by its own rows of the first layer
    before that: an observation [B, 1, O] beside K actions [B, K, A] costs one row.
    """

    init: Callable[..., Params]  # (key, *inputs) -> params, for shapes
    start: Callable[[Key, Params], Vectors]
    power_iteration: Callable[[Params, Vectors], Vectors]  # one for every kernel
    apply: Callable[..., Array]
    blocks: int


def scalar(width: int, blocks: int) -> Residual:
    """`blocks` blocks of two layers of `width`, between an input layer and a linear output."""
    inner = [f"block{i}{half}" for i in range(blocks) for half in "ab"]

    def init(key: Key, *inputs: Array) -> Params:
        sizes = {INPUT: (sum(x.shape[-1] for x in inputs), width), OUTPUT: (width, 1)}
        sizes |= {name: (width, width) for name in inner}
        keys = jax.random.split(key, len(sizes))
        layers = {name: _layer(k, *sizes[name]) for name, k in zip(sizes, keys, strict=True)}
        del layers[OUTPUT]["bias"]
        return {"layers": layers, "log_gain": jnp.zeros(())}

    def apply(params: Params, vectors: Vectors, *inputs: Array) -> Array:
        layers = params["layers"]

        def kernel(name: str) -> Array:
            return spectral.normalized(layers[name]["kernel"], vectors[name])

        def dense(name: str, x: Array) -> Array:
            product = products.hidden(jax.nn.relu(x), kernel(name))
            return product + expand_rank(layers[name]["bias"], x.ndim)

        x = _joined(kernel(INPUT), layers[INPUT]["bias"], inputs)
        for first, second in zip(inner[::2], inner[1::2], strict=True):
            x = x + dense(second, dense(first, x))
        return gain(params) * products.exact(jax.nn.relu(x), kernel(OUTPUT)).squeeze(-1)

    return Residual(init, _start, _power_iteration, apply, blocks)


def gain(params: Params) -> Array:
    """The learned positive factor of the output."""
    return jnp.exp(params["log_gain"])


def _layer(key: Key, inputs: int, outputs: int) -> dict[str, Array]:
    kernel = jax.random.normal(key, (inputs, outputs)) / np.sqrt(inputs)  # its norm is divided out
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def _joined(kernel: Array, bias: Array, inputs: tuple[Array, ...]) -> Array:
    """The layer over the concatenation of its inputs, without concatenating them."""
    ndim = max(x.ndim for x in inputs)
    parts = jnp.split(kernel, np.cumsum([x.shape[-1] for x in inputs])[:-1])
    terms = [
        expand_rank(products.exact(x, part), ndim) for x, part in zip(inputs, parts, strict=True)
    ]
    terms.sort(
        key=lambda term: term.size
    )  # smallest first: the largest array is added to only once
    total = terms[0] + expand_rank(bias, ndim)
    for term in terms[1:]:
        total = term + total
    return total


def _start(key: Key, params: Params) -> Vectors:
    layers = params["layers"]
    keys = jax.random.split(key, len(layers))
    return {
        name: spectral.direction(jax.random.normal(k, layers[name]["kernel"].shape[:1]))
        for name, k in zip(sorted(layers), keys, strict=True)
    }


def _power_iteration(params: Params, vectors: Vectors) -> Vectors:
    return {
        name: spectral.power_step(layer["kernel"], vectors[name])
        for name, layer in params["layers"].items()
    }
