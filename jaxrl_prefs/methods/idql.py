"""IDQL: IQL's values, and a policy that reweighs samples of a diffusion model of the behaviour.

Hansen-Estruch, Kostrikov, Janner, Kuba and Levine 2023, arXiv 2304.10573. Its values are those of
IQL (Kostrikov et al. 2022, arXiv 2110.06169); IFQL has a flow in place of the diffusion.

    V    <- expectile of  min_k Q_k(s, a)  over the data's actions, by the target network
    Q_k  <- r + discount * V(s')
    mu   <- minimise  mean |eps_mu(a^n, s, n) - eps|^2,  a^n = sqrt(abar_n) a + sqrt(1 - abar_n) eps
    act:    argmax  min_k Q_k(s, a_i)  over N samples a_i of mu; or, as the implicit policy, one of
            them with probability proportional to w_i = |tau - 1(min_k Q_k(s, a_i) < V(s))|

V is the mean of min_k Q_k under the implicit policy. The argmax is greedier than that.

    symbol      name in code          shape
    eps_mu      behavior              network of the reverse chain [B, A]
    Q_k, V      critic, value         [2, B], [B]
    N           config.candidates     count; the more, the further from the behaviour
    tau         config.expectile      scalar in (0, 1)

Phases: `train` only. Acting uses the target networks of the diffusion model and the critics.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither paper
nor code has:
 1. The network has no dropout; the paper drops out a tenth of the residual blocks' inputs (ours).
 2. Each reverse step is clipped to the box with its noise, not only the clean action it implies
    (code).
 3. AdamW's weight decay of 1e-4 for the diffusion model (code).
 4. The critics' loss is the sum over the two, of which the code takes the mean; the cloning loss is
    the mean over action dimensions, of which it takes the sum. To Adam both are the same.
 5. All rows are trained on; the authors hold out a twentieth of them, and clip recorded actions to
    1e-5 inside their bounds.
 6. Of the paper's three losses of V there is the expectile's.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import ddpm, schedules, values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Array, Box, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import critics, iql
from jaxrl_prefs.values.iql import Iql


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for locomotion."""

    expectile: float = 0.7  # the expectile of Q that V estimates, in (0, 1)
    candidates: int = 64  # N, actions sampled per decision; 1 acts as the behaviour
    diffusion_steps: int = 5  # reverse steps from noise to action
    schedule: Literal["vp", "linear", "cosine"] = "vp"  # of the noise
    behavior_width: int = 256  # of the diffusion model's residual blocks
    behavior_blocks: int = 3  # residual blocks of the diffusion model
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers of Q and V
    behavior_learning_rate: float = 3e-4  # Adam's rate for the diffusion model
    behavior_decays: bool = True  # cosine decay of that rate to 0 over train_steps
    weight_decay: float = 1e-4  # of the diffusion model, per unit of its rate (code)
    critic_learning_rate: float = 3e-4  # Adam's rate for Q and V
    tau: float = 0.005  # rate of the critics' target network
    behavior_tau: float = 0.001  # rate of the diffusion model's target network
    batch_size: int = 512  # rows per update
    train_steps: int = 3_000_000  # updates of all networks


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # the diffusion model, with its target network
    critic: Trainable  # twin Q, leaves [2, ...], with its target network
    value: Trainable


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    iql: Iql
    behavior: DiffusionPolicy
    box: Box
    behavior_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    value = nets.scalar_mlp(config.critic_hidden, activation="relu", initialiser="glorot")
    box, size = spec.action_box, spec.action_dim
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
        behavior=DiffusionPolicy(
            net=nets.stepped_residual_mlp(config.behavior_width, config.behavior_blocks, size),
            schedule=schedules.SCHEDULES[config.schedule](config.diffusion_steps),
            step=ddpm.clipped(ddpm.ancestral(), box),
            action_dim=size,
        ),
        box=box,
        behavior_optimizer=learner.optimizer(
            config.behavior_learning_rate,
            decay_steps=config.train_steps if config.behavior_decays else 0,
            weight_decay=config.weight_decay,
        ),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    behavior_key, iql_key = jax.random.split(key)
    behavior = parts.behavior.init(behavior_key, batch.observation)
    critic, value = iql.init(iql_key, batch, iql=parts.iql)
    return State(learner.init(behavior, parts.behavior_optimizer, target=True), critic, value)


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of the diffusion model; one of V, then one of the critics; then of the targets."""
    del step

    def cloning(params: Params) -> tuple[Array, Metrics]:
        error = parts.behavior.bc_loss(params, batch.observation, batch.action, key)
        return error, learner.measured(behavior_loss=error)

    behavior, metrics = learner.gradient_step(state.behavior, parts.behavior_optimizer, cloning)
    behavior = learner.polyak(behavior, parts.config.behavior_tau)
    critic, value, _, more = iql.update(state.critic, state.value, batch, iql=parts.iql)
    return State(behavior, critic, value), metrics | more


# ------------------------------------------------------------------------ acting, measuring


def judged_samples(
    state: State, observation: Array, key: Key, *, parts: Parts
) -> tuple[Array, Array]:
    """`candidates` samples of the behaviour, [B, N, A], and their min_k Q_k, [B, N]."""
    count = parts.config.candidates
    actions = parts.behavior.sample(state.behavior.target, observation, key, count)
    return actions, parts.iql.critic.apply(state.critic.target, observation[:, None], actions).min(
        0
    )


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The sample with the highest min_k Q_k, of `candidates`."""
    if parts.config.candidates == 1:
        return act_behavior(state, observation, key, parts=parts)
    return candidates.best(*judged_samples(state, observation, key, parts=parts))


def act_implicit(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A sample of the implicit policy: one of `candidates`, drawn by the weights w_i."""
    sample_key, choice_key = jax.random.split(key)
    actions, q = judged_samples(state, observation, sample_key, parts=parts)
    value = parts.iql.value.apply(state.value.params, observation)
    weight = values.implicit_weight(q - value[:, None], parts.config.expectile)
    return candidates.resampled(actions, jnp.log(weight), choice_key)


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the diffusion model."""
    return parts.behavior.sample(state.behavior.target, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the advantage.

    If Q is far higher for the policy's actions than for the data's, the best of the candidates is
    chosen by errors of the critics: fewer candidates help.
    """
    act_key, uniform_key = jax.random.split(key)
    uniform = uniform_in(parts.box, uniform_key, batch.action.shape, batch.action.dtype)
    policy = act(state, batch.observation, act_key, parts=parts)
    params = state.critic.params
    metrics = critics.q_diagnostics(parts.iql.critic, params, batch, policy, uniform)
    q = parts.iql.critic.apply(state.critic.target, batch.observation, batch.action).min(0)
    advantage = q - parts.iql.value.apply(state.value.params, batch.observation)
    return metrics | learner.measured(advantage=advantage)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds IDQL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    counts = "batch_size", "diffusion_steps", "candidates", "behavior_width", "behavior_blocks"
    validation.require_positive(config, *counts)
    validation.require_nonnegative(config, "train_steps", "weight_decay")
    validation.require_fraction(config, "expectile")
    parts = build(config, spec)
    count = config.candidates
    rule = candidates.rule("min Q", count)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), count, rule),
            "implicit": Policy(partial(act_implicit, parts=parts), count, "by the weights w"),
            "behavior": Policy(partial(act_behavior, parts=parts), 1, "single sample"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
