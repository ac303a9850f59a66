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

Phases: `critic` -> `train` (critic frozen). Rows whose episode was cut, so that the next action is
not known, are left out of the critic's loss. Terminals stay in, with their reward as target.

Deviations from the paper, which improves stochastic policies by three operators:
 1. `gradient` is TD3+BC's policy step for a deterministic policy, the counterpart of the paper's
    regularisation by reverse KL. One-step RL and TD3+BC then differ only in the critic. Networks,
    rates and alpha are TD3+BC's.
 2. `weighted` is the paper's exponentially weighted imitation. The paper subtracts the behaviour's
    value from Q, by samples of a behaviour model. Ours subtracts the policy's own Q and needs no
    model. Its temperature is relative to the advantages' root mean square, so it does not depend on
    the reward's scale.
 3. Two critics, whose mean is the target: without a maximisation there is no overestimation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import optax

from jaxrl_prefs import learner, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.types import Array, Box, Key, Metrics, Net, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and alpha are TD3+BC's; the numbers of steps and the temperature are ours."""

    improvement: Literal["gradient", "weighted"] = "gradient"  # operator of the policy
    alpha: float = 2.5  # gradient: weight of the value against imitation; 0 is behaviour cloning
    # weighted: inverse temperature, per root mean square of the advantages; 0 is behaviour cloning
    temperature: float = 0.5
    max_weight: float = 100.0  # weighted: largest weight of an action
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = False  # layer normalisation in the critics (ours)
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    actor_decays: bool = False  # cosine decay of the actor's rate to 0 over train_steps (ours)
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    tau: float = 0.005  # rate of the critic's target network
    batch_size: int = 256  # rows per update
    pretrain_steps: int = 1_000_000  # updates of the critics
    train_steps: int = 500_000  # updates of the policy, as many as TD3+BC's policy takes


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    critic: Trainable  # twin Q, leaves [2, ...], with its target network
    actor: Trainable


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    policy: Deterministic
    critic: Net  # (observation, action) -> [E, ...]
    loss: Callable[..., tuple[Array, Metrics]]  # of the policy, bound to its strength
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    box: Box  # of the actions


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    if config.improvement == "gradient":
        loss = partial(actor_losses.td3_bc_loss, alpha=config.alpha)
    else:
        loss = partial(
            actor_losses.weighted_bc_loss,
            temperature=config.temperature,
            largest=config.max_weight,
        )
    return Parts(
        config=config,
        policy=deterministic.relu_policy(config.actor_hidden, spec),
        critic=critics.twin(config.critic_hidden, layer_norm=config.critic_layer_norm),
        loss=loss,
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate, decay_steps=config.train_steps if config.actor_decays else 0
        ),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        box=spec.action_box,
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
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
    """One step of the critics towards the SARSA target, and of their target network."""
    del key, step
    target = critics.sarsa_target(parts.critic, state.critic.target, batch)
    has_target = critics.has_sarsa_target(batch)
    critic, metrics = critics.regress(
        state.critic,
        parts.critic_optimizer,
        parts.critic,
        batch,
        target,
        partial(critics.squared_error, weight=has_target),
    )
    critic = learner.polyak(critic, parts.config.tau)
    return replace(state, critic=critic), metrics | learner.measured(known=has_target)


def update_actor(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the policy; the critics are frozen."""
    del key, step

    loss = partial(
        parts.loss,
        policy=parts.policy.act,
        critic=parts.critic,
        critic_params=state.critic.params,
        batch=batch,
    )
    actor, metrics = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return replace(state, actor=actor), metrics


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's action, without noise."""
    del key
    return parts.policy.act(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the cloning error."""
    uniform = uniform_in(parts.box, key, batch.action.shape, batch.action.dtype)
    policy = parts.policy.act(state.actor.params, batch.observation)
    found = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    return found | learner.measured(bc_error=actor_losses.squared_distance(policy, batch.action))


def make(config: Config, spec: Spec) -> Method:
    """Binds one-step RL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    validation.require_positive(config, "batch_size")
    validation.require_nonnegative(config, "alpha", "temperature", "pretrain_steps", "train_steps")
    validation.require_nonnegative(config, "max_weight")
    parts = build(config, spec)

    def phase(name: str, steps: int, update: Callable[..., Any]) -> Phase:
        return Phase(name, steps, partial(update, parts=parts), config.batch_size)

    return Method(
        init=partial(init, parts=parts),
        phases=(
            phase("critic", config.pretrain_steps, update_critic)._replace(outputs=("critic",)),
            phase("train", config.train_steps, update_actor),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
    )
