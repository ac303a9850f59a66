"""TD3's training step under any policy loss (Fujimoto et al. 2018, arXiv 1802.09477)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

PolicyLoss = Callable[[Params, Params], tuple[Array, Metrics]]  # (policy, critic) -> loss, metrics


class Td3(NamedTuple):
    """What a step is made with; no arrays."""

    policy: Net  # observation -> action in the box
    critic: Net  # (observation, action) -> [E, ...]
    low: np.ndarray  # [A], the action box
    high: np.ndarray  # [A]
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    tau: float  # rate of both moving averages
    noise: float  # of the target's next action: deviation, in halves of the action box
    noise_clip: float  # its largest size
    actor_interval: int  # critic steps per policy step


def of(config: Any, spec: Spec) -> Td3:
    """Makes networks and optimisers from the fields that every method on TD3 has, so named."""
    steps = -(-config.train_steps // config.actor_interval)  # of the actor
    return Td3(
        policy=deterministic.policy(config.actor_hidden, spec),
        critic=critics.twin(config.critic_hidden, layer_norm=config.critic_layer_norm),
        low=spec.action_low,
        high=spec.action_high,
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate, decay_steps=steps if config.actor_decays else 0
        ),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        tau=config.tau,
        noise=config.noise,
        noise_clip=config.noise_clip,
        actor_interval=config.actor_interval,
    )


def init(key: Key, batch: Transition, *, td3: Td3) -> tuple[Trainable, Trainable]:
    """Fresh actor and critic with their moving averages; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = td3.policy.init(actor_key, batch.observation)
    critic = td3.critic.init(critic_key, batch.observation, batch.action)
    return (
        learner.init(actor, td3.actor_optimizer, target=True),
        learner.init(critic, td3.critic_optimizer, target=True),
    )


def update_critic(
    critic: Trainable, actor: Params, batch: Transition, key: Key, *, td3: Td3
) -> tuple[Trainable, Metrics]:
    """One step of the twin critics towards the averaged actor's smoothed next action."""
    next_action = critics.smoothed(
        td3.policy.apply(actor, batch.next_observation),
        key,
        td3.low,
        td3.high,
        noise=td3.noise,
        clip=td3.noise_clip,
    )
    target = critics.clipped_target(td3.critic, critic.target, batch, next_action)
    critic, metrics = critics.regress(
        critic,
        td3.critic_optimizer,
        td3.critic,
        (batch.observation, batch.action),
        lambda prediction: critics.squared_error(prediction, target),
    )
    return critic, metrics | learner.measured(critic_target=target)


def update(
    actor: Trainable,
    critic: Trainable,
    batch: Transition,
    key: Key,
    step: Array,
    *,
    td3: Td3,
    loss: PolicyLoss,
    measures: tuple[str, ...],
) -> tuple[Trainable, Trainable, Metrics]:
    """A critic step; at every `actor_interval`-th also a policy step and both moving averages.

    `loss(policy, critic)` is minimised in the policy's parameters, given the critic's new ones;
    `measures` are the names of its metrics.
    """
    critic, metrics = update_critic(critic, actor.target, batch, key, td3=td3)

    def improve(operand: tuple[Trainable, Params, Metrics]) -> tuple[Trainable, Params, Metrics]:
        actor, average, _ = operand
        actor, measured = learner.gradient_step(
            actor, td3.actor_optimizer, lambda params: loss(params, critic.params)
        )
        moved = learner.polyak(replace(critic, target=average), td3.tau)
        return learner.polyak(actor, td3.tau), moved.target, measured

    operand = actor, critic.target, learner.unmeasured(*measures)
    actor, average, more = learner.every(td3.actor_interval, step, improve, operand)
    return actor, replace(critic, target=average), metrics | more
