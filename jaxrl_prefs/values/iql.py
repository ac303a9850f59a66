"""IQL's values: V as an expectile of Q over the data's actions, Q backed up through V.

Kostrikov, Nair and Levine, ICLR 2022, arXiv 2110.06169; equation numbers are the paper's. No policy
is asked anywhere, so whatever policy is trained beside them, Q and V come out the same.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.ops import values
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Transition
from jaxrl_prefs.values import critics


class Iql(NamedTuple):
    """What a step is made with; no arrays."""

    critic: Net  # (observation, action) -> [E, ...]
    value: Net  # observation -> [...]
    critic_optimizer: optax.GradientTransformation
    value_optimizer: optax.GradientTransformation
    expectile: float  # in (0, 1); above 0.5 leans towards the best actions of the data
    tau: float  # rate of the critic's moving average


def init(key: Key, batch: Transition, *, iql: Iql) -> tuple[Trainable, Trainable]:
    """Fresh critic, with its moving average, and value; the batch is read for shapes only."""
    critic_key, value_key = jax.random.split(key)
    critic = iql.critic.init(critic_key, batch.observation, batch.action)
    value = iql.value.init(value_key, batch.observation)
    return (
        learner.init(critic, iql.critic_optimizer, target=True),
        learner.init(value, iql.value_optimizer),
    )


def update_value(
    value: Trainable, critic: Params, batch: Transition, *, iql: Iql
) -> tuple[Trainable, Array, Metrics]:
    """One step of V towards the expectile of min_k Q_k(s, a) by the averaged critic (5).

    Returns also the advantages min_k Q_k(s, a) - V(s) of V before the step, [B].
    """
    q = iql.critic.apply(critic, batch.observation, batch.action).min(0)

    def loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
        advantage = q - iql.value.apply(params, batch.observation)
        error = jnp.mean(values.expectile_error(advantage, iql.expectile))
        return error, (error, advantage)

    value, (error, advantage) = learner.gradient_step(value, iql.value_optimizer, loss)
    return value, advantage, learner.measured(value_loss=error, advantage=advantage)


def update(
    critic: Trainable, value: Trainable, batch: Transition, *, iql: Iql
) -> tuple[Trainable, Trainable, Array, Metrics]:
    """A step of V, then one of Q towards r + discount * V(s') by the new V (6), then the average.

    Returns also the advantages of `update_value`.
    """
    value, advantage, metrics = update_value(value, critic.target, batch, iql=iql)
    after = iql.value.apply(value.params, batch.next_observation)
    target = values.td_target(batch.reward, batch.discount, after)
    critic, more = critics.regress(
        critic,
        iql.critic_optimizer,
        iql.critic,
        (batch.observation, batch.action),
        lambda prediction: critics.squared_error(prediction, target),
    )
    metrics |= more | learner.measured(critic_target=target)
    return learner.polyak(critic, iql.tau), value, advantage, metrics
