"""Losses by which a policy improves on a critic while it stays near the data.

A deterministic policy enters as a function `(params, observation [B, O]) -> action [B, A]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from jaxrl_prefs import learner, validation
from jaxrl_prefs.behavior.morse import Morse, uncertainty
from jaxrl_prefs.ops import values
from jaxrl_prefs.policies.interface import PolicyWithDensity
from jaxrl_prefs.types import Array, Metrics, Net, Params, Transition
from jaxrl_prefs.values import critics

ActFn = Callable[[Params, Array], Array]
Gradient = Literal["full", "detached"]  # whether the weight of TD3-BST is differentiated
Reduction = Literal["mean", "sum"]  # of a squared distance, over the action dimensions
Distance = Literal[Reduction, "standardised"]  # of TD3-BST; the last is the mean in units of a std


def td3_bc_loss(
    params: Params,
    *,
    policy: ActFn,
    critic: Net,
    critic_params: Params,
    batch: Transition,
    alpha: float,
) -> tuple[Array, Metrics]:
    """-alpha mean[ Q1(s, pi(s)) ] / mean|Q1| + mean[ (pi(s) - a)^2 ].

    Source: TD3+BC (Fujimoto and Gu 2021), equations 3 to 5, negated. No gradient reaches
    `critic_params` or the divisor.
    """
    action = policy(params, batch.observation)
    q = critics.first_q(critic, critic_params, batch.observation, action)
    _check_shapes(batch, action, q)
    bc_error = squared_distance(action, batch.action)
    loss = jnp.mean(bc_error) - alpha * jnp.mean(values.normalised(q))
    return loss, learner.measured(actor_loss=loss, bc_error=bc_error)


def weighted_bc_loss(
    params: Params,
    *,
    policy: ActFn,
    critic: Net,
    critic_params: Params,
    batch: Transition,
    temperature: float,
    largest: float,
) -> tuple[Array, Metrics]:
    """mean[ w (pi(s) - a)^2 ] with w = min(exp(temperature A / rms A), largest).

    A = mean_k [ Q_k(s, a) - Q_k(s, pi(s)) ]. Both values are one critic's at one state, so its
    errors that depend only on the state cancel; in most data those are far larger than the
    differences between actions. Dividing by the root mean square over the batch makes the
    temperature independent of the reward's scale. No gradient reaches w.
    """
    action = policy(params, batch.observation)
    chex.assert_equal_shape([action, batch.action])
    both = jnp.stack([batch.action, jax.lax.stop_gradient(action)])
    q = critic.apply(critic_params, batch.observation[None], both).mean(0)
    advantage = q[0] - q[1]
    _check_shapes(batch, action, advantage)
    scale = jnp.sqrt(jnp.mean(jnp.square(advantage)))
    weight = values.advantage_weight(
        advantage / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny), temperature, largest
    )
    bc_error = squared_distance(action, batch.action)
    loss = jnp.mean(weight * bc_error)
    return loss, learner.measured(actor_loss=loss, bc_error=bc_error, actor_weight=weight)


def weighted_likelihood_loss(
    params: Params, *, policy: PolicyWithDensity, batch: Transition, weight: Array
) -> tuple[Array, Metrics]:
    """-mean[ w log pi(a|s) ] over the data's actions, with given weights [B].

    No gradient reaches the weights unless they depend on `params`.
    """
    log_density = policy.log_density(params, batch.observation, batch.action)
    chex.assert_rank(batch.action, 2)
    chex.assert_shape([weight, log_density], batch.action.shape[:1])
    loss = -jnp.mean(weight * log_density)
    return loss, learner.measured(actor_loss=loss, actor_weight=weight)


def td3_bst_loss(
    params: Params,
    *,
    policy: ActFn,
    critic: Net,
    critic_params: Params,
    morse: Morse,
    morse_params: Params,
    batch: Transition,
    mu: float,
    gradient: Gradient,
    distance: Distance,
    std: Array | None = None,
    floor: float | Array = 0.0,
) -> tuple[Array, Metrics]:
    """-mean[ Q1(s, pi(s)) ] / mean|Q1| + mean[ (exp(C / mu) - 1) |pi(s) - a|^2 ], C = 1 - M(s, pi).

    Source: TD3-BST (Srinivasan and Knottenbelt 2024), negated. The weight is 0 where the policy's
    own action is certain, and at most exp(1 / mu) - 1. A floor of at least that much, 1 / alpha,
    gives TD3+BC's gradient divided by alpha.

    Args:
        params: of the policy.
        policy: (params, observation) -> action.
        critic: an ensemble, whose first member the policy maximises.
        critic_params: of the critic; no gradient reaches them.
        morse: the Morse network, whose output is the certainty M.
        morse_params: its parameters. Gradients reach the policy through its action.
        batch: [B] transitions.
        mu: temperature of the weight.
        gradient: "full" also differentiates the weight, "detached" does not.
        distance: "mean" or "sum" over the action dimensions, or "standardised": the mean in units
            of `std`. The metric `bc_error` is this distance.
        std: [B, A] standard deviations of the behaviour, if the distance is "standardised"; no
            gradient reaches the policy through them.
        floor: least value of the weight.
    """
    action = policy(params, batch.observation)
    q = critics.first_q(critic, critic_params, batch.observation, action)
    _check_shapes(batch, action, q)
    weighed = action if gradient == "full" else jax.lax.stop_gradient(action)
    weight = tuning_weight(uncertainty(morse, morse_params, batch.observation, weighed), mu)
    if isinstance(floor, jax.Array) or floor:
        weight = jnp.maximum(weight, floor)
    bc_error = _bst_distance(action, batch.action, distance, std)
    loss = jnp.mean(weight * bc_error) - jnp.mean(values.normalised(q))
    return loss, learner.measured(actor_loss=loss, bc_error=bc_error, bst_weight=weight)


def squared_distance(action: Array, other: Array, over: Reduction = "mean") -> Array:
    """|action - other|^2 as the mean or the sum over dimensions: [B, A] -> [B]."""
    reduce = jnp.mean if over == "mean" else jnp.sum
    return reduce(jnp.square(action - other), -1)


def _bst_distance(action: Array, other: Array, distance: Distance, std: Array | None) -> Array:
    if distance != "standardised":
        return squared_distance(action, other, distance)
    if std is None:
        raise ValueError(
            "distance=standardised needs std, the standard deviations of the behaviour"
        )
    chex.assert_equal_shape([action, std])
    return jnp.mean(jnp.square((action - other) / std), -1)


def tuning_weight(uncertainty: Array, mu: float) -> Array:
    """exp(C / mu) - 1 for an uncertainty C in [0, 1]: from 0 up to exp(1 / mu) - 1.

    >>> [round(float(x), 5) for x in tuning_weight(jnp.array([0.0, 1.0]), 1.0)]
    [0.0, 1.71828]
    """
    return jnp.expm1(uncertainty / mu)


def check_td3_bst_fields(config: Any) -> None:
    """Raises ValueError if a field that the methods with `td3_bst_loss` share is out of range."""
    validation.require_positive(config, "mu", "batch_size", "behavior_batch_size")
    validation.require_positive(config, "negative_samples", "near_width")
    validation.require_nonnegative(config, "input_noise", "behavior_weight_decay", "clone_steps")
    validation.require_nonnegative(config, "pretrain_steps", "train_steps", "weight_floor")


def _check_shapes(batch: Transition, action: Array, q: Array) -> None:
    chex.assert_rank(batch.action, 2)
    chex.assert_equal_shape([action, batch.action])
    chex.assert_shape(q, batch.action.shape[:1])
