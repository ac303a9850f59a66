"""Contrastive estimation: tell a data point from n samples of a known proposal q.

With logits f(x) - log q(x) for the data point and the samples, the optimal f is log p(x) + const
for every n: energies E = -f are then calibrated, and their differences are differences of
log-density (van den Oord et al. 2018, "Representation learning with contrastive predictive coding",
section 2.3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array


def infonce(logits: Array) -> Array:
    """-log softmax(logits)[0]: [..., 1 + n] -> [...]; entry 0 is the data point's.

    Logits that are all equal give log(1 + n).

    >>> round(float(infonce(jnp.zeros(2))), 6)
    0.693147
    """
    return -jax.nn.log_softmax(logits)[..., 0]


def rank_accuracy(logits: Array) -> Array:
    """The share of the samples that the data point beats: [..., 1 + n] -> [...]; a tie counts half.

    Its mean does not depend on n, so models trained with different n can be compared.

    >>> float(rank_accuracy(jnp.array([1.0, 0.0, 1.0, 2.0])))
    0.5
    """
    data, samples = logits[..., :1], logits[..., 1:]
    return jnp.mean((data > samples) + 0.5 * (data == samples), -1)


def slope_penalty(slope: Array, limit: float = 1.0) -> Array:
    """max(0, |slope|_inf - limit)^2: [..., A] -> [...].

    Source: the gradient penalty of Florence et al. 2022, "Implicit behavioral cloning".

    >>> float(slope_penalty(jnp.array([0.5, -3.0])))
    4.0
    """
    return jnp.square(jnp.maximum(jnp.max(jnp.abs(slope), -1) - limit, 0))
