"""IQL: implicit Q-learning.

Kostrikov, Nair and Levine, ICLR 2022, arXiv 2110.06169; equation numbers are the paper's.

    V    <- expectile of  min_k Q_k(s, a)  over the data's actions             (5)
    Q_k  <- r + discount * V(s')                                               (6)
    pi   -> maximise  mean  min(exp(beta A(s, a)), 100) log pi(a|s),   A = min_k Q_k - V    (7)

    symbol      name in code          shape
    pi          actor                 Gaussian [B, A]: tanh mean, one std for all states
    Q_k, V      critic, value         [2, B], [B]
    tau         config.expectile      scalar in (0, 1)
    beta        config.temperature    an inverse temperature, in units of 1 / reward
    alpha       config.tau            rate of the critic's target network

Phases: `train` only. Rewards are scaled as the paper does (locomotion: returns span 1000; antmaze:
r - 1), through the run's `reward*` fields.

Deviations and choices; in `Config`, "(code)" marks what only the authors' code has, "(ours)" what
neither paper nor code has:
 1. Advantages use V before its step, as in the PyTorch versions; the authors' JAX code evaluates V
    again after the step.
 2. The log standard deviation is clipped to [-5, 1] (policies/gaussian.py); the authors clip it
    to [-5, 2].
 3. No dropout in the policy (the authors use 0.1 on adroit and kitchen).
 4. As in the authors' code: ReLU, orthogonal kernels of gain sqrt(2), a cosine decay of the
    policy's rate over `train_steps`, acting by the mean, actions clipped to 1 - 1e-5 of the box.
    Samples, clipped to the box, are evaluated beside the mean.
 5. Rows at a time limit are trained on, with the value of the recorded next observation. D4RL's
    function, which the authors use, leaves them out.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Encoder, EncoderLoss, Method, Phase, Policy
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics, iql
from jaxrl_prefs.values.iql import Iql


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for D4RL locomotion."""

    expectile: float = 0.7  # the expectile of Q that V estimates, in (0, 1); 0.9 for antmaze
    # beta, an inverse temperature, per unit of reward: 0 clones; 10 for antmaze, 0.5 for adroit
    temperature: float = 3.0
    max_weight: float = 100.0  # largest weight of an action in the policy's loss (code)
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers of Q and V
    critic_layer_norm: bool = False  # layer normalisation in Q and V (ours)
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy, a cosine over train_steps
    critic_learning_rate: float = 3e-4  # Adam's rate for Q and V
    tau: float = 0.005  # rate of the critic's target network
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of V, Q and the policy


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable
    critic: Trainable  # twin Q, leaves [2, ...], with its target network
    value: Trainable


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    iql: Iql
    policy: DiagonalGaussian
    actor_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    mean = nets.mlp(config.actor_hidden, spec.action_dim, activation="relu")
    moments = nets.viewed(gaussian.shared_std(mean, spec.action_dim), spec.view("actor"))
    return Parts(
        config=config,
        iql=iql.from_config(config, spec),
        policy=DiagonalGaussian(moments, spec.action_box),
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate, decay_steps=max(config.train_steps, 1)
        ),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    actor_key, iql_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic, value = iql.init(iql_key, batch, iql=parts.iql)
    return State(learner.init(actor, parts.actor_optimizer), critic, value)


# --------------------------------------------------------------------------------- updates


def actor_loss(
    params: Params, *, batch: Transition, advantage: Array, parts: Parts
) -> tuple[Array, Metrics]:
    """Minus the weighted log-likelihood of the data's actions (7); advantages are [B]."""
    config = parts.config
    weight = values.advantage_weight(advantage, config.temperature, config.max_weight)
    return actor_losses.weighted_likelihood_loss(
        params, policy=parts.policy, batch=batch, weight=weight
    )


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of V, Q and the policy; the policy uses advantages computed before V's step."""
    del key, step
    critic, value, advantage, metrics = iql.update(state.critic, state.value, batch, iql=parts.iql)
    loss = partial(actor_loss, batch=batch, advantage=advantage, parts=parts)
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return State(actor, critic, value), metrics | more


def critic_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> Array:
    """The critics' loss, by which an encoder of images is trained; V reads it without gradient."""
    del key, step
    return iql.encoder_loss(state.critic, state.value, batch, iql=parts.iql)


def actor_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> Array:
    """The policy's loss, by which an encoder of its own is trained."""
    del key, step
    without = batch._replace(observation=jax.lax.stop_gradient(batch.observation))
    _, advantage, _ = iql.update_value(state.value, state.critic.target, without, iql=parts.iql)
    return actor_loss(state.actor.params, batch=batch, advantage=advantage, parts=parts)[0]


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
    """Mean Q on data, policy and uniform actions, and the weights of the data's actions.

    `weight_saturation` is the share of actions at the largest weight. A large share means that the
    temperature is too high for the reward's scale: the policy then clones an arbitrary part of the
    data.
    """
    config, critic_params = parts.config, state.critic.target
    uniform = uniform_in(parts.policy.box, key, batch.action.shape, batch.action.dtype)
    policy = act_mean(state, batch.observation, key, parts=parts)
    metrics = critics.q_diagnostics(parts.iql.critic, critic_params, batch, policy, uniform)
    q = parts.iql.critic.apply(critic_params, batch.observation, batch.action).min(0)
    advantage = q - parts.iql.value.apply(state.value.params, batch.observation)
    weight = values.advantage_weight(advantage, config.temperature, config.max_weight)
    saturated = weight >= 0.999 * config.max_weight
    return metrics | learner.measured(advantage=advantage, weight_saturation=saturated)


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
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts),
                config.batch_size,
                encoder_losses=(
                    EncoderLoss("critic", partial(critic_encoder_loss, parts=parts)),
                    EncoderLoss("actor", partial(actor_encoder_loss, parts=parts)),
                ),
            ),
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
        encoders=(Encoder("critic"), Encoder("actor", shared_with="critic")),
    )
