"""IQL-BST: IQL's values with TD3-BST's policy step.

Srinivasan and Knottenbelt, IJCAI 2024, arXiv 2404.16399, name the combination and give no details;
values: Kostrikov et al. 2022, arXiv 2110.06169 (values/iql.py).

    V    <- expectile of  min_k Q_k(s, a)  over the data's actions
    Q_k  <- r + discount * V(s')
    pi   -> maximise  mean Q_1(s, pi) / mean|Q_1|  -  mean (exp(C / mu) - 1) |pi - a|^2

    symbol      name in code             shape
    f           morse                    [B, A], a network of (s, a); C = 1 - M(s, pi(s))
    pi          actor                    policy network [B, A], tanh onto the action box
    Q_k, V      critic, value            [2, B], [B]
    lambda, mu  config.kernel_scale, .mu

Phases: `clone`, if `clone_steps` is not 0 -> `morse` -> `train` (Morse network frozen). Of the
first two every 20th row is held out and measured. Q and V do not depend on the policy: they are
those of IQL, bit for bit.

Choices of ours:
 1. The policy maximises the first online critic, as in TD3-BST, at every update, as in IQL. It has
    no target network, since no target depends on it.
 2. Its rate does not decay.
 3. Everything else that TD3-BST leaves open is chosen as in methods/td3_bst.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import flax.struct
import jax
import optax

from jaxrl_prefs import learner, validation
from jaxrl_prefs.behavior import morse, supervisor
from jaxrl_prefs.behavior.supervisor import Supervisor
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.types import Array, Box, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics, iql
from jaxrl_prefs.values.iql import Iql


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are IQL's for Q and V and TD3-BST's for the rest; [ours] marks a choice of ours."""

    # --- values
    expectile: float = 0.7  # of Q over actions that V estimates, in (0, 1); 0.9 for antmaze
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers of Q and V
    critic_layer_norm: bool = False  # [ours] layer normalisation in Q and V
    critic_learning_rate: float = 3e-4  # Adam's rate for Q and V
    tau: float = 0.005  # rate of the critic's target network
    # --- policy
    # lambda, how narrow the kernel is: a number, or a multiple of the action dimension k
    kernel_scale: str = dataclasses.field(default="k/2", metadata=morse.SCALE)
    mu: float = 1.0  # [ours] temperature of the weight exp(C / mu) - 1
    # [ours] whether the weight is differentiated with respect to the policy
    weight_gradient: Literal["full", "detached"] = "full"
    weight_floor: float = 0.0  # [ours] least weight; 1 / alpha and a large mu give TD3+BC
    # [ours] |pi - a|^2 over the action dimensions; standardised: mean, in stds of the clone
    distance: Literal["mean", "sum", "standardised"] = "mean"
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    # --- Morse network
    # how the certainty falls with the distance |f(s, a) - a|
    kernel: Literal["rbf", "laplace", "cauchy", "rational_quadratic"] = "rbf"
    # [ours] widths of the Morse network's hidden layers
    behavior_hidden: tuple[int, ...] = (256, 256, 256)
    behavior_learning_rate: float = 3e-4  # [ours] Adam's rate for the Morse network
    negative_samples: int = 10  # [ours] J, negative actions per row
    # [ours] share of the negatives that are other rows' actions; the others are uniform
    shuffled: float = 0.0
    # [ours] the negatives' term has weight negative_weight^k; 2 makes certainty an absolute density
    negative_weight: float = 1.0
    behavior_batch_size: int = 1024  # [ours] rows per update of the Morse network
    # [ours] negatives near the data: the share that a widened Gaussian clone of the data gives
    near: float = 0.0
    near_width: float = 2.0  # [ours] by how much the clone is widened for them
    # [ours] noise on the actions that the Morse network reads in training, in halves of the box
    input_noise: float = 0.0
    behavior_weight_decay: float = 0.0  # [ours] AdamW's, of the Morse network
    # [ours] the Morse network stops where its uncertainty one standard deviation of the clone from
    # the clone's mean has fallen to this; 0: never
    stop_uncertainty: float = 0.0
    # [ours] updates of the Gaussian clone, which near, stop_uncertainty and standardised distances
    # need, and the warning of a Morse network that is flat; 0: no clone
    clone_steps: int = 0
    # [ours] updates of the Morse network, at most
    pretrain_steps: int = dataclasses.field(default=100_000, metadata=morse.LENGTH)
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of V, Q and the policy


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    morse: Trainable  # f; without a target network
    clone: Trainable | None  # the Gaussian clone, if there is one
    stopped_at: Array | None  # updates after which f stopped by `stop_uncertainty`, or -1
    actor: Trainable
    critic: Trainable  # twin Q, leaves [2, ...], with its target network
    value: Trainable


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    supervisor: Supervisor
    iql: Iql
    policy: Deterministic
    actor_optimizer: optax.GradientTransformation
    box: Box  # of the actions


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers. Raises ValueError for a value that no field allows."""
    return Parts(
        config=config,
        supervisor=supervisor.from_config(config, spec),
        iql=iql.from_config(config, spec),
        policy=deterministic.relu_policy(config.actor_hidden, spec),
        actor_optimizer=learner.optimizer(config.actor_learning_rate),
        box=spec.action_box,
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only. Q and V start as IQL's do."""
    actor_key, iql_key = jax.random.split(key)
    morse_key, actor_key = jax.random.split(actor_key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic, value = iql.init(iql_key, batch, iql=parts.iql)
    return State(
        **supervisor.init(morse_key, batch, supervisor=parts.supervisor),
        actor=learner.init(actor, parts.actor_optimizer),
        critic=critic,
        value=value,
    )


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of V and Q as in IQL, then one of the policy by the new Q."""
    del key, step
    critic, value, _, metrics = iql.update(state.critic, state.value, batch, iql=parts.iql)

    def loss(params: Params) -> tuple[Array, Metrics]:
        return actor_losses.td3_bst_loss(
            params,
            policy=parts.policy.act,
            critic=parts.iql.critic,
            critic_params=critic.params,
            morse=parts.supervisor.morse,
            morse_params=state.morse.params,
            batch=batch,
            mu=parts.config.mu,
            gradient=parts.config.weight_gradient,
            distance=parts.config.distance,
            std=supervisor.clone_std(state, batch, supervisor=parts.supervisor),
            floor=parts.config.weight_floor,
        )

    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return replace(state, actor=actor, critic=critic, value=value), metrics | more


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's action, without noise."""
    del key
    return parts.policy.act(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q and certainty on data, policy and uniform actions, and the critics' spread."""
    action = batch.action
    uniform = uniform_in(parts.box, key, action.shape, action.dtype)
    policy = parts.policy.act(state.actor.params, batch.observation)
    q = critics.q_diagnostics(parts.iql.critic, state.critic.params, batch, policy, uniform)
    return q | supervisor.diagnosis(state, batch, key, policy, uniform, supervisor=parts.supervisor)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds IQL-BST to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    actor_losses.check_td3_bst_fields(config)
    validation.require_fraction(config, "expectile")
    parts = build(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            *(Phase(**each) for each in supervisor.pretraining(config, parts.supervisor)),
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
        warn=supervisor.warnings,
    )
