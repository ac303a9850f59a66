"""Diffusion-QL: a diffusion policy that clones the data and maximises Q through its whole chain.

Wang, Hunt and Zhou, ICLR 2023, arXiv 2208.06193; equation numbers are the paper's.

    L_d(pi)  = mean |eps_pi(a^n, s, n) - eps|^2,  a^n = sqrt(abar_n) a + sqrt(1 - abar_n) eps    (2)
    L_q(pi)  = -mean Q_i(s, a^0) / mean |Q_j(s, a^0)|,  a^0 the end of pi's chain, i != j        (3)
    pi      <- minimise  L_d + eta L_q
    Q_k     <- r + discount * min_j Q_j(s', a'^0),  a'^0 by the moving average of pi             (4)
    act:       one of K samples of pi, with probability softmax over them of min_k Q_k / temperature

    symbol      name in code            shape
    eps_pi      policy (diffusion)      [B, A], the network of the reverse chain
    a^n         x                       [B, A], n = 1..N; the schedules write T for N
    Q_k         critic                  [2, B]
    eta         config.eta              scalar; weight of Q in units of its own size
    K           config.candidates       count

With `max_backup`, Q_j in (4) is its largest value over ten samples a'^0.

Phases: `train` only. Each update makes a step of the critics, then one of the policy on the new
critics.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither paper
nor code has:
 1. i and j in (3) are swapped at random in each update (code).
 2. The chain's noise has the exact posterior variance (code; the paper writes beta_n). The clean
    action is clipped to the box at each step, without a gradient where the clip acts (code).
 3. The moving average of the policy starts after `average_start` updates and moves at every
    `average_interval`-th (code). Acting uses the policy itself, with the critics' target network
    (code).
 4. The network and its initial parameters are those of BDPO: a step's feature has 64 entries in
    place of 16, kernels are orthogonal (ours).
 5. The learning rates are constant. The code has an option for a cosine that advances once per
    evaluation.
 6. The published runs choose one of their checkpoints, by the returns or by L_d. A run here ends
    with its last update.
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
from jaxrl_prefs.ops import ddpm, schedules
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Array, Box, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

BACKUP_SAMPLES = 10  # a'^0 per next state with `max_backup`


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for locomotion; it chooses `clip_norm` for every dataset."""

    eta: float = 1.0  # weight of Q, relative to its mean size
    max_backup: bool = False  # target by the best of ten next actions (antmaze)
    diffusion_steps: int = 5  # N, reverse steps from noise to action
    schedule: Literal["vp", "linear", "cosine"] = "vp"  # of the noise
    actor_hidden: tuple[int, ...] = (256, 256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of each critic's hidden layers
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    clip_norm: float = 1.0  # largest global norm of each gradient; 0 does not clip
    tau: float = 0.005  # rate of the critics' target network and of the policy's moving average
    average_start: int = 1_000  # update of the policy from which its average moves (code)
    average_interval: int = 5  # updates per step of the average (code)
    batch_size: int = 256  # rows per update
    train_steps: int = 2_000_000  # updates of all networks
    # --- acting
    candidates: int = 50  # K, actions sampled per decision
    # 0 takes the candidate of highest min Q, else softmax(min Q / temperature)
    temperature: float = 1.0


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable  # pi, with its moving average as target network
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    policy: DiffusionPolicy
    critic: Net  # (observation, action) -> [2, ...]
    box: Box
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    return Parts(
        config=config,
        policy=DiffusionPolicy(
            net=nets.stepped_mlp(
                config.actor_hidden, spec.action_dim, steps=config.diffusion_steps
            ),
            schedule=schedules.SCHEDULES[config.schedule](config.diffusion_steps),
            step=ddpm.ancestral(spec.action_box, exact_variance=True),
            action_dim=spec.action_dim,
        ),
        critic=nets.ensemble(nets.scalar_mlp(config.critic_hidden), 2),
        box=spec.action_box,
        actor_optimizer=learner.optimizer(config.actor_learning_rate, clip_norm=config.clip_norm),
        critic_optimizer=learner.optimizer(config.critic_learning_rate, clip_norm=config.clip_norm),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    return State(
        actor=learner.init(actor, parts.actor_optimizer, target=True),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
    )


# ---------------------------------------------------------------------------------- losses


def critic_target(state: State, *, parts: Parts, batch: Transition, key: Key) -> Array:
    """r + discount * min_j Q_j(s', a'^0) by the target networks (4): [B], not differentiated."""
    best = parts.config.max_backup
    action = parts.policy.sample(
        state.actor.target, batch.next_observation, key, BACKUP_SAMPLES if best else 1
    )
    return critics.sampled_target(
        parts.critic,
        state.critic.target,
        batch,
        action,
        best=best,
        over_members=lambda q: q.min(0),
    )


def improvement_loss(q: Array, swapped: Array) -> Array:
    """-mean Q_1 / mean |Q_2| of two critics [2, B] (3): a scalar; `swapped` exchanges the two.

    The divisor carries no gradient.
    """
    chex.assert_shape(q, (2, None))
    chex.assert_rank(swapped, 0)
    maximised, divisor = jnp.where(swapped, q[::-1], q)
    size = jax.lax.stop_gradient(jnp.mean(jnp.abs(divisor)))
    return -jnp.mean(maximised) / jnp.maximum(size, jnp.finfo(q.dtype).tiny)


def actor_loss(
    params: Params, *, critic: Params, parts: Parts, batch: Transition, key: Key
) -> tuple[Array, Metrics]:
    """L_d + eta L_q, differentiated through every step of the chain; `critic` is fixed."""
    noise_key, sample_key, swap_key = jax.random.split(key, 3)
    observation = batch.observation
    error = parts.policy.bc_loss(params, observation, batch.action, noise_key)
    action = parts.policy.sample(params, observation, sample_key, 1)[:, 0]
    q = nets.with_action_gradient(parts.critic, critic, observation, action)
    loss = error + parts.config.eta * improvement_loss(q, jax.random.bernoulli(swap_key))
    return loss, learner.measured(actor_loss=loss, bc_error=error, q_policy=q)


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of the critics, then one of the policy on the new critics, then of both averages."""
    config = parts.config
    critic_key, actor_key = jax.random.split(key)
    target = critic_target(state, parts=parts, batch=batch, key=critic_key)
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, target
    )
    loss = partial(actor_loss, critic=critic.params, parts=parts, batch=batch, key=actor_key)
    actor, more = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    actor = learner.polyak_every(
        actor, config.tau, step, interval=config.average_interval, start=config.average_start
    )
    metrics |= more | learner.measured(critic_target=target)
    return State(actor, learner.polyak(critic, config.tau)), metrics


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """One of `candidates` samples, drawn by the smaller of the target critics' values."""
    config = parts.config
    sample_key, choice_key = jax.random.split(key)
    actions = parts.policy.sample(state.actor.params, observation, sample_key, config.candidates)
    if config.candidates == 1:
        return actions[:, 0]
    q = parts.critic.apply(state.critic.target, observation[:, None], actions).min(0)
    return candidates.chosen(actions, q, choice_key, config.temperature)


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the policy."""
    return parts.policy.sample(state.actor.params, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the cloning loss.

    A cloning loss that keeps growing means that the policy has left the data: eta is too large.
    """
    sample_key, uniform_key, noise_key = jax.random.split(key, 3)
    policy = act_sample(state, batch.observation, sample_key, parts=parts)
    uniform = uniform_in(parts.box, uniform_key, batch.action.shape, batch.action.dtype)
    params = state.critic.params
    metrics = critics.q_diagnostics(parts.critic, params, batch, policy, uniform)
    error = parts.policy.bc_loss(state.actor.params, batch.observation, batch.action, noise_key)
    return metrics | learner.measured(bc_error=error)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds Diffusion-QL to a config and the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    counts = "batch_size", "diffusion_steps", "candidates", "average_interval"
    validation.require_positive(config, *counts)
    validation.require_nonnegative(config, "eta", "temperature", "average_start", "train_steps")
    parts = build(config, spec)
    rule = candidates.rule("min Q", config.candidates, config.temperature)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase("train", config.train_steps, partial(update, parts=parts), config.batch_size),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), config.candidates, rule),
            "sample": Policy(partial(act_sample, parts=parts), 1, "single sample"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
