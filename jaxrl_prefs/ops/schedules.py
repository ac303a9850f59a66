"""Noise schedules of discrete diffusion, tabulated for direct indexing by the step n = 0..T.

Entry 0 stands for clean data (beta 0, alpha-bar 1), so no formula needs an off-by-one shift.
Tables are float64 numpy constants; the ops that read them cast to the dtype of their input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Schedule(NamedTuple):
    """Variances of x_n = sqrt(alpha_n) x_{n-1} + sqrt(beta_n) z, all [T + 1]."""

    beta: np.ndarray  # variance added at step n
    alpha: np.ndarray  # 1 - beta
    alpha_bar: np.ndarray  # product of alpha up to n: the share of the data's variance left

    @property
    def steps(self) -> int:
        """The number of diffusion steps T."""
        return len(self.beta) - 1


def from_betas(beta: np.ndarray) -> Schedule:
    """Tabulates a schedule from beta_1..beta_T.

    Raises:
        ValueError: a beta is not inside (0, 1).

    >>> from_betas(np.array([0.5, 0.5])).alpha_bar
    array([1.  , 0.5 , 0.25])
    """
    if not np.all((beta > 0) & (beta < 1)):
        raise ValueError(f"every beta must lie inside (0, 1), got {beta}")
    beta = np.concatenate([[0.0], beta])
    return Schedule(beta=beta, alpha=1 - beta, alpha_bar=np.cumprod(1 - beta))


def vp(steps: int, *, beta_min: float = 0.1, beta_max: float = 10.0) -> Schedule:
    """The variance-preserving SDE with linear beta(t) on [0, 1], cut into `steps` exact pieces.

    alpha_n = exp(-beta_min / T - (beta_max - beta_min) (2n - 1) / (2 T^2)), so that alpha-bar_T is
    exp(-(beta_min + beta_max) / 2) whatever T. Source: Xiao et al. 2022; BDPO, table 3.
    """
    n = np.arange(1, steps + 1)
    return from_betas(
        -np.expm1(-beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * n - 1) / steps**2)
    )


def linear(steps: int, *, first: float = 1e-4, last: float = 2e-2) -> Schedule:
    """Betas on a straight line from `first` to `last`. Source: Ho et al. 2020, section 4."""
    return from_betas(np.linspace(first, last, steps))


def cosine(steps: int, *, offset: float = 0.008, largest: float = 0.999) -> Schedule:
    """Alpha-bar follows a squared cosine; betas stop at `largest`. Source: Nichol et al. 2021."""
    n = np.arange(steps + 1)
    level = np.cos((n / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - level[1:] / level[:-1], largest))


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"vp": vp, "linear": linear, "cosine": cosine}
