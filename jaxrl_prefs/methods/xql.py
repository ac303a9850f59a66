"""XQL: extreme Q-learning.

Garg, Hejna, Geist and Ermon, ICLR 2023, arXiv 2301.02328.

    V    <- minimise  mean  exp(z) - z - 1,   z = (min_k Q_k(s, a) - V(s)) / beta
    Q_k  <- r + discount * V(s')
    pi   -> maximise  mean  min(exp(A / eta), 100) log pi(a|s),   A = min_k Q_k - V

The minimiser of the first line is the soft maximum beta log mean exp(Q / beta) over the data's
actions: no action outside of them is evaluated.

    symbol      name in code                shape
    pi          actor                       Gaussian [B, A]: tanh mean, one std for all states
    Q_k, V      critic, value               [2, B], [B]
    beta        config.value_temperature    scalar, in units of Q; large values give the mean
    1 / eta     config.temperature          scalar; an inverse temperature, per unit of Q

Phases: `train` only. Rewards are scaled as in IQL, through the run's `reward*` fields.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither has:
 1. z is at most `max_exponent`, and a batch's loss is divided by the exponential of its largest z
    (code).
 2. Q is regressed by Huber's loss with delta 20, and V has layer normalisation, Q has none (code).
 3. Noise on the data's actions and added uniform actions, which the code has for three datasets,
    are left out, as is more than one step of V per update.
 4. Advantages use V before its step, as in our IQL; the authors evaluate V again after it.
 5. The log standard deviation is clipped to [-5, 1], and the policy has no dropout (ours).
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
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import gaussian
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics, iql
from jaxrl_prefs.values.iql import Iql

HUBER_DELTA = 20.0  # of the authors' code


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are those of the authors' code for D4RL locomotion, one beta for all sets."""

    # beta, in units of Q: small values near the maximum, large ones near the mean; 0.6 for antmaze
    value_temperature: float = 2.0
    max_exponent: float = 7.0  # largest exponent in V's loss (code)
    # 1 / eta, an inverse temperature, per unit of Q: 0 clones; 10 for antmaze, 0.5 for kitchen
    temperature: float = 3.0
    max_weight: float = 100.0  # largest weight of an action in the policy's loss (code)
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers of Q and V
    critic_layer_norm: bool = False  # layer normalisation in Q (ours)
    value_layer_norm: bool = True  # layer normalisation in V (code)
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy, a cosine over train_steps
    critic_learning_rate: float = 3e-4  # Adam's rate for Q and V
    tau: float = 0.005  # rate of the critic's target network
    batch_size: int = 256  # rows per update; 1024 in half of the published runs
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
    hidden, rate = config.critic_hidden, config.critic_learning_rate
    mean = nets.mlp(config.actor_hidden, spec.action_dim, activation="relu")
    return Parts(
        config=config,
        iql=Iql(
            critic=critics.twin(
                hidden, layer_norm=config.critic_layer_norm, initialiser="orthogonal"
            ),
            value=nets.scalar_mlp(hidden, activation="relu", layer_norm=config.value_layer_norm),
            critic_optimizer=learner.optimizer(rate),
            value_optimizer=learner.optimizer(rate),
            tau=config.tau,
            value_error=partial(
                values.gumbel_error,
                temperature=config.value_temperature,
                largest=config.max_exponent,
            ),
            critic_error=huber_loss,
        ),
        policy=DiagonalGaussian(gaussian.shared_std(mean, spec.action_dim), spec.action_box),
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


def huber_loss(prediction: Array, target: Array) -> Array:
    """The batch mean of u^2 / 2 for |u| <= 20, else 20 |u| - 200, with u = prediction - target."""
    return optax.losses.huber_loss(prediction, target, delta=HUBER_DELTA).mean()


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of V, Q and the policy; the policy uses advantages computed before V's step."""
    del key, step
    critic, value, advantage, metrics = iql.update(state.critic, state.value, batch, iql=parts.iql)
    loss = partial(
        actor_losses.weighted_likelihood_loss,
        policy=parts.policy,
        batch=batch,
        weight=weights_of(advantage, config=parts.config),
    )
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return State(actor, critic, value), metrics | more


def weights_of(advantage: Array, *, config: Config) -> Array:
    """min(exp(A / eta), 100), the weights of the data's actions: [B] -> [B]."""
    advantage = jax.lax.stop_gradient(advantage)
    return values.advantage_weight(advantage, config.temperature, config.max_weight)


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
    """Mean Q on data, policy and uniform actions, and how often the two bounds are reached.

    `exponent_saturation` is the share of rows at V's largest exponent: they no longer pull V. A
    large share means that `value_temperature` is too small for the scale of Q.
    `weight_saturation` is the share of actions at the policy's largest weight.
    """
    config, critic_params = parts.config, state.critic.target
    uniform = uniform_in(parts.policy.box, key, batch.action.shape, batch.action.dtype)
    policy = act_mean(state, batch.observation, key, parts=parts)
    metrics = critics.q_diagnostics(parts.iql.critic, critic_params, batch, policy, uniform)
    q = parts.iql.critic.apply(critic_params, batch.observation, batch.action).min(0)
    advantage = q - parts.iql.value.apply(state.value.params, batch.observation)
    return metrics | learner.measured(
        advantage=advantage,
        exponent_saturation=advantage >= config.max_exponent * config.value_temperature,
        weight_saturation=weights_of(advantage, config=config) >= 0.999 * config.max_weight,
    )


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds XQL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size", "value_temperature", "max_exponent")
    validation.require_nonnegative(config, "temperature", "max_weight", "train_steps")
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
