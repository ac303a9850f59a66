"""Filtered behaviour cloning: imitate the recorded actions that a critic prefers to the policy's.

An example of a method written outside of the package, from its public parts.

    Q_k  <- r + discount * mean_k Q_k(s', a'),   a' the recorded next action
    pi   -> minimise  mean  w (pi(s) - a)^2,     w = 1 where mean_k Q_k(s, a) > mean_k Q_k(s, pi(s))
                                                 w = other_weight elsewhere

    symbol         name in code           shape
    pi             actor                  policy network [B, A], tanh onto the action box
    Q_k            critic                 [2, B]
    w              weight                 [B]
    other_weight   config.other_weight    scalar; 1 is plain behaviour cloning

The critic judges the behaviour that recorded the data, and the policy takes one step of improvement
on it: actions that are better than its own pull it, others do not.

Phases: `train` only. Source: the binary weights of critic-regularised regression (Wang et al. 2020,
arXiv 2006.15134), here with a deterministic policy and a critic of the behaviour.

From the folder above, on the command line:

    jaxrl-prefs run --algo=examples.own_method --dataset=pendulum-mixed --seeds=3

in Python:

    import jaxrl_prefs as jp
    from examples import own_method

    run = jp.train(own_method, "pendulum-mixed", seeds=3, workdir="runs/filtered")
    run = jp.load_run("runs/filtered", method=own_method)

and in a test:

    from jaxrl_prefs import testing

    testing.check_method(own_method)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics
from jaxrl_prefs.values.actor_losses import squared_distance


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates are those of the library's other small methods."""

    other_weight: float = 0.0  # of actions that the critic does not prefer; 1 is plain cloning
    actor_hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256)
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 256
    train_steps: int = 1_000_000


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


class Parts(NamedTuple):
    """The config, networks and optimisers; no arrays that training changes."""

    config: Config
    policy: deterministic.Deterministic
    critic: Net  # (observation, action) -> [2, ...]
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and their optimisers."""
    return Parts(
        config=config,
        policy=deterministic.relu_policy(config.actor_hidden, spec),
        critic=critics.twin(config.critic_hidden),
        actor_optimizer=learner.optimizer(config.actor_learning_rate),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    return State(
        actor=learner.init(actor, parts.actor_optimizer),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
    )


def actor_loss(
    params: Params, *, critic_params: Params, batch: Transition, parts: Parts
) -> tuple[Array, Metrics]:
    """mean[ w (pi(s) - a)^2 ], squared distances being means over the action's dimensions."""
    action = parts.policy.act(params, batch.observation)
    recorded, own = (
        parts.critic.apply(critic_params, batch.observation, each).mean(0)
        for each in (batch.action, jax.lax.stop_gradient(action))
    )
    weight = jnp.where(recorded > own, 1.0, parts.config.other_weight)
    loss = jnp.mean(weight * squared_distance(action, batch.action))
    return loss, learner.measured(actor_loss=loss, preferred=recorded > own)


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One gradient step of the critics, then one of the policy."""
    del key, step
    target = critics.sarsa_target(parts.critic, state.critic.target, batch)
    error = partial(critics.squared_error, weight=critics.has_sarsa_target(batch))
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, target, error
    )
    loss = partial(actor_loss, critic_params=critic.params, batch=batch, parts=parts)
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return State(actor, learner.polyak(critic, parts.config.tau)), metrics | more


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's action; nothing is drawn."""
    del key
    return parts.policy.act(state.actor.params, observation)


def make(config: Config, spec: Spec) -> Method:
    """Binds the method to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size")
    validation.require_nonnegative(config, "other_weight", "train_steps")
    parts = build(config, spec)
    step = partial(update, parts=parts)
    return Method(
        init=partial(init, parts=parts),
        phases=(Phase("train", config.train_steps, step, config.batch_size),),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
    )
