"""Behaviour cloning: supervised learning of the data's actions; the baseline of all methods.

    deterministic   minimise mean (pi(s) - a)^2
    gaussian        minimise -log N(a; mean(s), std(s)^2), both outputs of one network

    symbol          name in code     shape
    pi, mean        actor            policy network [B, A], tanh onto the action box
    std             actor            [B, A], bounded (policies/gaussian.py)

Phases: `train` only. Architecture and rates are those of TD3+BC, so that the two can be compared.
Choices of ours: both policies act by their mean. The Gaussian's samples, clipped to the action box,
are evaluated beside it.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import flax.struct
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Encoder, EncoderLoss, Method, Phase, Policy
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates are TD3+BC's."""

    policy: Literal["deterministic", "gaussian"] = "deterministic"  # class of the policy
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of the policy


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable


class Parts(NamedTuple):
    """What the loss is computed with; no arrays."""

    policy: Deterministic | DiagonalGaussian
    optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the policy network and the optimiser."""
    policy: Deterministic | DiagonalGaussian
    if config.policy == "deterministic":
        policy = deterministic.relu_policy(config.actor_hidden, spec)
    else:
        net = nets.mlp(
            config.actor_hidden, 2 * spec.action_dim, activation="relu", initialiser="lecun"
        )
        policy = DiagonalGaussian(net, spec.action_box)
    return Parts(policy, learner.optimizer(config.actor_learning_rate))


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    return State(learner.init(parts.policy.init(key, batch.observation), parts.optimizer))


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step on the squared error or the negative log-likelihood."""
    del step

    def loss(params: Params) -> tuple[Array, Metrics]:
        error = parts.policy.bc_loss(params, batch.observation, batch.action, key)
        return error, learner.measured(actor_loss=error)

    actor, metrics = learner.gradient_step(state.actor, parts.optimizer, loss)
    return State(actor), metrics


def encoder_loss(state: State, batch: Transition, key: Key, step: Array, *, parts: Parts) -> Array:
    """The loss of `update`, by which an encoder of images is trained with the policy."""
    del step
    return parts.policy.bc_loss(state.actor.params, batch.observation, batch.action, key)


def act_mean(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's mean."""
    del key
    return parts.policy.act(state.actor.params, observation)


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample, clipped to the action box."""
    return parts.policy.sample(state.actor.params, observation, key, 1)[:, 0]


def log_density(state: State, observation: Array, action: Array, *, parts: Parts) -> Array:
    """The log-density of a sample before it is clipped."""
    assert isinstance(parts.policy, DiagonalGaussian)
    return parts.policy.log_density(state.actor.params, observation, action)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """The mean squared error of the mean, and the mean standard deviation."""
    del key
    mean, std = parts.policy.moments(state.actor.params, batch.observation)
    return learner.measured(bc_error=jnp.square(mean - batch.action), policy_std=std)


def make(config: Config, spec: Spec) -> Method:
    """Binds behaviour cloning to a config and to the data's sizes.

    Raises:
        ValueError: for a value that a field does not allow.
    """
    validation.require_choices(config)
    validation.require_positive(config, "batch_size")
    validation.require_nonnegative(config, "train_steps")
    parts = build(config, spec)
    policies = {"actor": Policy(partial(act_mean, parts=parts), 1, "mean")}
    if config.policy == "gaussian":
        policies["sample"] = Policy(
            partial(act_sample, parts=parts),
            1,
            "single sample",
            log_density=partial(log_density, parts=parts),
        )
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts),
                config.batch_size,
                encoder_losses=(EncoderLoss("actor", partial(encoder_loss, parts=parts)),),
            ),
        ),
        policies=policies,
        diagnose=partial(diagnose, parts=parts),
        uses_rewards=False,
        encoders=(Encoder("actor"),),
    )
