"""Morse networks: how certain it is that an action belongs to the data, as a number in [0, 1].

Dherin et al. 2023 (arXiv 2307.00667), as TD3-BST uses them (Srinivasan and Knottenbelt 2024, arXiv
2404.16399): a network f(s, a) learns to return the action a where (s, a) is in the data, and the
certainty is a kernel of how far it misses.

    M(s, a)  = K(f(s, a), a)          certainty: 1 on the data's modes, towards 0 off them
    E        = -log M                 energy: M is an unnormalised density
    C        = 1 - M                  uncertainty
    L        = mean[ -log M(s, a) ] + mean_j[ M(s, u_j) ]      u_j uniform on the action box

The optimum of L is M*(s, a) = min(1, p(a|s) / u(a)): a density ratio, clipped at 1. All is
computed from log K; log(exp(.)) would underflow a few kernel widths from the data.

Where actions have many dimensions no uniform one comes near the data, and a network that knows p(a)
but not p(a|s) has the loss of one that knows both (docs/methods/td3_bst.md). A share of the u_j may
therefore be actions of the batch's other rows: u is then the mixture of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition

Kernel = Callable[[Array, float | Array], Array]  # (squared distance, scale) -> log K

HELD_OUT = 20  # every 20th row of the data is measured and not trained on


# --------------------------------------------------------------------------------- kernels


def rbf(square: Array, scale: float | Array) -> Array:
    """log K of exp(-scale^2 r^2 / 2), from the squared distance r^2.

    >>> round(float(jnp.exp(rbf(jnp.float32(0.25), 4.0))), 5)
    0.13534
    """
    return -0.5 * scale**2 * square


def laplace(square: Array, scale: float | Array) -> Array:
    """log K of exp(-scale r); its slope at r = 0, which does not exist, is given as 0."""
    away = square > 0
    return -scale * jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)


def cauchy(square: Array, scale: float | Array) -> Array:
    """log K of 1 / (1 + scale^2 r^2)."""
    return -jnp.log1p(scale**2 * square)


def rational_quadratic(square: Array, scale: float | Array, kappa: float = 1.0) -> Array:
    """log K of (1 + scale^2 r^2 / (2 kappa))^-kappa, which tends to the RBF for large kappa."""
    return -kappa * jnp.log1p(scale**2 * square / (2 * kappa))


KERNELS: dict[str, Kernel] = {
    "rbf": rbf,
    "laplace": laplace,
    "cauchy": cauchy,
    "rational_quadratic": rational_quadratic,
}


def scale_of(text: str | float | Array, action_dim: int) -> float | Array:
    """Reads a kernel's scale: a number, or a multiple of the action dimension k such as k/2.

    An array, the setting of a member (training/sweep.py), is handed back as it is.

    Raises:
        ValueError: for anything else, and for a scale that is not above 0.

    >>> [scale_of(text, 6) for text in ("k/10", "k/2", "k", "2k", "1.5")]
    [0.6, 3.0, 6.0, 12.0, 1.5]
    """
    if isinstance(text, jax.Array):
        return text
    text = str(text)
    number = r"(\d+\.?\d*|\.\d+)"
    multiple = re.fullmatch(rf"{number}?\s*k\s*(?:/\s*{number})?", text.strip())
    try:
        if multiple:
            times, over = (float(group or 1) for group in multiple.groups())
            scale = times * action_dim / over
        else:
            scale = float(text)
    except (ValueError, ZeroDivisionError):
        scale = -1.0
    if not 0 < scale < np.inf:
        raise ValueError(
            "kernel_scale must be a number above 0 or a multiple of the action dimension k, such "
            f"as k/10, k/2, k or 2k, not {text!r}"
        )
    return scale


# Of a config's field `kernel_scale`: how a sweep reads its values (runs/overrides.py).
SCALE = {"as_number": lambda text, spec: scale_of(text, spec.action_dim)}


# ------------------------------------------------------------------------------- the network


class Morse(NamedTuple):
    """A Morse network without its parameters: perturbation form, target a."""

    net: Net  # f: (observation, action) -> [..., A]
    kernel: Callable[[Array], Array]  # squared distance -> log K
    low: np.ndarray  # [A], the box of the uniform actions
    high: np.ndarray  # [A]
    negative_weight: float | Array = 1.0  # of the negatives' term
    shuffled: float | Array = 0.0  # share of the negatives that are other rows' actions


def network(
    hidden: tuple[int, ...],
    spec: Spec,
    *,
    kernel: str,
    scale: str | float | Array,
    negative_weight: float | Array = 1.0,
    shuffled: float | Array = 0.0,
) -> Morse:
    """A ReLU perceptron with a linear output of the action's size, under a kernel.

    Args:
        hidden: widths of the hidden layers.
        spec: of the data.
        kernel: one of KERNELS.
        scale: as `scale_of` reads it.
        negative_weight: of the negatives, for each dimension: their term has its k-th power.
        shuffled: share of the negatives that are other rows' actions; the rest is uniform.

    Raises:
        ValueError: for an unknown kernel, a scale that cannot be read, a weight that is not above
            0, and a share that is not in 0 to 1.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    if not isinstance(negative_weight, jax.Array) and not negative_weight > 0:
        raise ValueError(f"negative_weight must be above 0, it is {negative_weight}")
    if not isinstance(shuffled, jax.Array) and not 0 <= shuffled <= 1:
        raise ValueError(f"shuffled must be in 0 to 1, it is {shuffled}")
    width = scale_of(scale, spec.action_dim)
    return Morse(
        net=nets.mlp(hidden, spec.action_dim, activation="relu", initialiser="lecun"),
        kernel=lambda square: KERNELS[kernel](square, width),
        low=spec.action_low,
        high=spec.action_high,
        negative_weight=negative_weight**spec.action_dim,
        shuffled=shuffled,
    )


def energy(morse: Morse, params: Params, observation: Array, action: Array) -> Array:
    """E = -log M(s, a) >= 0: [...]. Gradients reach the action as f's input and as its target."""
    miss = morse.net.apply(params, observation, action) - action
    return -morse.kernel(jnp.sum(jnp.square(miss), -1))


def certainty(morse: Morse, params: Params, observation: Array, action: Array) -> Array:
    """M(s, a) in [0, 1]: [...]."""
    return jnp.exp(-energy(morse, params, observation, action))


def uncertainty(morse: Morse, params: Params, observation: Array, action: Array) -> Array:
    """C = 1 - M(s, a) in [0, 1], exact for small energies: [...]."""
    return -jnp.expm1(-energy(morse, params, observation, action))


# -------------------------------------------------------------------------------- training


class Found(NamedTuple):
    """What one evaluation of the loss saw."""

    energy: Array  # [B], of the data's actions
    negative: Array  # [B, J], certainty of the negatives


def negatives_of(morse: Morse, action: Array, key: Key, count: int) -> tuple[Array, Array]:
    """Draws `count` actions per row to tell the rows' actions from.

    Args:
        morse: the network: its box, and the share of other rows' actions.
        action: [B, A] of the batch. A row may draw its own.
        key: of the draws.
        count: J.

    Returns:
        The negatives [B, J, A], and 1 where they are uniform, 0 where another row's: [B, J].
    """
    uniform_key, row_key, share_key = jax.random.split(key, 3)
    shape = (len(action), count)
    uniform = uniform_in(
        morse.low, morse.high, uniform_key, (*shape, action.shape[1]), action.dtype
    )
    other = jnp.take(action, jax.random.randint(row_key, shape, 0, len(action)), axis=0)
    is_other = jax.random.bernoulli(share_key, morse.shuffled, shape)
    return jnp.where(is_other[..., None], other, uniform), 1 - is_other.astype(action.dtype)


def loss(
    params: Params, *, morse: Morse, batch: Transition, negatives: Array, weight: Array
) -> tuple[Array, Found]:
    """sum_i w_i [-log M(s_i, a_i) + c mean_j M(s_i, u_ij)] / sum_i w_i.

    c is the network's `negative_weight`. Over all functions the optimum is min(1, p / (c u)), with
    the data's density p and the negatives' u: for c = 1 a ratio, for c = 1 / u the density itself.

    Args:
        params: of f.
        morse: the network.
        batch: [B] transitions, of which observation and action are read.
        negatives: [B, J, A], the u_ij.
        weight: [B]; 0 leaves a row out.
    """
    action = jnp.concatenate([batch.action[:, None], negatives], 1)  # one pass for both terms
    energies = energy(morse, params, batch.observation[:, None], action)
    found = Found(energies[:, 0], jnp.exp(-energies[:, 1:]))
    per_row = found.energy + morse.negative_weight * found.negative.mean(1)
    return jnp.sum(weight * per_row) / jnp.maximum(jnp.sum(weight), 1), found


def update(
    part: Trainable,
    batch: Transition,
    key: Key,
    *,
    morse: Morse,
    opt: optax.GradientTransformation,
    negatives: int,
) -> tuple[Trainable, Metrics]:
    """One step on the loss with `negatives` actions per row to tell the data's from.

    Every 20th row of the dataset, by its number, is left out of the loss (its action may be another
    row's negative); `certainty_held_out` is the mean certainty there, and counts only where the
    batch holds such rows. `certainty_uniform` is that of the negatives that are uniform.
    """
    held_out = (batch.index % HELD_OUT == 0).astype(batch.action.dtype)
    drawn, is_uniform = negatives_of(morse, batch.action, key, negatives)

    def objective(params: Params) -> tuple[Array, tuple[Array, Found]]:
        value, found = loss(params, morse=morse, batch=batch, negatives=drawn, weight=1 - held_out)
        return value, (value, found)

    part, (value, found) = learner.gradient_step(part, opt, objective)
    on_data = jnp.exp(-found.energy)
    metrics = learner.measured(morse_loss=value)
    for name, certain, chosen in (
        ("certainty_data", on_data, 1 - held_out),
        ("certainty_held_out", on_data, held_out),
        ("certainty_uniform", found.negative, is_uniform),
    ):
        metrics[name] = jnp.float32(jnp.sum(certain * chosen)), jnp.float32(jnp.sum(chosen))
    return part, metrics


def diagnosis(
    morse: Morse, params: Params, batch: Transition, policy: Array, uniform: Array
) -> Metrics:
    """Mean certainty of the data's, the policy's, uniform and shuffled actions.

    Low on data is a kernel too narrow or a network trained too little; high on uniform actions is
    one that lost its negatives; high on shuffled ones, the data's own at other rows' states, is one
    that knows the actions but not the states; low on the policy's is a policy that left the data.
    """

    def mean(action: Array) -> Array:
        return certainty(morse, params, batch.observation, action)

    return learner.measured(
        certainty_data=mean(batch.action),
        certainty_policy=mean(policy),
        certainty_uniform=mean(uniform),
        certainty_shuffled=mean(jnp.roll(batch.action, len(batch.action) // 2, 0)),
    )
