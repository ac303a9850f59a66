"""DAC: diffusion actor-critic, whose policy is trained by noise regression with guidance by Q.

Fang, Liu, Zhang, Wang and Jing 2024, arXiv 2405.20555.

    pi   <- minimise  eta mean |eps_pi(a^n, s, n) - eps|^2 + mean sigma_n g . eps_pi(a^n, s, n)
            g = grad_x mean_k Q_k(s, x) at x = a^n,  divided by  mean |Q_k(s, a)|
    eta  <- eta + rate (mean |eps_pi - eps|^2 - threshold)
    Q_k  <- r + discount * LCB_j mean_M Q_j(s', a'),   LCB = mean - rho * standard deviation
    act:    argmax  mean_k Q_k(s, a_i)  over K samples a_i of pi

The first line is, up to a constant, eta times a regression of eps_pi on eps - sigma_n g / (2 eta):
the noise is replaced by one that points uphill. No gradient passes through the chain. Squares and
products are means over batch and action dimensions, |Q_k(s, a)| over batch and critics.

    symbol      name in code            shape
    eps_pi      policy (diffusion)      [B, A], the network of the reverse chain
    a^n         x                       [B, A] = sqrt(abar_n) a + sigma_n eps, n = 1..N
    sigma_n     sqrt(1 - abar_n)        [B]
    Q_k         critic                  [E, B], the target network in g and in the target of Q
    a'          a'^0                    [B, M, A], samples of the moving average of pi
    eta         State.eta               scalar; weight of cloning in units of Q's size

With `max_backup` the target has the best of the M actions in place of their mean.

Phases: `train` only. Each update makes a step of the critics and their target network, then one of
the policy, then one of eta.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither paper
nor code has:
 1. eta's step is clipped to `eta_rate`, eta to [0.001, 100], and the cloning error is that of the
    policy after its step, on the same draws (code).
 2. The moving average of the policy starts after `average_start` updates and moves at every
    `average_interval`-th (code). Acting uses the policy itself (code).
 3. The chain's noise has variance beta_n, and the clean action is clipped to the box at each step
    (code).
 4. `normalize_q = False` does not divide by the size of Q, as in other authors' runs on OGBench.
 5. The network and its initial parameters are those of BDPO: a step's feature has 64 entries in
    place of 16 (ours).
 6. Rows are drawn with replacement; the authors go through the data in shuffled passes (ours).
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
from jaxrl_prefs.ops import ddpm, schedules, values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.types import Array, Box, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

ETA_RANGE = 0.001, 100.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for locomotion; it chooses rho and the threshold for some tasks."""

    eta: float = 1.0  # weight of cloning, in units of Q's mean size; where eta_rate > 0, its start
    eta_rate: float = 0.001  # rate of eta's dual ascent; 0 keeps eta
    bc_threshold: float = 1.0  # cloning error that the dual ascent aims at; 1 is that of eps_pi = 0
    normalize_q: bool = True  # divide Q's gradient by the mean size of Q
    rho: float = 1.0  # pessimism of the ensemble's lower confidence bound
    max_backup: bool = False  # target by the best of the M next actions (antmaze)
    q_samples: int = 10  # M, actions per next state in the target
    diffusion_steps: int = 5  # N, reverse steps from noise to action
    schedule: Literal["vp", "linear", "cosine"] = "vp"  # of the noise
    actor_hidden: tuple[int, ...] = (256, 256, 256)  # widths of the policy's hidden layers
    critic_ensemble_size: int = 10  # E, members of Q
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers of Q
    critic_layer_norm: bool = False  # layer normalisation in Q
    activation: Literal["mish", "gelu"] = "mish"  # of hidden layers; gelu on OGBench (QAM, RQL)
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    critic_learning_rate: float = 3e-4  # Adam's rate for Q
    decays: bool = True  # cosine decay of both rates to 0 over train_steps
    clip_norm: float = 1.0  # largest global norm of each gradient; 0 does not clip
    tau: float = 0.005  # rate of the critics' target network and of the policy's moving average
    average_start: int = 1_000  # update of the policy from which its average moves (code)
    average_interval: int = 5  # updates per step of the average (code)
    batch_size: int = 256  # rows per update
    train_steps: int = 2_000_000  # updates of all networks
    # --- acting
    candidates: int = 10  # K, actions sampled per decision
    # 0 takes the candidate of highest mean Q, else softmax(mean Q / temperature)
    temperature: float = 0.0


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable  # pi, with its moving average as target network
    critic: Trainable  # Q ensemble, leaves [E, ...], with target networks
    eta: Array  # scalar, weight of cloning


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    policy: DiffusionPolicy
    critic: Net  # (observation, action) -> [E, ...]
    box: Box
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    member = nets.scalar_mlp(
        config.critic_hidden, activation=config.activation, layer_norm=config.critic_layer_norm
    )
    optimizer = partial(
        learner.optimizer,
        decay_steps=config.train_steps if config.decays else 0,
        clip_norm=config.clip_norm,
    )
    return Parts(
        config=config,
        policy=DiffusionPolicy(
            net=nets.stepped_mlp(
                config.actor_hidden,
                spec.action_dim,
                steps=config.diffusion_steps,
                activation=config.activation,
            ),
            schedule=schedules.SCHEDULES[config.schedule](config.diffusion_steps),
            step=ddpm.ancestral(spec.action_box),
            action_dim=spec.action_dim,
        ),
        critic=nets.ensemble(member, config.critic_ensemble_size),
        box=spec.action_box,
        actor_optimizer=optimizer(config.actor_learning_rate),
        critic_optimizer=optimizer(config.critic_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    return State(
        actor=learner.init(actor, parts.actor_optimizer, target=True),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
        eta=jnp.asarray(parts.config.eta, jnp.float32),
    )


# ---------------------------------------------------------------------------------- losses


def critic_target(state: State, *, parts: Parts, batch: Transition, key: Key) -> Array:
    """r + discount * LCB_j agg_M Q_j(s', a') by the target networks: [B], not differentiated."""
    config = parts.config
    action = parts.policy.sample(state.actor.target, batch.next_observation, key, config.q_samples)
    return critics.sampled_target(
        parts.critic,
        state.critic.target,
        batch,
        action,
        best=config.max_backup,
        over_members=lambda q: values.lcb(q, config.rho),
    )


def guidance(critic: Params, x: Array, n: Array, *, parts: Parts, batch: Transition) -> Array:
    """sigma_n g at noised actions x [B, A] of levels n [B]: [B, A], not differentiated."""
    chex.assert_equal_shape([x, batch.action])

    def mean_q(x: Array) -> Array:
        q = nets.with_action_gradient(parts.critic, critic, batch.observation, x)
        return jnp.sum(q.mean(0))

    gradient = jax.grad(mean_q)(x)
    if parts.config.normalize_q:
        q = parts.critic.apply(critic, batch.observation, batch.action)
        gradient = gradient / jnp.maximum(jnp.mean(jnp.abs(q)), jnp.finfo(q.dtype).tiny)
    sigma = jnp.sqrt(1 - ddpm.at(parts.policy.schedule.alpha_bar, n, x))
    return jax.lax.stop_gradient(sigma * gradient)


class Noised(NamedTuple):
    """A noised batch: what the policy's network regresses on."""

    x: Array  # [B, A] a^n
    level: Array  # [B] int, n
    eps: Array  # [B, A], the noise
    guidance: Array  # [B, A], sigma_n g


def cloning_error(
    params: Params, noised: Noised, *, parts: Parts, batch: Transition
) -> tuple[Array, Array]:
    """mean |eps_pi - eps|^2, a scalar, and eps_pi, [B, A]."""
    predicted = parts.policy.net.apply(params, noised.x, batch.observation, noised.level)
    chex.assert_equal_shape([predicted, noised.eps, batch.action])
    return jnp.mean(jnp.square(predicted - noised.eps)), predicted


def actor_loss(
    params: Params, noised: Noised, *, eta: Array, parts: Parts, batch: Transition
) -> tuple[Array, Metrics]:
    """eta mean |eps_pi - eps|^2 + mean sigma_n g . eps_pi."""
    error, predicted = cloning_error(params, noised, parts=parts, batch=batch)
    loss = eta * error + jnp.mean(noised.guidance * predicted)
    return loss, learner.measured(actor_loss=loss, bc_error=error, eta=eta)


def dual_ascent(eta: Array, error: Array, config: Config) -> Array:
    """eta after a step towards a cloning error of `bc_threshold`: a scalar."""
    step = config.eta_rate * jnp.clip(error - config.bc_threshold, -1, 1)
    moved = jnp.clip(eta + step, *ETA_RANGE).astype(eta.dtype)
    return jnp.where(jnp.asarray(config.eta_rate) > 0, moved, eta)


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of the critics and their target network, then one of the policy, then one of eta."""
    critic_key, actor_key = jax.random.split(key)
    target = critic_target(state, parts=parts, batch=batch, key=critic_key)
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, target, mean=True
    )
    critic = learner.polyak(critic, parts.config.tau)
    actor, eta, more = update_actor(state, critic.target, batch, actor_key, step, parts=parts)
    metrics |= more | learner.measured(critic_target=target)
    return State(actor, critic, eta), metrics


def update_actor(
    state: State, critic: Params, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[Trainable, Array, Metrics]:
    """One step of the policy and of its average, and one of eta, given the critics."""
    config = parts.config
    x, n, eps = parts.policy.noised(batch.action, key)
    noised = Noised(x, n, eps, guidance(critic, x, n, parts=parts, batch=batch))
    loss = partial(actor_loss, noised=noised, eta=state.eta, parts=parts, batch=batch)
    actor, metrics = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    error, _ = cloning_error(actor.params, noised, parts=parts, batch=batch)
    actor = learner.polyak_every(
        actor, config.tau, step, interval=config.average_interval, start=config.average_start
    )
    return actor, dual_ascent(state.eta, error, config), metrics


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The sample with the highest mean Q of the target critics, of `candidates`."""
    config = parts.config
    sample_key, choice_key = jax.random.split(key)
    actions = parts.policy.sample(state.actor.params, observation, sample_key, config.candidates)
    if config.candidates == 1:
        return actions[:, 0]
    q = parts.critic.apply(state.critic.target, observation[:, None], actions).mean(0)
    return candidates.chosen(actions, q, choice_key, config.temperature)


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the policy."""
    return parts.policy.sample(state.actor.params, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the cloning error.

    A cloning error above 1 means that the policy predicts the noise worse than 0 would: it has
    left the data, because eta is too small or the threshold too large.
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
    """Binds DAC to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    counts = "batch_size", "diffusion_steps", "candidates", "average_interval", "q_samples"
    validation.require_positive(config, *counts, "critic_ensemble_size", "eta")
    validation.require_nonnegative(config, "eta_rate", "bc_threshold", "rho", "temperature")
    validation.require_nonnegative(config, "average_start", "train_steps")
    parts = build(config, spec)
    rule = candidates.rule("mean Q", config.candidates, config.temperature)
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
