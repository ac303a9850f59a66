"""Deterministic policies pi(s), and the losses by which they climb a critic near the data."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_prefs import learner, nets
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import squashed
from jaxrl_prefs.types import Array, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

OVER = {"mean": jnp.mean, "sum": jnp.sum}  # how a squared distance treats the action dimensions


def policy(hidden: tuple[int, ...], spec: Spec, *, initialiser: str = "lecun") -> Net:
    """A ReLU perceptron under a tanh onto the action box: observation [..., O] -> [..., A]."""
    net = nets.mlp(hidden, spec.action_dim, activation="relu", initialiser=initialiser)

    def apply(params: Params, observation: Array) -> Array:
        return squashed(net.apply(params, observation), spec.action_low, spec.action_high)

    return Net(net.init, apply)


def distance(action: Array, other: Array, over: str = "mean") -> Array:
    """Squared distance of two actions, by the mean or the sum over dimensions: [B]."""
    return OVER[over](jnp.square(action - other), -1)


def bc_loss(
    params: Params,
    *,
    policy: Net,
    critic: Net,
    critic_params: Params,
    batch: Transition,
    alpha: float,
) -> tuple[Array, Metrics]:
    """-alpha mean[ Q1(s, pi(s)) ] / mean|Q1| + mean[ (pi(s) - a)^2 ].

    Source: TD3+BC (Fujimoto and Gu 2021), equations 3 to 5, negated. `critic_params` are
    held fixed; so is the divisor.
    """
    action = policy.apply(params, batch.observation)
    q = critics.first(critic, critic_params, batch.observation, action)
    gap = distance(action, batch.action)
    loss = jnp.mean(gap) - alpha * jnp.mean(values.normalised(q))
    return loss, learner.measured(actor_loss=loss, bc_error=gap)


def weighted_loss(
    params: Params,
    *,
    policy: Net,
    critic: Net,
    critic_params: Params,
    batch: Transition,
    temperature: float,
    largest: float,
) -> tuple[Array, Metrics]:
    """mean[ w (pi(s) - a)^2 ] with w = min(exp(temperature A / rms A), largest), held fixed.

    A = mean_k [ Q_k(s, a) - Q_k(s, pi(s)) ]: both values are one critic's at one state, so what
    it gets wrong of the state cancels; this is far more than what actions differ by in most data.
    The root mean square over the batch makes the temperature free of the reward's scale.
    """
    action = policy.apply(params, batch.observation)
    both = jnp.stack([batch.action, jax.lax.stop_gradient(action)])
    q = critic.apply(critic_params, batch.observation[None], both).mean(0)
    advantage = q[0] - q[1]
    scale = jnp.sqrt(jnp.mean(jnp.square(advantage)))
    weight = values.advantage_weight(
        advantage / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny), temperature, largest
    )
    gap = distance(action, batch.action)
    loss = jnp.mean(weight * gap)
    return loss, learner.measured(actor_loss=loss, bc_error=gap, actor_weight=weight)
