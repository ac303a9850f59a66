"""AWAC: advantage-weighted actor-critic.

Nair, Gupta, Dalal and Levine 2020, arXiv 2006.09359.

    Q_k  <- r + discount * min_k Q_k(s', a'),   a' ~ pi(.|s'), by the target network
    pi   -> maximise  mean  w log pi(a|s),   w = exp(beta A) / mean exp(beta A)
    A    =  min_k Q_k(s, a) - min_k mean_i Q_k(s, a_i),   a_i ~ pi(.|s)

    symbol      name in code           shape
    pi          actor                  Gaussian [B, A]: tanh mean, one std for all states
    Q_k         critic                 [2, B]
    beta        config.temperature     scalar; 1 / lambda, an inverse temperature, per unit of Q
    a_i         value_samples of them  [B, K, A]

Phases: `train` only.

Deviations and choices; "(code)" marks what only the authors' code has:
 1. Weights are divided by their mean over the batch (code). `weights=exponential` takes exp(beta A)
    as the paper prints it, at most `max_weight`, as later implementations do.
 2. Samples of the policy are clipped to the action box; its densities are those before clipping.
 3. The log standard deviation is clipped to [-5, 1] (policies/gaussian.py).
 4. Kernels are orthogonal with gain sqrt(2), as in jaxrl, which has the authors' settings; there
    the gain of the policy's last kernel is 1.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are those of the authors' code, as jaxrl states them."""

    temperature: float = 0.5  # beta = 1 / lambda, per unit of Q: 0 clones
    # exp(beta A) divided by its batch mean (code), or as it is, up to max_weight
    weights: Literal["softmax", "exponential"] = "softmax"
    max_weight: float = 100.0  # largest weight with weights=exponential
    value_samples: int = 1  # actions of the policy in the baseline of an advantage
    actor_hidden: tuple[int, ...] = (256, 256, 256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = False  # layer normalisation in the critics (ours)
    actor_learning_rate: float = 3e-4  # AdamW's rate for the policy
    actor_weight_decay: float = 1e-4  # AdamW's weight decay of the policy
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of critics and policy


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    policy: DiagonalGaussian
    critic: Net  # (observation, action) -> [2, ...]
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    mean = nets.mlp(config.actor_hidden, spec.action_dim, activation="relu")
    return Parts(
        config=config,
        policy=DiagonalGaussian(gaussian.shared_std(mean, spec.action_dim), spec.action_box),
        critic=critics.twin(
            config.critic_hidden, layer_norm=config.critic_layer_norm, initialiser="orthogonal"
        ),
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate, weight_decay=config.actor_weight_decay
        ),
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


# ---------------------------------------------------------------------------------- losses


def critic_target(state: State, batch: Transition, key: Key, *, parts: Parts) -> Array:
    """r + discount * min_k Q_k(s', a') with a' ~ pi: [B], not differentiated."""
    action = parts.policy.sample(state.actor.params, batch.next_observation, key, 1)[:, 0]
    chex.assert_equal_shape([action, batch.action])
    q = parts.critic.apply(state.critic.target, batch.next_observation, action).min(0)
    chex.assert_equal_shape([q, batch.reward, batch.discount])
    return jax.lax.stop_gradient(batch.reward + batch.discount * q)


def advantages(
    actor: Params, critic: Params, batch: Transition, key: Key, *, parts: Parts
) -> Array:
    """min_k Q_k(s, a) - min_k mean_i Q_k(s, a_i) with a_i ~ pi: [B], not differentiated."""
    samples = parts.policy.sample(actor, batch.observation, key, parts.config.value_samples)
    baseline = parts.critic.apply(critic, batch.observation[:, None], samples).mean(-1).min(0)
    q = parts.critic.apply(critic, batch.observation, batch.action).min(0)
    chex.assert_equal_shape([q, baseline, batch.reward])
    return jax.lax.stop_gradient(q - baseline)


def weights_of(advantage: Array, *, config: Config) -> Array:
    """The weights w of the data's actions: [B] -> [B]."""
    if config.weights == "softmax":
        return jax.nn.softmax(config.temperature * advantage) * advantage.size
    return values.advantage_weight(advantage, config.temperature, config.max_weight)


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of the critics and of their target network, then one of the policy by the new Q."""
    del step
    next_key, value_key = jax.random.split(key)
    return update_with(state, batch, next_key, value_key, parts=parts)


def update_with(
    state: State, batch: Transition, next_key: Key, value_key: Key, *, parts: Parts
) -> tuple[State, Metrics]:
    """`update` with a key for the actions at next states and one for those of the baseline."""
    target = critic_target(state, batch, next_key, parts=parts)
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, target
    )
    critic = learner.polyak(critic, parts.config.tau)
    advantage = advantages(state.actor.params, critic.params, batch, value_key, parts=parts)
    loss = partial(
        actor_losses.weighted_likelihood_loss,
        policy=parts.policy,
        batch=batch,
        weight=weights_of(advantage, config=parts.config),
    )
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    metrics |= learner.measured(critic_target=target, advantage=advantage)
    return State(actor, critic), metrics | more


# ------------------------------------------------------------------------ acting, measuring


def act_mean(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's mean."""
    del key
    return parts.policy.act(state.actor.params, observation)


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample, clipped to the action box."""
    return parts.policy.sample(state.actor.params, observation, key, 1)[:, 0]


def log_density(state: State, observation: Array, action: Array, *, parts: Parts) -> Array:
    """The log-density of a sample before it is clipped."""
    return parts.policy.log_density(state.actor.params, observation, action)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, advantages, and how many actions count.

    `effective_share` is (sum w)^2 / (B sum w^2), the share of the batch that as many equal weights
    would use. If it is a few per cent, the temperature is too high for the reward's scale.
    """
    uniform_key, value_key = jax.random.split(key)
    uniform = uniform_in(parts.policy.box, uniform_key, batch.action.shape, batch.action.dtype)
    policy, critic = act_mean(state, batch.observation, key, parts=parts), state.critic.params
    metrics = critics.q_diagnostics(parts.critic, critic, batch, policy, uniform)
    advantage = advantages(state.actor.params, critic, batch, value_key, parts=parts)
    weight = weights_of(advantage, config=parts.config)
    share = jnp.square(weight.mean()) / jnp.mean(jnp.square(weight))
    return metrics | learner.measured(advantage=advantage, effective_share=share)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds AWAC to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    validation.require_positive(config, "batch_size", "value_samples", "max_weight")
    validation.require_nonnegative(config, "temperature", "actor_weight_decay", "train_steps")
    parts = build(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={
            "actor": Policy(partial(act_mean, parts=parts), 1, "mean"),
            "sample": Policy(
                partial(act_sample, parts=parts),
                1,
                "single sample",
                log_density=partial(log_density, parts=parts),
            ),
        },
        diagnose=partial(diagnose, parts=parts),
    )
