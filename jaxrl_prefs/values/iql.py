"""IQL's values: V as an expectile of Q over the data's actions, and Q backed up through V.

Kostrikov, Nair and Levine, ICLR 2022, arXiv 2110.06169; equation numbers are the paper's. No policy
enters, so Q and V do not depend on the policy that is trained beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.ops import values
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics


class Iql(NamedTuple):
    """Networks, optimisers and settings of the training step; no arrays that training changes."""

    critic: Net  # (observation, action) -> [E, ...]
    value: Net  # observation -> [...]
    critic_optimizer: optax.GradientTransformation
    value_optimizer: optax.GradientTransformation
    tau: float  # rate of the critic's target network
    # in (0, 1), above 0.5 leans towards the best actions of the data; not read with a value_error
    expectile: float = 0.5
    # of the advantages Q - V, [B] -> [B], whose mean V minimises; None: the expectile's
    value_error: Callable[[Array], Array] | None = None
    # of predictions and targets, [B] each -> scalar, which every Q minimises
    critic_error: Callable[[Array, Array], Array] = critics.squared_error


def from_config(config: Any, spec: Spec) -> Iql:
    """Makes networks and optimisers from the config fields that all IQL-based methods share."""
    hidden, norm, view = config.critic_hidden, config.critic_layer_norm, spec.view("critic")
    critic = critics.twin(hidden, layer_norm=norm, initialiser="orthogonal")
    return Iql(
        critic=nets.viewed(critic, view),
        value=nets.viewed(nets.scalar_mlp(hidden, activation="relu", layer_norm=norm), view),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        value_optimizer=learner.optimizer(config.critic_learning_rate),
        expectile=config.expectile,
        tau=config.tau,
    )


def init(key: Key, batch: Transition, *, iql: Iql) -> tuple[Trainable, Trainable]:
    """Initial critic, with its target network, and value; the batch is read for shapes only."""
    critic_key, value_key = jax.random.split(key)
    critic = iql.critic.init(critic_key, batch.observation, batch.action)
    value = iql.value.init(value_key, batch.observation)
    return (
        learner.init(critic, iql.critic_optimizer, target=True),
        learner.init(value, iql.value_optimizer),
    )


def update_value(
    value: Trainable, critic_target: Params, batch: Transition, *, iql: Iql
) -> tuple[Trainable, Array, Metrics]:
    """One step of V towards the expectile of min_k Q_k(s, a) of the target critic (5).

    With a `value_error`, one step on its mean instead.

    Also returns the advantages min_k Q_k(s, a) - V(s), with V before the step: [B].
    """
    value_error = iql.value_error or partial(values.expectile_error, expectile=iql.expectile)
    q = iql.critic.apply(critic_target, batch.observation, batch.action).min(0)
    chex.assert_equal_shape([q, batch.reward])

    def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
        v = iql.value.apply(params, batch.observation)
        chex.assert_equal_shape([q, v])
        advantage = q - v
        error = jnp.mean(value_error(advantage))
        return error, (error, advantage)

    value, (error, advantage) = learner.gradient_step(value, iql.value_optimizer, loss)
    return value, advantage, learner.measured(value_loss=error, advantage=advantage)


def update_critic(
    critic: Trainable, value: Params, batch: Transition, *, iql: Iql
) -> tuple[Trainable, Metrics]:
    """One step of Q towards r + discount * V(s') (6); the target network does not move."""
    next_value = iql.value.apply(value, batch.next_observation)
    target = batch.reward + batch.discount * next_value
    critic, metrics = critics.regress(
        critic, iql.critic_optimizer, iql.critic, batch, target, iql.critic_error
    )
    return critic, metrics | learner.measured(critic_target=target)


def encoder_loss(critic: Trainable, value: Trainable, batch: Transition, *, iql: Iql) -> Array:
    """The critics' loss in `update`, by which an encoder of images is trained with them."""
    without = batch._replace(observation=jax.lax.stop_gradient(batch.observation))
    value, _, _ = update_value(value, critic.target, without, iql=iql)
    next_value = iql.value.apply(value.params, batch.next_observation)
    target = jax.lax.stop_gradient(batch.reward + batch.discount * next_value)
    return critics.regression_loss(iql.critic, critic.params, batch, target, iql.critic_error)


def update(
    critic: Trainable, value: Trainable, batch: Transition, *, iql: Iql
) -> tuple[Trainable, Trainable, Array, Metrics]:
    """One step of V, then one of Q towards r + discount * V(s') (6), then of the target network.

    Q's target uses V after its step. Also returns the advantages of `update_value`.
    """
    value, advantage, metrics = update_value(value, critic.target, batch, iql=iql)
    critic, more = update_critic(critic, value.params, batch, iql=iql)
    return learner.polyak(critic, iql.tau), value, advantage, metrics | more
