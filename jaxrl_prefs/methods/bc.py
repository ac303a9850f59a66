"""Behaviour cloning: supervised learning of the data's actions, and the yardstick of the others.

    deterministic   minimise mean (pi(s) - a)^2
    gaussian        minimise -log N(a; mean(s), std(s)^2), both networks' outputs

    symbol          name in code     shape
    pi, mean        actor            policy network [B, A], tanh onto the action box
    std             actor            [B, A], bounded (parts/gaussian.py)

Phases: `train` alone. Architecture and rates are those of TD3+BC, so that the two can be compared.
Choices of ours: both policies act by their mean; the Gaussian's samples, clipped to the action box,
are played beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.policies.gaussian import Head
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition

POLICIES = ("deterministic", "gaussian")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates are TD3+BC's."""

    policy: str = "deterministic"  # or "gaussian"
    actor_hidden: tuple[int, ...] = (256, 256)
    actor_learning_rate: float = 3e-4
    batch_size: int = 256
    train_steps: int = 1_000_000


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable


class Parts(NamedTuple):
    """What the loss is computed with; no arrays."""

    net: Net
    head: Head  # output -> (mean, std), both [B, A]
    error: Callable[[Array, Array, Array], Array]  # (mean, std, action) -> scalar
    low: np.ndarray  # [A], the action box
    high: np.ndarray  # [A]
    optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the network and the optimiser. Raises ValueError for an unknown policy."""
    normal = validation.require_choice("policy", config.policy, POLICIES) == "gaussian"
    head = gaussian.gaussian_head if normal else gaussian.point_head
    outputs = (2 if normal else 1) * spec.action_dim
    return Parts(
        net=nets.mlp(config.actor_hidden, outputs, activation="relu", initialiser="lecun"),
        head=head(spec.action_low, spec.action_high),
        error=gaussian.fit_gaussian if normal else gaussian.fit_point,
        low=spec.action_low,
        high=spec.action_high,
        optimizer=learner.optimizer(config.actor_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """A fresh state; the batch is read for shapes only."""
    return State(learner.init(parts.net.init(key, batch.observation), parts.optimizer))


def distribution(params: Params, observation: Array, *, parts: Parts) -> tuple[Array, Array]:
    """Mean and standard deviation of the policy, both [B, A]; the deviation of a point is 0."""
    return parts.head(parts.net.apply(params, observation))


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step on the squared error or the negative log-likelihood."""
    del key, step

    def loss(params: Params) -> tuple[Array, Metrics]:
        error = parts.error(*distribution(params, batch.observation, parts=parts), batch.action)
        return error, learner.measured(actor_loss=error)

    actor, metrics = learner.gradient_step(state.actor, parts.optimizer, loss)
    return State(actor), metrics


def act_mean(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's mean; nothing is drawn."""
    del key
    return distribution(state.actor.params, observation, parts=parts)[0]


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """One draw."""
    mean, std = distribution(state.actor.params, observation, parts=parts)
    return gaussian.drawn(mean, std, key, parts.low, parts.high)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """The mean squared error of the mean, and the mean deviation."""
    del key
    mean, std = distribution(state.actor.params, batch.observation, parts=parts)
    return learner.measured(bc_error=jnp.square(mean - batch.action), policy_std=std)


def make(config: Config, spec: Spec) -> Method:
    """Binds behaviour cloning to a config and to the data's sizes.

    Raises:
        ValueError: for a value that a field does not allow.
    """
    validation.require_positive(config, "batch_size")
    validation.require_nonnegative(config, "train_steps")
    parts = build(config, spec)
    policies = {"actor": Policy(partial(act_mean, parts=parts), 1, "the mean")}
    if config.policy == "gaussian":
        policies["sample"] = Policy(partial(act_sample, parts=parts), 1, "the one drawn")
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies=policies,
        diagnose=partial(diagnose, parts=parts),
    )
