"""Behavioural supervisor tuning: a policy pulled to the data as hard as it is uncertain."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_prefs import learner, validation
from jaxrl_prefs.behavior.morse import Morse, uncertainty
from jaxrl_prefs.ops import values
from jaxrl_prefs.policies.deterministic import OVER, distance
from jaxrl_prefs.types import Array, Metrics, Net, Params, Transition
from jaxrl_prefs.values import critics

GRADIENTS = ("full", "detached")  # of the weight, with respect to the policy


def tuning_weight(uncertainty: Array, mu: float) -> Array:
    """exp(C / mu) - 1 for an uncertainty C in [0, 1]: from 0 up to exp(1 / mu) - 1.

    >>> [round(float(x), 5) for x in tuning_weight(jnp.array([0.0, 1.0]), 1.0)]
    [0.0, 1.71828]
    """
    return jnp.expm1(uncertainty / mu)


def loss(
    params: Params,
    *,
    policy: Net,
    critic: Net,
    critic_params: Params,
    morse: Morse,
    certain: Params,
    batch: Transition,
    mu: float,
    gradient: str,
    over: str,
) -> tuple[Array, Metrics]:
    """-mean[ Q1(s, pi(s)) ] / mean|Q1| + mean[ (exp(C / mu) - 1) |pi(s) - a|^2 ], C = 1 - M(s, pi).

    Source: TD3-BST (Srinivasan and Knottenbelt 2024), negated. The weight is 0 where the policy's
    own action is certain, and at most exp(1 / mu) - 1.

    Args:
        params: of the policy.
        policy: observation -> action.
        critic: the ensemble whose first member is climbed.
        critic_params: the critic's parameters, held fixed.
        morse: the network of the certainty M.
        certain: its parameters, held fixed; gradients reach the policy through its action.
        batch: [B] transitions.
        mu: temperature of the weight.
        gradient: "full" also descends through the weight, "detached" holds it fixed.
        over: "mean" or "sum" over the action dimensions.
    """
    action = policy.apply(params, batch.observation)
    q = critics.first(critic, critic_params, batch.observation, action)
    seen = action if gradient == "full" else jax.lax.stop_gradient(action)
    weight = tuning_weight(uncertainty(morse, certain, batch.observation, seen), mu)
    gap = distance(action, batch.action, over)
    value = jnp.mean(weight * gap) - jnp.mean(values.normalised(q))
    return value, learner.measured(actor_loss=value, bc_error=gap, bst_weight=weight)


def check(config: Any) -> None:
    """Raises ValueError where the fields that every method with this loss has are out of range."""
    validation.require_choice("weight_gradient", config.weight_gradient, GRADIENTS)
    validation.require_choice("distance", config.distance, OVER)
    validation.require_positive(config, "batch_size", "behavior_batch_size", "negative_samples")
    validation.require_nonnegative(config, "pretrain_steps", "train_steps")
    if not isinstance(config.mu, jax.Array) and not config.mu > 0:
        raise ValueError(f"mu must be above 0, it is {config.mu}")
