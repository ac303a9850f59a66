"""How well estimates rank policies (as in DOPE, Fu et al. 2021), and how certain a choice is."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of their ranks.

    >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    below = (values[:, None] > values[None]).sum(1)
    return below + ((values[:, None] == values[None]).sum(1) - 1) / 2


def spearman(estimates: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's rank correlation, from -1 to 1; NaN where one side does not vary.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([10.0, 20.0, 30.0]))
    1.0
    """
    first, second = ranks(np.asarray(estimates)), ranks(np.asarray(scores))
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size else float("nan")


def regret(estimates: np.ndarray, scores: np.ndarray, k: int = 1) -> float:
    """Regret@k: how far the best score among the k highest estimates is below the best of all.

    A share of the range of the scores: 0 is the best choice, 1 the worst. A random choice of
    one policy has, in expectation, the regret of the mean score.

    >>> regret(np.array([1.0, 5.0, 2.0]), np.array([0.0, 60.0, 100.0]))
    0.4
    """
    estimates, scores = np.asarray(estimates), np.asarray(scores)
    chosen = np.argsort(-estimates, kind="stable")[:k]
    span = scores.max() - scores.min()
    return float((scores.max() - scores[chosen].max()) / span) if span else 0.0


def mean_absolute_error(estimates: np.ndarray, values: np.ndarray) -> float:
    """The mean of |estimate - value|, in their units."""
    return float(np.abs(np.asarray(estimates) - np.asarray(values)).mean())


def draws(groups: list[np.ndarray], count: int = 2_000, seed: int = 0) -> np.ndarray:
    """Values that groups of policies may have, under resamples of episodes and of seeds: [R, G].

    Seeds of a group are resampled with replacement. The uncertainty that all policies share, of
    episodes and of the fit, is a multivariate Student t with the covariance of the members and
    E - 1 degrees of freedom: members with the same number saw the same episodes, so differences
    between groups are as certain as the members agree on them.

    Args:
        groups: of each, the estimates [S, E] of S seeds by E members.
        count: R, the number of resamples.
        seed: of the generator.
    """
    random = np.random.default_rng(seed)
    size = groups[0].shape[1]
    towards = random.standard_normal((count, size)) / np.sqrt(max(size - 1, 1))
    towards *= np.sqrt(max(size - 1, 1) / random.chisquare(max(size - 1, 1), (count, 1)))
    found = []
    for members in groups:
        seeds = len(members)
        taken = random.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
        each = taken @ members  # [R, E]
        middle = each.mean(1, keepdims=True)
        found.append(middle[:, 0] + (towards * (each - middle)).sum(1))
    return np.stack(found, 1)


def interval(drawn: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of one group's draws [R]."""
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return float(low), float(high)


def certainty(drawn: np.ndarray) -> np.ndarray:
    """In which share of the resamples [R, G] each group is the best: [G]."""
    best = drawn.argmax(1)
    return np.bincount(best, minlength=drawn.shape[1]) / len(drawn)
