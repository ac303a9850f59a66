"""One-step RL: the value of the behaviour itself, then a single improvement of the policy on it.

Brandfonbrener, Whitney, Ranganath and Bruna, NeurIPS 2021, arXiv 2106.08909.

    Q_k  <- r + discount * mean_k Q_k(s', a')        a' the data's own next action (SARSA)
    pi   -> gradient:  maximise  alpha Q_1(s, pi(s)) / mean|Q_1|  -  mean (pi(s) - a)^2
            weighted:  minimise  mean  min(exp(T A / rms A), 100) (pi(s) - a)^2
                       with  A = mean_k [ Q_k(s, a) - Q_k(s, pi(s)) ]

    symbol      name in code     shape
    Q_k         critic           [2, B], an estimate of the behaviour's Q
    pi          actor            policy network [B, A], tanh onto the action box
    alpha       config.alpha     scalar
    T           config.temperature    scalar, an inverse temperature

Phases: `critic` -> `train` (critic frozen). Rows whose episode was cut, so that no next action is
known, are left out of the critic's loss; terminals stay in, with their reward as target.

Deviations from the paper, which improves stochastic policies by three operators:
 1. `gradient` is TD3+BC's policy step for a deterministic one, the counterpart of the paper's
    regularisation by reverse KL: one-step and TD3+BC then differ in the critic alone. Networks,
    rates and alpha are TD3+BC's.
 2. `weighted` is its exponentially weighted imitation. The paper takes the behaviour's value off Q,
    by samples of a behaviour model; ours takes off the policy's own Q, and needs no model. Its
    temperature counts advantages in units of their root mean square, so it has no reward's scale.
 3. Two critics, averaged in the target: there is no maximisation to be wary of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
import optax

from jaxrl_prefs import learner, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.types import Array, Key, Metrics, Net, Spec, Transition
from jaxrl_prefs.values import critics

IMPROVEMENTS = ("gradient", "weighted")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and alpha are TD3+BC's; the numbers of steps and the temperature are ours."""

    improvement: str = "gradient"  # or "weighted"
    alpha: float = 2.5  # gradient: weight of the value against imitation; 0 is behaviour cloning
    temperature: float = 0.5  # weighted: inverse, of advantages over their rms; 0 clones too
    max_weight: float = 100.0  # weighted: of an action
    actor_hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256)
    critic_layer_norm: bool = False  # ours, for antmaze, adroit and kitchen
    actor_learning_rate: float = 3e-4
    actor_decays: bool = False  # ours: cosine over train_steps
    critic_learning_rate: float = 3e-4
    tau: float = 0.005  # rate of the critic's moving average
    batch_size: int = 256
    pretrain_steps: int = 1_000_000  # of the critic
    train_steps: int = 500_000  # of the policy, as many as TD3+BC's policy takes


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    critic: Trainable  # twin Q, leaves [2, ...], with its moving average
    actor: Trainable


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    policy: Net  # observation -> action in the box
    critic: Net  # (observation, action) -> [E, ...]
    loss: Callable[..., tuple[Array, Metrics]]  # of the policy, bound to its strength
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    low: np.ndarray  # [A], the action box
    high: np.ndarray  # [A]


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers. Raises ValueError for an unknown improvement."""
    if validation.require_choice("improvement", config.improvement, IMPROVEMENTS) == "gradient":
        loss = partial(deterministic.bc_loss, alpha=config.alpha)
    else:
        loss = partial(
            deterministic.weighted_loss,
            temperature=config.temperature,
            largest=config.max_weight,
        )
    return Parts(
        config=config,
        policy=deterministic.policy(config.actor_hidden, spec),
        critic=critics.twin(config.critic_hidden, layer_norm=config.critic_layer_norm),
        loss=loss,
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate, decay_steps=config.train_steps if config.actor_decays else 0
        ),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        low=spec.action_low,
        high=spec.action_high,
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """A fresh state; the batch is read for shapes only."""
    critic_key, actor_key = jax.random.split(key)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    actor = parts.policy.init(actor_key, batch.observation)
    return State(
        critic=learner.init(critic, parts.critic_optimizer, target=True),
        actor=learner.init(actor, parts.actor_optimizer),
    )


def update_critic(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the critics towards the SARSA target, and of their moving average."""
    del key, step
    target = critics.sarsa_target(parts.critic, state.critic.target, batch)
    known = critics.has_sarsa_target(batch)
    critic, metrics = critics.regress(
        state.critic,
        parts.critic_optimizer,
        parts.critic,
        (batch.observation, batch.action),
        lambda prediction: critics.squared_error(prediction, target, known),
    )
    critic = learner.polyak(critic, parts.config.tau)
    return replace(state, critic=critic), metrics | learner.measured(known=known)


def update_actor(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the policy on the behaviour's value, which stays as it is."""
    del key, step

    loss = partial(
        parts.loss,
        policy=parts.policy,
        critic=parts.critic,
        critic_params=state.critic.params,
        batch=batch,
    )
    actor, metrics = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return replace(state, actor=actor), metrics


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's action; nothing is drawn."""
    del key
    return parts.policy.apply(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the twins' spread, and how far imitation is."""
    uniform = uniform_in(parts.low, parts.high, key, batch.action.shape, batch.action.dtype)
    policy = parts.policy.apply(state.actor.params, batch.observation)
    found = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    return found | learner.measured(bc_error=deterministic.distance(policy, batch.action))


def make(config: Config, spec: Spec) -> Method:
    """Binds one-step RL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size")
    validation.require_nonnegative(config, "alpha", "temperature", "pretrain_steps", "train_steps")
    validation.require_nonnegative(config, "max_weight")
    parts = build(config, spec)

    def phase(name: str, steps: int, update: Callable[..., Any]) -> Phase:
        return Phase(name, steps, partial(update, parts=parts), config.batch_size)

    return Method(
        init=partial(init, parts=parts),
        phases=(
            phase("critic", config.pretrain_steps, update_critic),
            phase("train", config.train_steps, update_actor),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
    )
