"""Morse networks: a certainty in [0, 1] that an action belongs to the data.

Source: Dherin et al. 2023 (arXiv 2307.00667), as TD3-BST uses them (Srinivasan and Knottenbelt
2024, arXiv 2404.16399). A network f(s, a) learns to return the action a where (s, a) is in the
data, and the certainty is a kernel of its error.

    M(s, a)  = K(f(s, a), a)          certainty: 1 on the data's modes, towards 0 off them
    E        = -log M                 energy: M is an unnormalised density
    C        = 1 - M                  uncertainty
    L        = mean[ -log M(s, a) ] + mean_j[ M(s, u_j) ]      u_j uniform on the action box

The optimum of L is M*(s, a) = min(1, p(a|s) / u(a)), a density ratio clipped at 1. Everything is
computed from log K, because log(exp(.)) would underflow a few kernel widths from the data.

In many action dimensions no uniform action comes near the data, and a network that knows p(a) but
not p(a|s) has the same loss as one that knows both (docs/methods/td3_bst.md). A share of the u_j
may therefore be the actions of other rows of the batch; u is then the mixture of both. Another
share may lie near the data (supervisor.py).

With `input_noise` f reads the data's actions with noise, a + z, and still has to return a. Its
optimum on the data is then the denoiser E[a | a + z], which differs from a everywhere but at the
modes: for behaviour N(m, s^2) and noise of variance n^2 the energy at a is that of
n^2 / (n^2 + s^2) (m - a). The certainty keeps its slope however long the network trains.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.behavior.held_out import is_held_out
from jaxrl_prefs.behavior.proposals import Proposal
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.ops.shapes import expand_rank, uniform_in
from jaxrl_prefs.types import Array, Box, Key, Metrics, Net, Params, Spec, Transition

Kernel = Callable[[Array, float | Array], Array]  # (squared distance, scale) -> log K

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

    An array, which a sweep passes for one of its members, is returned as it is.

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
# Of a config's field `pretrain_steps`: it is the length of this phase (training/sweep.py).
LENGTH = {"length_of": "morse"}


# ------------------------------------------------------------------------------- the network


class Morse(NamedTuple):
    """A Morse network without its parameters: perturbation form, target a."""

    net: Net  # f: (observation, action) -> [..., A]
    kernel: Callable[[Array], Array]  # squared distance -> log K
    box: Box  # of the uniform actions
    negative_weight: float | Array = 1.0  # of the negatives' term
    shuffled: float | Array = 0.0  # share of the negatives that are other rows' actions
    near: float | Array = 0.0  # share that comes from a given proposal
    input_noise: float | Array = 0.0  # std of the noise on the actions that f reads


def network(
    hidden: tuple[int, ...],
    spec: Spec,
    *,
    kernel: str,
    scale: str | float | Array,
    negative_weight: float | Array = 1.0,
    shuffled: float | Array = 0.0,
    near: float | Array = 0.0,
    input_noise: float | Array = 0.0,
) -> Morse:
    """A ReLU perceptron with a linear output of the action's size, under a kernel.

    Args:
        hidden: widths of the hidden layers.
        spec: of the data.
        kernel: one of KERNELS.
        scale: as `scale_of` reads it.
        negative_weight: of the negatives, for each dimension: their term has its k-th power.
        shuffled: share of the negatives that are other rows' actions; the rest is uniform.
        near: share of all negatives that a proposal gives to `update` (the others as above).
        input_noise: standard deviation of the noise on the data's actions that f reads in training,
            in halves of the box.

    Raises:
        ValueError: for an unknown kernel, a scale that cannot be read, a weight that is not above
            0, a share that is not in 0 to 1, and a negative noise.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    if not isinstance(negative_weight, jax.Array) and not negative_weight > 0:
        raise ValueError(f"negative_weight must be above 0, it is {negative_weight}")
    if not isinstance(shuffled, jax.Array) and not 0 <= shuffled <= 1:
        raise ValueError(f"shuffled must be in 0 to 1, it is {shuffled}")
    if not isinstance(input_noise, jax.Array) and not input_noise >= 0:
        raise ValueError(f"input_noise must not be negative, it is {input_noise}")
    width = scale_of(scale, spec.action_dim)
    return Morse(
        net=nets.mlp(hidden, spec.action_dim, activation="relu", initialiser="lecun"),
        kernel=lambda square: KERNELS[kernel](square, width),
        box=spec.action_box,
        negative_weight=negative_weight**spec.action_dim,
        shuffled=shuffled,
        near=near,
        input_noise=input_noise,
    )


def energy(morse: Morse, params: Params, observation: Array, action: Array) -> Array:
    """E = -log M(s, a) >= 0: [...]. Gradients reach the action as f's input and as its target."""
    return _energy(morse, params, observation, action, action)


def _energy(morse: Morse, params: Params, observation: Array, read: Array, target: Array) -> Array:
    """-log K(f(s, read), target): [...]."""
    miss = morse.net.apply(params, observation, read) - target
    return -morse.kernel(jnp.sum(jnp.square(miss), -1))


def certainty(morse: Morse, params: Params, observation: Array, action: Array) -> Array:
    """M(s, a) in [0, 1]: [...]."""
    return jnp.exp(-energy(morse, params, observation, action))


def uncertainty(morse: Morse, params: Params, observation: Array, action: Array) -> Array:
    """C = 1 - M(s, a) in [0, 1], exact for small energies: [...]."""
    return -jnp.expm1(-energy(morse, params, observation, action))


# -------------------------------------------------------------------------------- training


class LossTerms(NamedTuple):
    """The parts of the loss, for metrics."""

    energy: Array  # [B], of the data's actions
    negative: Array  # [B, J], certainty of the negatives


def sample_negatives(morse: Morse, action: Array, key: Key, count: int) -> tuple[Array, Array]:
    """Samples the negatives: `count` actions for each row.

    Args:
        morse: the network, with its box and the share of other rows' actions.
        action: [B, A], the batch's actions. A negative may be the row's own action.
        key: of the samples.
        count: J.

    Returns:
        The negatives [B, J, A], and 1 where they are uniform, 0 where another row's: [B, J].
    """
    uniform_key, row_key, share_key = jax.random.split(key, 3)
    shape = (len(action), count)
    uniform = uniform_in(morse.box, uniform_key, (*shape, action.shape[1]), action.dtype)
    other = jnp.take(action, jax.random.randint(row_key, shape, 0, len(action)), axis=0)
    is_other = jax.random.bernoulli(share_key, morse.shuffled, shape)
    return jnp.where(is_other[..., None], other, uniform), 1 - is_other.astype(action.dtype)


def _with_near(
    share: float | Array,
    near: Proposal,
    observation: Array,
    negatives: Array,
    is_uniform: Array,
    key: Key,
) -> tuple[Array, Array]:
    """Replaces a share of the negatives [B, J, A] by samples of `near`, and marks them as not
    uniform."""
    sample_key, share_key = jax.random.split(key)
    samples = near.sample(observation, sample_key, negatives.shape[1])
    is_near = jax.random.bernoulli(share_key, share, negatives.shape[:2])
    return jnp.where(is_near[..., None], samples, negatives), jnp.where(is_near, 0, is_uniform)


def loss(
    params: Params,
    *,
    morse: Morse,
    batch: Transition,
    negatives: Array,
    weight: Array,
    noise: Array | None = None,
) -> tuple[Array, LossTerms]:
    """sum_i w_i [-log M(s_i, a_i) + c mean_j M(s_i, u_ij)] / sum_i w_i.

    c is the network's `negative_weight`. Over all functions the optimum is min(1, p / (c u)), with
    the data's density p and the negatives' u: for c = 1 a ratio, for c = 1 / u the density itself.

    Args:
        params: of f.
        morse: the network.
        batch: [B] transitions, of which observation and action are read.
        negatives: [B, J, A], the u_ij.
        weight: [B]; 0 leaves a row out.
        noise: [B, A], added to the data's actions that f reads and not to their targets.
    """
    chex.assert_rank([batch.action, negatives, weight], [2, 3, 1])
    chex.assert_equal_shape_prefix([batch.action, negatives, weight], 1)
    chex.assert_equal(negatives.shape[2], batch.action.shape[1])
    action = jnp.concatenate([batch.action[:, None], negatives], 1)  # one pass for both terms
    read = action if noise is None else action.at[:, 0].add(noise)
    energies = _energy(morse, params, batch.observation[:, None], read, action)
    terms = LossTerms(energies[:, 0], jnp.exp(-energies[:, 1:]))
    per_row = terms.energy + morse.negative_weight * terms.negative.mean(1)
    return jnp.sum(weight * per_row) / jnp.maximum(jnp.sum(weight), 1), terms


def update(
    part: Trainable,
    batch: Transition,
    key: Key,
    *,
    morse: Morse,
    opt: optax.GradientTransformation,
    negatives: int,
    near: Proposal | None = None,
) -> tuple[Trainable, Metrics]:
    """One step on the loss, with `negatives` negative actions per row.

    A share `morse.near` of the negatives comes from the proposal `near`, if there is one.
    Held-out rows (held_out.py) are not in the loss, though their actions may be other rows'
    negatives. Metrics: the loss, and the mean certainty of the trained rows' actions, of the
    held-out rows' actions (count 0 in a batch without such rows) and of the uniform negatives.
    """
    held_out = is_held_out(batch.index).astype(batch.action.dtype)
    near_key, noise_key = (jax.random.fold_in(key, number) for number in (1, 2))
    samples, is_uniform = sample_negatives(morse, batch.action, key, negatives)
    if near is not None:
        samples, is_uniform = _with_near(
            morse.near, near, batch.observation, samples, is_uniform, near_key
        )
    noise = None
    if isinstance(morse.input_noise, jax.Array) or morse.input_noise:
        z = jax.random.normal(noise_key, batch.action.shape, batch.action.dtype)
        noise = morse.input_noise * expand_rank(morse.box.radius, 2).astype(z.dtype) * z

    def objective(params: Params) -> tuple[Array, tuple[Array, LossTerms]]:
        value, terms = loss(
            params, morse=morse, batch=batch, negatives=samples, weight=1 - held_out, noise=noise
        )
        return value, (value, terms)

    part, (value, terms) = learner.gradient_step(part, opt, objective)
    on_data = jnp.exp(-terms.energy)
    metrics = learner.measured(morse_loss=value)
    for name, certainty, counted in (
        ("certainty_data", on_data, 1 - held_out),
        ("certainty_held_out", on_data, held_out),
        ("certainty_uniform", terms.negative, is_uniform),
    ):
        metrics[name] = jnp.float32(jnp.sum(certainty * counted)), jnp.float32(jnp.sum(counted))
    return part, metrics


def diagnosis(
    morse: Morse, params: Params, batch: Transition, policy: Array, uniform: Array
) -> Metrics:
    """Mean certainty of the data's, the policy's, uniform and shuffled actions, [B, A] each.

    Shuffled actions are the data's at other rows' states. What unusual values mean:

    - low on data: the kernel is too narrow, or the network was trained too little;
    - high on uniform actions: the negatives no longer have an effect;
    - high on shuffled actions: the network knows the actions but ignores the states;
    - low on the policy's actions: the policy has left the data.
    """
    chex.assert_equal_shape([batch.action, policy, uniform])

    def mean(action: Array) -> Array:
        return certainty(morse, params, batch.observation, action)

    return learner.measured(
        certainty_data=mean(batch.action),
        certainty_policy=mean(policy),
        certainty_uniform=mean(uniform),
        certainty_shuffled=mean(jnp.roll(batch.action, len(batch.action) // 2, 0)),
    )
