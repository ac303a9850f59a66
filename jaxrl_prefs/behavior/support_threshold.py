"""Where the support of a behaviour ends: the log-density above which ARQ keeps a sampled action.

A fixed log-density does not fit all data: how high log-densities are depends on the number of
action dimensions and on how narrow the behaviour is. For behaviour N(m, s^2) in d dimensions the
log-density of an action is

    log p(a) = -(d / 2) log(2 pi s^2) - chi^2_d / 2

so that a fixed threshold keeps every sample of a narrow behaviour, and none of a broad one in many
dimensions (of a standard normal in six, none is above -5). The q-quantile of the log-densities of
recorded actions keeps 1 - q of them in each case; here it is

    -(d / 2) log(2 pi s^2) - (the 1 - q quantile of chi^2_d) / 2

and the kept actions are those inside a ball around m. The quantile is over all states together:
where behaviour is broader than elsewhere, more is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.types import Array

LEAST, MOST = (
    0.01,
    0.99,
)  # shares of kept samples outside of which the filter has no effect of its own
UNMEASURED = float(np.finfo(np.float32).min)  # the threshold before it is measured: keeps all
LOWEST = -6e4  # stands for log-densities that are not finite, so that quantiles can interpolate


def is_quantile(q: float | Array) -> bool:
    """Whether a quantile sets the threshold: q is above 0, or a sweep varies it.

    Raises:
        ValueError: for a number that is not in 0 to 1, and for 1, which would keep nothing.
    """
    if isinstance(q, jax.Array):
        return True
    if not 0 <= q < 1:
        raise ValueError(f"threshold_quantile must be at least 0 and below 1, not {q}")
    return q > 0


def in_blocks(
    log_density: Callable[[Array, Array], Array], observation: Array, action: Array, size: int
) -> Array:
    """Log-densities [R] of R rows, `size` rows at a time at most.

    Args:
        log_density: (observation [B, O], action [B, A]) -> [B].
        observation: [R, O].
        action: [R, A], in the units of `log_density`.
        size: the number of rows that memory allows, at least 1. Where R is no multiple of the
            number of blocks, the last rows, fewer than there are blocks, are left out.
    """
    rows = len(action)
    blocks = -(-rows // size)
    each = rows // blocks
    parts = (x[: blocks * each].reshape(blocks, each, -1) for x in (observation, action))
    return jax.lax.map(lambda part: log_density(*part), tuple(parts)).reshape(-1)


def quantile(density: Array, q: float | Array) -> Array:
    """The q-quantile of log-densities [R], linear between neighbours: a scalar.

    What is not a number counts as minus infinity, and minus infinity as `LOWEST`.

    >>> float(quantile(jnp.array([3.0, 1.0, -jnp.inf, 2.0, 0.0]), 0.25))
    0.0
    """
    finite = jnp.where(jnp.isnan(density), LOWEST, jnp.maximum(density, LOWEST))
    return jnp.quantile(finite, q)


def warnings(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names a threshold that keeps nothing or everything, from the mean `candidates_kept`.

    >>> warnings({"candidates_kept": 0.5})
    ()
    """
    kept = metrics.get("candidates_kept")
    if kept is None or LEAST <= kept <= MOST:
        return ()
    remedy = "threshold_quantile=0.05 keeps as much as 95% of the recorded actions would be"
    if kept < LEAST:
        return (
            "the density threshold rejects more than 99% of the behaviour's samples, so Q is "
            f"backed up from the recorded next action, as in SARSA. {remedy}; or lower threshold",
        )
    return (
        "the density threshold keeps more than 99% of the behaviour's samples, so it restricts "
        f"nothing: Q is backed up from whatever the score model samples. {remedy}; or raise "
        "threshold",
    )
