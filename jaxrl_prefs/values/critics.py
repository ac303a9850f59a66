"""Critics Q(s, a) of several members: targets, regression, and what a diagnosis asks them.

An ensemble's values are [E, B]; a target is [B], one for all members, and never differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Transition


def twin(hidden: tuple[int, ...], *, layer_norm: bool = False, initialiser: str = "lecun") -> Net:
    """Two independent critics with ReLU: (observation, action) -> [2, ...]."""
    member = nets.scalar_mlp(
        hidden, activation="relu", layer_norm=layer_norm, initialiser=initialiser
    )
    return nets.ensemble(member, 2)


def first(critic: Net, params: Params, observation: Array, action: Array) -> Array:
    """The first member's Q(s, a) alone, [B]: what TD3's policy climbs."""
    return critic.apply(jax.tree.map(lambda leaf: leaf[:1], params), observation, action)[0]


# --------------------------------------------------------------------------------- targets


def smoothed(
    action: Array, key: Key, low: np.ndarray, high: np.ndarray, *, noise: float, clip: float
) -> Array:
    """Target policy smoothing: clipped normal noise on an action, which stays in the box: [B, A].

    `noise` (a standard deviation) and `clip` are in halves of the action box [low, high], so in the
    action's own units where the box is [-1, 1]. Source: TD3 (Fujimoto et al. 2018), equation 14.
    """
    z = jnp.clip(noise * jax.random.normal(key, action.shape, action.dtype), -clip, clip)
    radius = jnp.asarray((high - low) / 2, action.dtype)
    return clip_to_box(action + expand_rank(radius, action.ndim) * z, low, high)


def clipped_target(critic: Net, params: Params, batch: Transition, next_action: Array) -> Array:
    """r + discount * min_k Q_k(s', a'): [B]. Source: TD3, equation 10."""
    q = critic.apply(params, batch.next_observation, next_action)
    return jax.lax.stop_gradient(values.td_target(batch.reward, batch.discount, q.min(0)))


def sarsa_target(critic: Net, params: Params, batch: Transition) -> Array:
    """r + discount * mean_k Q_k(s', a') with the data's own next action: [B].

    Only rows that `has_sarsa_target` are known; the others hold what the action 0 would give.
    """
    q = critic.apply(params, batch.next_observation, batch.next_action)
    return jax.lax.stop_gradient(values.td_target(batch.reward, batch.discount, q.mean(0)))


def has_sarsa_target(batch: Transition) -> Array:
    """1 where the episode goes on to a recorded action or ends for good, 0 where it was cut: [B].

    A terminal's target is its reward, so it counts although it has no next action.
    """
    return jnp.where(batch.discount > 0, batch.has_next_action, 1)


# ------------------------------------------------------------------------------ regression


def squared_error(prediction: Array, target: Array, weight: Array | None = None) -> Array:
    """Mean over the batch of weight * (prediction - target)^2, all [B]; weight 1 if not given.

    Weights are divided by their sum, so rows of weight 0 do not dilute the others.
    """
    error = jnp.square(prediction - target)
    if weight is None:
        return jnp.mean(error)
    return jnp.sum(weight * error) / jnp.maximum(jnp.sum(weight), 1)


def regress(
    part: Trainable,
    opt: optax.GradientTransformation,
    critic: Net,
    inputs: tuple[Array, ...],
    error: Callable[[Array], Array],
) -> tuple[Trainable, Metrics]:
    """One gradient step of every member on `error(prediction [B]) -> scalar`, summed over members.

    As `regress_each`, with one error for all members.
    """
    return regress_each(part, opt, critic, inputs, lambda prediction, own: error(prediction), ())


def regress_each(
    part: Trainable,
    opt: optax.GradientTransformation,
    critic: Net,
    inputs: tuple[Array, ...],
    error: Callable[[Array, Any], Array],
    own: Any,
) -> tuple[Trainable, Metrics]:
    """One gradient step of every member on `error(prediction [B], own of the member) -> scalar`.

    `own` is a tree of [E, ...], such as a target for each member. Members are differentiated one by
    one: no member's activations outlive its own gradient. Measures `critic_loss`, the mean over
    members, and `q`, the mean prediction. The moving average stays where it is (`learner.polyak`
    moves it).
    """

    def member(held: tuple[Params, Any]) -> tuple[Params, tuple[Array, Array]]:
        def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
            prediction = critic.apply(jax.tree.map(lambda leaf: leaf[None], params), *inputs)[0]
            value = error(prediction, held[1])
            return value, (value, jnp.mean(prediction))

        return jax.grad(loss, has_aux=True)(held[0])

    grads, (value, prediction) = nets.over_members(member, (part.params, own))
    metrics = learner.measured(critic_loss=value, q=prediction)
    return learner.apply_gradients(part, opt, grads), metrics


# --------------------------------------------------------------------------------- diagnosis


def q_diagnostics(
    critic: Net, params: Params, batch: Transition, policy: Array, uniform: Array
) -> Metrics:
    """Mean Q on the data's, the policy's and uniform actions, and the spread of the members.

    Q on uniform actions far above Q on data is an exploding critic.
    """

    def q(action: Array) -> Array:
        return critic.apply(params, batch.observation, action)

    on_policy = q(policy)
    return learner.measured(
        q_data=q(batch.action),
        q_policy=on_policy,
        q_uniform=q(uniform),
        q_spread=on_policy.std(0),
    )
