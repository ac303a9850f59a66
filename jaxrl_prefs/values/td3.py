"""TD3's training step under any policy loss (Fujimoto et al. 2018, arXiv 1802.09477)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.policies.interface import PolicyWithMode
from jaxrl_prefs.types import Array, Box, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

PolicyLoss = Callable[[Params, Params], tuple[Array, Metrics]]  # (policy, critic) -> loss, metrics


class Td3(NamedTuple):
    """Networks, optimisers and settings of the training step; no arrays that training changes."""

    policy: PolicyWithMode
    critic: Net  # (observation, action) -> [E, ...]
    box: Box  # of the actions
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    tau: float  # rate of both target networks
    noise: float  # std of the smoothing noise, as a fraction of half the action range
    noise_clip: float  # its largest size, in the same unit
    actor_interval: int  # critic steps per policy step


def from_config(config: Any, spec: Spec) -> Td3:
    """Makes networks and optimisers from the config fields that all TD3-based methods share."""
    actor_steps = -(-config.train_steps // config.actor_interval)
    critic = critics.twin(config.critic_hidden, layer_norm=config.critic_layer_norm)
    return Td3(
        policy=deterministic.relu_policy(config.actor_hidden, spec),
        critic=nets.viewed(critic, spec.view("critic")),
        box=spec.action_box,
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate, decay_steps=actor_steps if config.actor_decays else 0
        ),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        tau=config.tau,
        noise=config.noise,
        noise_clip=config.noise_clip,
        actor_interval=config.actor_interval,
    )


def init(key: Key, batch: Transition, *, td3: Td3) -> tuple[Trainable, Trainable]:
    """Initial actor and critic with target networks; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = td3.policy.init(actor_key, batch.observation)
    critic = td3.critic.init(critic_key, batch.observation, batch.action)
    return (
        learner.init(actor, td3.actor_optimizer, target=True),
        learner.init(critic, td3.critic_optimizer, target=True),
    )


def smoothed_action(actor_params: Params, observation: Array, key: Key, *, td3: Td3) -> Array:
    """The policy's action plus clipped normal noise (14), clipped to the action box: [B, A].

    The noise and its bound are fractions of half the action range.
    """
    action = td3.policy.act(actor_params, observation)
    noise = td3.noise * jax.random.normal(key, action.shape, action.dtype)
    noise = jnp.clip(noise, -td3.noise_clip, td3.noise_clip)
    radius = expand_rank(jnp.asarray(td3.box.radius, action.dtype), action.ndim)
    return clip_to_box(action + radius * noise, td3.box)


def critic_target(
    critic_params: Params, actor_params: Params, batch: Transition, key: Key, *, td3: Td3
) -> Array:
    """r + discount * min_k Q_k(s', a') by the target networks (10): [B], without gradient.

    a' is the target actor's `smoothed_action`.
    """
    next_action = smoothed_action(actor_params, batch.next_observation, key, td3=td3)
    chex.assert_equal_shape([next_action, batch.action])
    q = td3.critic.apply(critic_params, batch.next_observation, next_action).min(0)
    chex.assert_equal_shape([q, batch.reward, batch.discount])
    return jax.lax.stop_gradient(batch.reward + batch.discount * q)


def update_critic(
    critic: Trainable, actor: Trainable, batch: Transition, key: Key, *, td3: Td3
) -> tuple[Trainable, Metrics]:
    """One step of the twin critics towards `critic_target`."""
    target = critic_target(critic.target, actor.target, batch, key, td3=td3)
    critic, metrics = critics.regress(critic, td3.critic_optimizer, td3.critic, batch, target)
    return critic, metrics | learner.measured(critic_target=target)


def critic_encoder_loss(
    critic: Trainable, actor: Trainable, batch: Transition, key: Key, *, td3: Td3
) -> Array:
    """The critics' loss, by which an encoder of images is trained with them."""
    target = critic_target(critic.target, actor.target, batch, key, td3=td3)
    return critics.regression_loss(td3.critic, critic.params, batch, target)


def actor_encoder_loss(
    critic: Trainable,
    actor: Trainable,
    batch: Transition,
    key: Key,
    *,
    td3: Td3,
    loss: PolicyLoss,
) -> Array:
    """The policy's loss in `update`, by which an encoder of its own is trained with it."""
    without = batch._replace(observation=jax.lax.stop_gradient(batch.observation))
    critic, _ = update_critic(critic, actor, without, key, td3=td3)
    return loss(actor.params, critic.params)[0]


def update(
    actor: Trainable,
    critic: Trainable,
    batch: Transition,
    key: Key,
    step: Array,
    *,
    td3: Td3,
    loss: PolicyLoss,
    metric_names: tuple[str, ...],
) -> tuple[Trainable, Trainable, Metrics]:
    """One critic step; at every `actor_interval`-th call also a policy step and both targets.

    `loss(policy, critic)` is minimised in the policy's parameters, given the critic's new ones.
    `metric_names` are those of its metrics.
    """
    critic, metrics = update_critic(critic, actor, batch, key, td3=td3)

    def improve(operand: tuple[Trainable, Params, Metrics]) -> tuple[Trainable, Params, Metrics]:
        actor, critic_target, _ = operand
        actor, measured = learner.gradient_step(
            actor, td3.actor_optimizer, lambda params: loss(params, critic.params)
        )
        moved = learner.polyak(replace(critic, target=critic_target), td3.tau)
        return learner.polyak(actor, td3.tau), moved.target, measured

    operand = actor, critic.target, learner.unmeasured(*metric_names)
    actor, moved, more = learner.every(td3.actor_interval, step, improve, operand)
    return actor, replace(critic, target=moved), metrics | more
