"""Finding actions of low energy: Langevin chains and derivative-free search.

Both are those of Florence et al. 2022, "Implicit behavioral cloning"; sizes are fractions
of half the action range.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, uniform_in
from jaxrl_prefs.types import Array, Box, Key

EnergyFn = Callable[[Array, Array], Array]  # (observation [..., O], action [..., A]) -> [...]

# Langevin chain
FIRST_STEP, LAST_STEP, POWER = 0.5, 1e-5, 2.0  # step sizes
NOISE = 0.5  # standard deviation of a move's noise, as a multiple of the step size
LONGEST_MOVE = 0.5

# Derivative-free search
SEARCH_NOISE, SHRINK = 0.33, 0.5  # standard deviation of the first perturbation; factor per round


def slopes(energy: EnergyFn, observation: Array, action: Array) -> Array:
    """dE / da at actions [B, K, A] under observations [B, O]: [B, K, A]."""
    context = observation[:, None]
    return jax.grad(lambda a: jnp.sum(energy(context, a)))(action)


def langevin(
    energy: EnergyFn, observation: Array, start: Array, key: Key, *, steps: int, box: Box
) -> Array:
    """Noisy gradient descent on the energy from `start` [B, K, A], inside the box: [B, K, A].

    The step size falls from .5 to 1e-5 by a polynomial of power 2, and no move is longer than half
    the radius of the box. The noise is multiplied by the step size, as in the authors' code. The
    result carries no gradient.
    """
    radius = expand_rank(box.radius, 3)
    share = np.arange(steps) / max(steps - 1, 1)
    sizes = LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 - share) ** POWER

    def move(action: Array, inputs: tuple[Array, Key]) -> tuple[Array, None]:
        size, key = inputs
        noise = NOISE * jax.random.normal(key, action.shape, action.dtype)
        step = size * (noise - 0.5 * radius * slopes(energy, observation, action))
        step = jnp.clip(step, -LONGEST_MOVE, LONGEST_MOVE)
        return clip_to_box(action + radius * step, box), None

    inputs = (jnp.asarray(sizes, start.dtype), jax.random.split(key, steps))
    return jax.lax.stop_gradient(jax.lax.scan(move, start, inputs)[0])


def search(
    energy: EnergyFn, observation: Array, key: Key, *, count: int, rounds: int, box: Box
) -> tuple[Array, Array]:
    """Derivative-free search for actions of low energy.

    Starts from uniform candidates. Each further round resamples the K candidates by the weights
    exp(-E) and adds Gaussian noise, which halves from round to round.

    Returns:
        The last candidates [B, K, A] and their energies [B, K].
    """
    start_key, *keys = jax.random.split(key, rounds)
    radius, context = expand_rank(box.radius, 3), observation[:, None]
    shape = (len(observation), count, len(box.low))
    action = uniform_in(box, start_key, shape, jnp.dtype(jnp.float32))
    for i, round_key in enumerate(keys):
        choice_key, noise_key = jax.random.split(round_key)
        action = resampled(action, -energy(context, action), choice_key)
        noise = SEARCH_NOISE * SHRINK**i * jax.random.normal(noise_key, action.shape, action.dtype)
        action = clip_to_box(action + radius * noise, box)
    return action, energy(context, action)


def resampled(action: Array, logits: Array, key: Key) -> Array:
    """Resamples each row's K actions with replacement, by the weights softmax(logits).

    [B, K, A], [B, K] -> [B, K, A].
    """
    chex.assert_shape(logits, action.shape[:2])

    def row(key: Key, weight: Array) -> Array:
        return jax.random.choice(key, weight.shape[0], weight.shape, p=weight)

    index = jax.vmap(row)(jax.random.split(key, action.shape[0]), jax.nn.softmax(logits))
    return jnp.take_along_axis(action, index[..., None], 1)


def lowest(action: Array, energy: Array) -> Array:
    """The candidate of lowest energy: [B, K, A], [B, K] -> [B, A]."""
    chex.assert_shape(energy, action.shape[:2])
    best = jnp.argmin(energy, -1)
    return jnp.take_along_axis(action, best[:, None, None], 1)[:, 0]
