"""Importance sampling: recorded returns, weighted by likelihood ratios of policy and behaviour.

With ratios rho_t = pi(a_t | s_t) / mu(a_t | s_t) of a policy and the behaviour, products of them
up to step t, and weights w_it = product_it / sum_j b_j product_jt over the episodes:

    WIS  =  sum_t gamma^t sum_i b_i w_it r_it
    WDR  =  sum_i b_i V(s_i0)
            + sum_t gamma^t sum_i b_i w_it (r_it + gamma V(s_it+1) - Q(s_it, a_it))

b_i are the weights of a bootstrap over episodes, with sum 1. WIS is per-decision weighted
importance sampling (Precup, Sutton and Singh 2000); WDR is its doubly robust form (Thomas and
Brunskill 2016), which is WIS where Q = V = 0. An episode that ends keeps its weight, without
further rewards. Of an episode that was cut, WIS counts what was recorded; WDR adds the model's V.

Both need densities: a policy that draws from one, and one of the behaviour. In long episodes the
weights gather on a few episodes, which `Weighted.effective` shows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST_LOG_WEIGHT = -50.0  # relative to the largest weight of the step; avoids underflow


class Steps(NamedTuple):
    """Recorded steps as [M, T] arrays of episodes, padded with zeros."""

    log_ratio: np.ndarray  # log pi(a|s) - log mu(a|s)
    reward: np.ndarray
    q: np.ndarray  # Q(s, a); zeros for WIS
    after: np.ndarray  # gamma * (1 - terminal) * V(s'); zeros for WIS
    live: np.ndarray  # bool, whether the step was recorded


class Weighted(NamedTuple):
    """Estimates under R resamples of the episodes."""

    members: np.ndarray  # [R]
    effective: float  # effective episodes, by the weights of the last step, from 1 to M


def padded(values: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Rows [N] as [M, T], zeros behind the end of each episode.

    >>> padded(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])).tolist()
    [[1.0, 2.0], [3.0, 0.0]]
    """
    lengths = np.bincount(episode)
    place = np.arange(len(episode)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = np.zeros((len(lengths), lengths.max()), values.dtype)
    found[episode, place] = values
    return found


def weighted(steps: Steps, start: np.ndarray, gamma: float, counts: np.ndarray) -> Weighted:
    """WIS, or with values of a model WDR, of one policy.

    Args:
        steps: of M episodes.
        start: [M], V of the initial states; zeros for WIS.
        gamma: discount per step.
        counts: [R, M], how often each resample counts each episode.
    """
    log_product = np.cumsum(np.where(steps.live, steps.log_ratio, 0.0), 1)  # [M, T]
    log_product -= log_product.max(0)  # the weights of a step are compared with each other only
    product = np.exp(np.maximum(log_product, SMALLEST_LOG_WEIGHT))
    share = counts / counts.sum(1, keepdims=True)
    gain = np.where(steps.live, steps.reward + steps.after - steps.q, 0.0)
    discounts = gamma ** np.arange(gain.shape[1])
    total = share @ product  # [R, T]
    corrected = ((share @ (product * gain)) / total * discounts).sum(1)
    last = product[:, -1]
    return Weighted(share @ start + corrected, float(last.sum() ** 2 / np.square(last).sum()))
