"""IFQL: implicit flow Q-learning; IDQL (Hansen-Estruch et al. 2023) with a flow for its diffusion.

Park, Li and Levine, ICML 2025, arXiv 2502.02538, a baseline of that paper. Its values are those of
IQL (Kostrikov et al. 2022, arXiv 2110.06169).

    V    <- expectile of  min_k Q_k(s, a)  over the data's actions, by the target network
    Q_k  <- r + discount * V(s')
    v    <- minimise  mean |v(s, x_t, t) - (a - z)|^2,   x_t = (1 - t) z + t a      flow matching
    act:    argmax  min_k Q_k(s, a_i)  over N samples a_i of the flow of v

    symbol      name in code          shape
    v           behavior              velocity network [B, A]
    Q_k, V      critic, value         [2, B], [B]
    z, t        noise, t              N(0, I) [B, A], uniform in [0, 1] [B]
    N           config.candidates     count; the more, the further from the behaviour
    tau         config.expectile      scalar in (0, 1)

Phases: `train` only. All networks step at once, from the parameters before the update. No gradient
passes between flow and critics: they meet only in acting.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither paper
nor code has:
 1. Actions are scaled to [-1, 1] by the action box, and samples are clipped to the box.
 2. Q's target uses V before its step, and the target network takes the critics' parameters before
    theirs (code).
 3. The flow can be integrated by the midpoint rule (ours).
 4. The authors clip recorded actions to 1e-5 inside their bounds; here they stay as recorded.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import flax.struct
import jax
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import flow
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.policies.flow import FlowPolicy, gelu_net
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import critics, iql
from jaxrl_prefs.values.iql import Iql


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are those of the FQL authors' code."""

    expectile: float = 0.9  # the expectile of Q that V estimates, in (0, 1)
    candidates: int = 32  # N, actions sampled per decision; 1 acts as the behaviour
    flow_steps: int = 10  # steps from noise to action
    flow_sampler: Literal["euler", "midpoint"] = "euler"  # midpoint: 2 evaluations a step (ours)
    actor_hidden: tuple[int, ...] = (512, 512, 512, 512)  # widths of the flow's hidden layers
    actor_layer_norm: bool = False  # layer normalisation in the flow
    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)  # widths of the hidden layers of Q and V
    critic_layer_norm: bool = True  # layer normalisation in Q and V
    behavior_learning_rate: float = 3e-4  # Adam's rate for the flow
    critic_learning_rate: float = 3e-4  # Adam's rate for Q and V
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of all networks


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # the flow's velocity
    critic: Trainable  # twin Q, leaves [2, ...], with its target network
    value: Trainable


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    iql: Iql
    behavior: FlowPolicy
    behavior_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    net = gelu_net(config.actor_hidden, spec, layer_norm=config.actor_layer_norm)
    value = critics.gelu_value(config.critic_hidden, layer_norm=config.critic_layer_norm)
    sampler = flow.SAMPLERS[config.flow_sampler]
    return Parts(
        config=config,
        iql=Iql(
            critic=nets.ensemble(value, 2),
            value=value,
            critic_optimizer=learner.optimizer(config.critic_learning_rate),
            value_optimizer=learner.optimizer(config.critic_learning_rate),
            expectile=config.expectile,
            tau=config.tau,
        ),
        behavior=FlowPolicy(net, spec.action_box, sampler, config.flow_steps),
        behavior_optimizer=learner.optimizer(config.behavior_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    behavior_key, iql_key = jax.random.split(key)
    behavior = parts.behavior.init(behavior_key, batch.observation)
    critic, value = iql.init(iql_key, batch, iql=parts.iql)
    return State(learner.init(behavior, parts.behavior_optimizer), critic, value)


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of V, the critics and the flow, each from the state as it was."""
    del step
    value, _, metrics = iql.update_value(state.value, state.critic.target, batch, iql=parts.iql)
    critic = learner.polyak(state.critic, parts.config.tau)
    critic, more = iql.update_critic(critic, state.value.params, batch, iql=parts.iql)

    def cloning(params: Params) -> tuple[Array, Metrics]:
        error = parts.behavior.bc_loss(params, batch.observation, batch.action, key)
        return error, learner.measured(behavior_loss=error)

    behavior, most = learner.gradient_step(state.behavior, parts.behavior_optimizer, cloning)
    return State(behavior, critic, value), metrics | more | most


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The sample of the flow with the highest min_k Q_k, of `candidates`."""
    count = parts.config.candidates
    actions = parts.behavior.sample(state.behavior.params, observation, key, count)
    if count == 1:
        return actions[:, 0]
    q = parts.iql.critic.apply(state.critic.params, observation[:, None], actions).min(0)
    return candidates.best(actions, q)


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the flow."""
    return parts.behavior.sample(state.behavior.params, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the advantage.

    If Q is far higher for the policy's actions than for the data's, the best of the candidates is
    chosen by errors of the critics: fewer candidates help.
    """
    act_key, uniform_key = jax.random.split(key)
    box, params = parts.behavior.box, state.critic.params
    uniform = uniform_in(box, uniform_key, batch.action.shape, batch.action.dtype)
    policy = act(state, batch.observation, act_key, parts=parts)
    metrics = critics.q_diagnostics(parts.iql.critic, params, batch, policy, uniform)
    q = parts.iql.critic.apply(state.critic.target, batch.observation, batch.action).min(0)
    advantage = q - parts.iql.value.apply(state.value.params, batch.observation)
    return metrics | learner.measured(advantage=advantage)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds IFQL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    validation.require_positive(config, "batch_size", "flow_steps", "candidates")
    validation.require_nonnegative(config, "train_steps")
    validation.require_fraction(config, "expectile")
    parts = build(config, spec)
    rule = candidates.rule("min Q", config.candidates)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), config.candidates, rule),
            "behavior": Policy(partial(act_behavior, parts=parts), 1, "single sample"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
