"""Log-density of a score model by the instantaneous change of variables.

    log p(y) = log N(y(1); 0, I) + integral over the path of div f,      dy = f

along the probability-flow ODE from `START` to 1 (Song et al. 2021, equations 39 and 40; ARQ,
appendix A.2). For data N(0, I) nothing moves, and the density is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.ops import vpsde
from jaxrl_prefs.ops.samplers import integrated
from jaxrl_prefs.ops.vpsde import Score
from jaxrl_prefs.types import Array, Key

START = 1e-5
NODES = 32  # of the fixed-step solver
BASHFORTH = np.array([[1, 0, 0], [3 / 2, -1 / 2, 0], [23 / 12, -16 / 12, 5 / 12]])
GREGORY = np.array([3 / 8, 7 / 6, 23 / 24])  # weights of the first and the last three of the nodes

# (score, y [..., A], t) -> the score [..., A], and the trace of its Jacobian in y [...]
Divergence = Callable[[Score, Array, Array], tuple[Array, Array]]


def exact(score: Score, y: Array, t: Array) -> tuple[Array, Array]:
    """The trace by A Jacobian-vector products. Rows of y must not influence each other."""
    value, product = jax.linearize(lambda y: score(y, t), y)

    def entry(axis: Array) -> Array:
        direction = jax.nn.one_hot(axis, y.shape[-1], dtype=y.dtype)
        return product(jnp.broadcast_to(direction, y.shape))[..., axis]

    return value, jnp.sum(jax.vmap(entry)(jnp.arange(y.shape[-1])), 0)


def hutchinson(key: Key, action_dim: int, probes: int = 10) -> Divergence:
    """The trace as a mean over random signs, the same for all items (ARQ's code).

    Exact where the Jacobian is diagonal, else unbiased over keys.
    """
    signs = jax.random.rademacher(key, (probes, action_dim), jnp.float32)

    def divergence(score: Score, y: Array, t: Array) -> tuple[Array, Array]:
        value, product = jax.linearize(lambda y: score(y, t), y)

        def probe(sign: Array) -> Array:
            direction = jnp.broadcast_to(sign.astype(y.dtype), y.shape)
            return jnp.sum(product(direction) * direction, -1)

        return value, jnp.mean(jax.vmap(probe)(signs), 0)

    return divergence


def precisely(score: Score) -> Score:
    """The score with all its products in float32, whatever precision is in force."""

    def evaluated(y: Array, t: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            return score(y, t)

    return evaluated


def log_density(
    score: Score,
    y: Array,
    *,
    divergence: Divergence = exact,
    nodes: int = NODES,
    start: float = START,
) -> Array:
    """The log-density of y [..., A] at time `start`, by `nodes` evaluations at fixed times: [...].

    Ours. The path by Adams and Bashforth's third-order method, its divergence by Gregory's rule.
    Errors for exact mixtures: tests/ops/test_likelihood.py. Raises ValueError below 6 nodes.
    """
    if nodes < 6:
        raise ValueError(f"the log-density needs 6 nodes or more, not {nodes}")
    times, steps = vpsde.nodes(start, 1.0, nodes)
    memory = jnp.asarray(BASHFORTH[np.minimum(np.arange(nodes), 2)], y.dtype)
    score, weights = precisely(score), np.ones(nodes)
    weights[:3], weights[-3:] = GREGORY, GREGORY[::-1]

    def step(carry: tuple, n: Array) -> tuple[tuple, None]:
        y, one, two, total = carry
        value, trace = divergence(score, y, times[n])
        rate = -jnp.square(vpsde.std(times[n])) * steps[n]  # of log(std / m), as in ratio_flow
        change, growth = rate * (y + value), rate * (y.shape[-1] + trace)
        a, b, c = memory[n]
        total = total + jnp.asarray(weights, y.dtype)[n] * growth
        end = y + a * change + b * one + c * two
        return (jnp.where(n < nodes - 1, end, y), change, one, total), None

    still, nothing = jnp.zeros_like(y), jnp.zeros(y.shape[:-1], y.dtype)
    (end, _, _, total), _ = jax.lax.scan(step, (y, still, still, nothing), jnp.arange(nodes))
    return standard_normal(end) + total


def adaptive_log_density(
    score: Score,
    y: Array,
    *,
    divergence: Divergence = exact,
    tolerance: float = 1e-5,
    start: float = START,
) -> Array:
    """The log-density of y [..., A] at `start` by adaptive steps: [...] (Dormand, Prince; diffrax).

    All of y is one system, as in the published code; map the function over items [A] for a
    tolerance of each item's own. Minus infinity where the solver gives up, so that every
    threshold rejects the item.
    """

    def field(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        value, trace = divergence(score, state[0], t)
        rate = -0.5 * vpsde.beta(t)
        return rate * (state[0] + value), rate * (y.shape[-1] + trace)

    score = precisely(score)
    begin = (y, jnp.zeros(y.shape[:-1], y.dtype))
    end, total = integrated(field, begin, start, 1.0, tolerance)
    found = standard_normal(end) + total
    return jnp.where(jnp.isnan(found), -jnp.inf, found)


def standard_normal(y: Array) -> Array:
    """log N(y; 0, I), summed over the last axis."""
    return -0.5 * jnp.sum(jnp.square(y) + math.log(2 * math.pi), -1)
