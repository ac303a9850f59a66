"""IQL: implicit Q-learning.

Kostrikov, Nair and Levine, ICLR 2022, arXiv 2110.06169; equation numbers are the paper's.

    V    <- expectile of  min_k Q_k(s, a)  over the data's actions             (5)
    Q_k  <- r + discount * V(s')                                               (6)
    pi   -> maximise  mean  min(exp(beta A(s, a)), 100) log pi(a|s),   A = min_k Q_k - V    (7)

    symbol      name in code          shape
    pi          actor                 Gaussian [B, A]: tanh mean, one deviation for all states
    Q_k, V      critic, value         [2, B], [B]
    tau         config.expectile      scalar in (0, 1)
    beta        config.temperature    an inverse temperature, in units of 1 / reward
    alpha       config.tau            rate of the critic's moving average

Phases: `train` alone. Rewards are scaled as the paper does (locomotion: returns span 1000; antmaze:
r - 1), by the run's fields.

Deviations:
 1. Advantages are of V before its step, as the PyTorch versions have them; the authors' JAX code
    evaluates V once more after it.
 2. The deviation is at most e, not e^2 (parts/gaussian.py); it is at least e^-5 in both.
 3. No dropout in the policy (the authors use 0.1 on adroit and kitchen).
 4. ReLU, orthogonal kernels of gain sqrt(2), the policy's cosine over `train_steps` and acting by
    the mean are the authors'. The samples, clipped to the box, are played beside the mean.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import gaussian as normal
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.policies.gaussian import Head
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics, iql
from jaxrl_prefs.values.iql import Iql


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for D4RL locomotion."""

    expectile: float = 0.7  # 0.9 for antmaze
    temperature: float = 3.0  # beta, inverse: 0 is behaviour cloning; 10 antmaze, 0.5 adroit
    max_weight: float = 100.0  # of an action in the policy's loss (code)
    actor_hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256)  # of Q and V
    critic_layer_norm: bool = False  # ours, for adroit and kitchen
    actor_learning_rate: float = 3e-4  # decays by a cosine over train_steps
    critic_learning_rate: float = 3e-4  # of Q and V
    tau: float = 0.005  # rate of the critic's moving average
    batch_size: int = 256
    train_steps: int = 1_000_000


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable
    critic: Trainable  # twin Q, leaves [2, ...], with its moving average
    value: Trainable


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    iql: Iql
    policy: Net  # observation -> [..., 2A]
    head: Head  # -> (mean, std)
    actor_optimizer: optax.GradientTransformation
    low: np.ndarray  # [A], the action box
    high: np.ndarray  # [A]


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    size, norm = spec.action_dim, config.critic_layer_norm
    mean = nets.mlp(config.actor_hidden, size, activation="relu")
    steps = max(config.train_steps, 1)
    return Parts(
        config=config,
        iql=Iql(
            critic=critics.twin(config.critic_hidden, layer_norm=norm, initialiser="orthogonal"),
            value=nets.scalar_mlp(config.critic_hidden, activation="relu", layer_norm=norm),
            critic_optimizer=learner.optimizer(config.critic_learning_rate),
            value_optimizer=learner.optimizer(config.critic_learning_rate),
            expectile=config.expectile,
            tau=config.tau,
        ),
        policy=gaussian.shared_deviation(mean, size),
        head=gaussian.gaussian_head(spec.action_low, spec.action_high),
        actor_optimizer=learner.optimizer(config.actor_learning_rate, decay_steps=steps),
        low=spec.action_low,
        high=spec.action_high,
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """A fresh state; the batch is read for shapes only."""
    actor_key, iql_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic, value = iql.init(iql_key, batch, iql=parts.iql)
    return State(learner.init(actor, parts.actor_optimizer), critic, value)


# --------------------------------------------------------------------------------- updates


def distribution(params: Params, observation: Array, *, parts: Parts) -> tuple[Array, Array]:
    """Mean and standard deviation of the policy, both [B, A]."""
    return parts.head(parts.policy.apply(params, observation))


def actor_loss(
    params: Params, *, batch: Transition, advantage: Array, parts: Parts
) -> tuple[Array, Metrics]:
    """Minus the weighted log-likelihood of the data's actions (7)."""
    config = parts.config
    weight = values.advantage_weight(advantage, config.temperature, config.max_weight)
    mean, std = distribution(params, batch.observation, parts=parts)
    loss = -jnp.mean(weight * normal.log_density(batch.action, mean, std))
    return loss, learner.measured(actor_loss=loss, actor_weight=weight)


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of V, Q and the policy, which sees the advantages of V before its step."""
    del key, step
    critic, value, advantage, metrics = iql.update(state.critic, state.value, batch, iql=parts.iql)
    loss = partial(actor_loss, batch=batch, advantage=advantage, parts=parts)
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return State(actor, critic, value), metrics | more


# ------------------------------------------------------------------------ acting, measuring


def act_mean(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's mean; nothing is drawn."""
    del key
    return distribution(state.actor.params, observation, parts=parts)[0]


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """One draw, clipped to the action box."""
    mean, std = distribution(state.actor.params, observation, parts=parts)
    return gaussian.drawn(mean, std, key, parts.low, parts.high)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, and how the data's actions are weighed.

    A large `weight_saturation`, the share of actions at the largest weight, is a temperature too
    high for the reward's scale: the policy then clones an arbitrary part of the data.
    """
    config, critic_params = parts.config, state.critic.target
    uniform = uniform_in(parts.low, parts.high, key, batch.action.shape, batch.action.dtype)
    policy = act_mean(state, batch.observation, key, parts=parts)
    found = critics.q_diagnostics(parts.iql.critic, critic_params, batch, policy, uniform)
    q = parts.iql.critic.apply(critic_params, batch.observation, batch.action).min(0)
    advantage = q - parts.iql.value.apply(state.value.params, batch.observation)
    weight = values.advantage_weight(advantage, config.temperature, config.max_weight)
    saturated = weight >= 0.999 * config.max_weight
    return found | learner.measured(advantage=advantage, weight_saturation=saturated)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds IQL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size")
    validation.require_nonnegative(config, "temperature", "max_weight", "train_steps")
    validation.require_fraction(config, "expectile")
    parts = build(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={
            "actor": Policy(partial(act_mean, parts=parts), 1, "the mean"),
            "sample": Policy(partial(act_sample, parts=parts), 1, "the one drawn"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
