"""FQL: flow Q-learning.

Park, Li and Levine, ICML 2025, arXiv 2502.02538.

A flow clones the behaviour. A policy that needs one evaluation per action is distilled from the
flow and maximises Q at the same time, so no gradient passes through the flow's steps.

    v    <- minimise  mean |v(s, x_t, t) - (a - z)|^2,   x_t = (1 - t) z + t a       flow matching
    Q_k  <- r + discount * agg_j Q_j(s', mu(s', z)), by the target network           critics
    mu   <- minimise  alpha mean |mu(s, z) - F(s, z)|^2  -  mean_k Q_k(s, mu(s, z))  one-step policy

    symbol      name in code            shape
    v           behavior                velocity network [B, A]
    F           FlowPolicy.transport    [B, A], where v carries z in `flow_steps` steps
    mu          actor                   one-step policy [B, A]
    Q_k         critic                  [2, B]
    z, t        noise, t                N(0, I) [B, A], uniform in [0, 1] [B]
    alpha       config.alpha            scalar; weight of the distance, in units of Q
    agg         config.q_agg            mean or minimum over the critics

Squared distances are means over the action dimensions. Every z is drawn anew.

Phases: `train` only. All three networks step at once, from the parameters before the update.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither paper
nor code has:
 1. Actions are scaled to [-1, 1] by the action box, and samples are clipped to the box. The
    distance to the flow is taken before mu's clip and after F's (code).
 2. The critics' loss is the mean over the two (code), and the target network takes the parameters
    before the step (code).
 3. `normalize_q_loss` divides Q in mu's loss by its batch mean of |mean_k Q_k| (code; the authors
    recommend it for new tasks).
 4. The flow can be integrated by the midpoint rule (ours).
 5. The authors clip recorded actions to 1e-5 inside their bounds; here they stay as recorded.
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
from jaxrl_prefs.ops import flow, values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies.flow import FlowPolicy, OneStepPolicy, distillation_error, gelu_net
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's; alpha, which it tunes for every task, is its code's default."""

    alpha: float = 10.0  # weight of the distance to the flow; 3 to 30,000 in the published runs
    q_agg: Literal["mean", "min"] = "mean"  # over the critics, in their target
    # divide Q in the policy's loss by its mean size: alpha is then independent of the reward's
    # scale, and useful values are 0.03 to 10 (code)
    normalize_q_loss: bool = False
    flow_steps: int = 10  # steps from noise to the flow's action
    flow_sampler: Literal["euler", "midpoint"] = "euler"  # midpoint: 2 evaluations a step (ours)
    actor_hidden: tuple[int, ...] = (512, 512, 512, 512)  # hidden layers of policy and flow
    actor_layer_norm: bool = False  # layer normalisation in policy and flow
    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)  # widths of each critic's hidden layers
    critic_layer_norm: bool = True  # layer normalisation in the critics
    behavior_learning_rate: float = 3e-4  # Adam's rate for the flow
    actor_learning_rate: float = 3e-4  # Adam's rate for the one-step policy
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of all networks


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # the flow's velocity
    actor: Trainable  # the one-step policy
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    behavior: FlowPolicy
    policy: OneStepPolicy
    critic: Net  # (observation, action) -> [2, ...]
    behavior_optimizer: optax.GradientTransformation
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    net = gelu_net(config.actor_hidden, spec, layer_norm=config.actor_layer_norm)
    sampler = flow.SAMPLERS[config.flow_sampler]
    critic = critics.gelu_value(config.critic_hidden, layer_norm=config.critic_layer_norm)
    return Parts(
        config=config,
        behavior=FlowPolicy(net, spec.action_box, sampler, config.flow_steps),
        policy=OneStepPolicy(net, spec.action_box),
        critic=nets.ensemble(critic, 2),
        behavior_optimizer=learner.optimizer(config.behavior_learning_rate),
        actor_optimizer=learner.optimizer(config.actor_learning_rate),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    behavior_key, actor_key, critic_key = jax.random.split(key, 3)
    behavior = parts.behavior.init(behavior_key, batch.observation)
    actor = parts.policy.init(actor_key, batch.observation)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    return State(
        behavior=learner.init(behavior, parts.behavior_optimizer),
        actor=learner.init(actor, parts.actor_optimizer),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
    )


# ---------------------------------------------------------------------------------- losses


def critic_target(state: State, *, parts: Parts, batch: Transition, noise: Array) -> Array:
    """r + discount * agg_j Q_j(s', mu(s', z)) by the target network: [B], not differentiated."""
    chex.assert_equal_shape([noise, batch.action])
    transported = parts.policy.transport(state.actor.params, batch.next_observation, noise)
    action = parts.policy.action(transported)
    q = parts.critic.apply(state.critic.target, batch.next_observation, action)
    next_value = q.min(0) if parts.config.q_agg == "min" else q.mean(0)
    chex.assert_equal_shape([next_value, batch.reward, batch.discount])
    return jax.lax.stop_gradient(batch.reward + batch.discount * next_value)


def half_squared_error(prediction: Array, target: Array) -> Array:
    """Half the mean squared error of [B]: its sum over two critics is the mean over them."""
    return critics.squared_error(prediction, target) / 2


def actor_loss(
    params: Params, *, state: State, parts: Parts, batch: Transition, noise: Array
) -> tuple[Array, Metrics]:
    """alpha |mu(s, z) - F(s, z)|^2 - mean_k Q_k(s, mu(s, z)), the mean over the batch.

    `noise` [B, A] is z of both. Only mu is differentiated.
    """
    observation, config = batch.observation, parts.config
    chex.assert_equal_shape([noise, batch.action])
    target = parts.behavior.transport(state.behavior.params, observation, noise)
    transported = parts.policy.transport(params, observation, noise)
    distance = distillation_error(transported, target)
    action = parts.policy.action(transported)
    members = nets.with_action_gradient(parts.critic, state.critic.params, observation, action)
    q = members.mean(0)
    scaled = values.normalised(q) if config.normalize_q_loss else q
    loss = config.alpha * distance - jnp.mean(scaled)
    return loss, learner.measured(actor_loss=loss, distillation_error=distance, q_policy=q)


# --------------------------------------------------------------------------------- updates


class Draws(NamedTuple):
    """The random numbers of one update."""

    flow_noise: Array  # [B, A], z of the flow-matching loss
    time: Array  # [B], its t
    noise: Array  # [B, A], z of the one-step policy and the flow that it imitates
    next_noise: Array  # [B, A], z of the critics' target


def draw(key: Key, batch: Transition) -> Draws:
    """Draws for a batch."""
    flow_key, time_key, noise_key, next_key = jax.random.split(key, 4)
    shape, dtype = batch.action.shape, batch.action.dtype
    return Draws(
        flow_noise=jax.random.normal(flow_key, shape, dtype),
        time=jax.random.uniform(time_key, shape[:1], dtype),
        noise=jax.random.normal(noise_key, shape, dtype),
        next_noise=jax.random.normal(next_key, shape, dtype),
    )


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of the flow, the one-step policy and the critics, each from the state as it was."""
    del step
    return update_with(state, batch, draw(key, batch), parts=parts)


def update_with(
    state: State, batch: Transition, draws: Draws, *, parts: Parts
) -> tuple[State, Metrics]:
    """`update` with given random numbers."""

    def cloning(params: Params) -> tuple[Array, Metrics]:
        error = parts.behavior.matching_loss(
            params, batch.observation, batch.action, draws.flow_noise, draws.time
        )
        return error, learner.measured(behavior_loss=error)

    behavior, metrics = learner.gradient_step(state.behavior, parts.behavior_optimizer, cloning)
    loss = partial(actor_loss, state=state, parts=parts, batch=batch, noise=draws.noise)
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    critic, most = update_critic(state, batch, draws.next_noise, parts=parts)
    return State(behavior, actor, critic), metrics | more | most


def update_critic(
    state: State, batch: Transition, noise: Array, *, parts: Parts
) -> tuple[Trainable, Metrics]:
    """One step of the critics; the target network moves towards the parameters before it."""
    target = critic_target(state, parts=parts, batch=batch, noise=noise)
    critic, metrics = critics.regress(
        learner.polyak(state.critic, parts.config.tau),
        parts.critic_optimizer,
        parts.critic,
        batch,
        target,
        half_squared_error,
    )
    halves, count = metrics["critic_loss"]
    metrics |= {"critic_loss": (2 * halves, count)} | learner.measured(critic_target=target)
    return critic, metrics


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the one-step policy."""
    return parts.policy.sample(state.actor.params, observation, key, 1)[:, 0]


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the flow."""
    return parts.behavior.sample(state.behavior.params, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, the distance to the flow.

    A distance that keeps growing means that the policy has left the data: alpha is too small.
    """
    noise_key, uniform_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, batch.action.shape, batch.action.dtype)
    uniform = uniform_in(parts.policy.box, uniform_key, batch.action.shape, batch.action.dtype)
    flowed = parts.behavior.transport(state.behavior.params, batch.observation, noise)
    transported = parts.policy.transport(state.actor.params, batch.observation, noise)
    policy = parts.policy.action(transported)
    metrics = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    distance = distillation_error(transported, flowed)
    return metrics | learner.measured(distillation_error=distance)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds FQL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    validation.require_positive(config, "batch_size", "flow_steps")
    validation.require_nonnegative(config, "alpha", "train_steps")
    parts = build(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), 1, "single sample"),
            "behavior": Policy(partial(act_behavior, parts=parts), 1, "single sample"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
