"""CQL: conservative Q-learning, CQL(H), on soft actor-critic.

Kumar, Zhou, Tucker and Levine, NeurIPS 2020, arXiv 2006.04779; SAC: Haarnoja et al. 2018,
arXiv 1812.05905.

    y    =  r + discount * min_k Q_k(s', a'),   a' ~ pi(.|s'), by the target network
    Q_k  <- minimise  mean (Q_k(s, a) - y)^2  +  alpha (mean gap_k - tau)
            gap_k  =  log integral exp Q_k(s, .)  -  Q_k(s, a)                  (equation 4)
    pi   -> maximise  mean  min_k Q_k(s, a_pi) - eta log pi(a_pi|s),   a_pi ~ pi(.|s)
    eta  -> such that the entropy of pi is `target_entropy` per dimension on average

The integral is an importance-sampled sum over N uniform actions, N of pi(.|s) and N of pi(.|s').

    symbol      name in code              shape
    pi          actor                     tanh-Gaussian [B, A]
    Q_k         critic                    [2, B]
    alpha       config.conservatism       scalar, times `multiplier` with `lagrange`
    tau         config.target_gap         scalar, in units of Q; 0 without `lagrange`
    eta         exp of state.temperature  scalar, the entropy's weight

With `lagrange`, the multiplier grows while the gap is above tau and falls while it is below.

Phases: `train` only. All networks and scalars step at once, from the parameters before the update.

Deviations and choices; "(code)" marks what only the authors' code has, "(ours)" what neither has:
 1. The log of the integral lacks the division by the 3 N samples (code): it is log(3 N) too large,
    which only `target_gap` notices.
 2. The target has no entropy bonus (code). `max_backup` takes the best of N actions of pi(.|s') by
    the smaller critic, as JaxCQL does; the authors take each critic's best and then the smaller.
 3. The log standard deviation is clipped to [-5, 2]; the last layer starts at a hundredth of its
    usual size, so that the policy starts at the middle of the box (ours).
 4. No phase of behaviour cloning precedes; the authors clone for the first 40,000 updates.
 5. Acting is by the policy's mean (code); samples are evaluated beside it.
 6. `lagrange` is JaxCQL's: the multiplier starts at e and holds the gap at `target_gap`. The
    authors' starts at 1 and holds alpha times the gap; the presets divide their target by alpha.
 7. All networks and scalars step from the same parameters, as in JaxCQL. The authors' eta and
    policy step first, the critics then.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

LARGEST_MULTIPLIER = 1e6  # of the authors' code


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are those of the authors' code for D4RL locomotion."""

    conservatism: float = 5.0  # alpha, weight of the gap; 0 is SAC
    lagrange: bool = False  # learn a multiplier of alpha that holds the gap at target_gap
    target_gap: float = 5.0  # tau, in units of Q, read only with lagrange
    action_samples: int = 10  # N, actions of each of the three kinds
    max_backup: bool = False  # target by the best of N actions instead of by one
    # entropy of the policy that eta aims at, per action dimension, in nats: log 2 is uniform
    target_entropy: float = -1.0
    actor_hidden: tuple[int, ...] = (256, 256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = False  # layer normalisation in the critics (ours)
    actor_learning_rate: float = 1e-4  # Adam's rate for the policy and for eta
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics and the multiplier
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of all networks


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable
    critic: Trainable  # twin Q, leaves [2, ...], with its target network
    temperature: Trainable  # log eta, a scalar
    multiplier: Trainable | None  # its logarithm, a scalar; with lagrange


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    policy: TanhGaussian
    critic: Net  # (observation, action) -> [2, ...]
    target_entropy: float  # of all action dimensions together
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    net = nets.mlp(
        config.actor_hidden,
        2 * spec.action_dim,
        activation="relu",
        initialiser="lecun",
        last_gain=0.01,
    )
    return Parts(
        config=config,
        policy=TanhGaussian(net, spec.action_box),
        critic=critics.twin(config.critic_hidden, layer_norm=config.critic_layer_norm),
        target_entropy=config.target_entropy * spec.action_dim,
        actor_optimizer=learner.optimizer(config.actor_learning_rate),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    zero = jnp.zeros(())
    return State(
        actor=learner.init(actor, parts.actor_optimizer),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
        temperature=learner.init(zero, parts.actor_optimizer),
        multiplier=learner.init(zero + 1, parts.critic_optimizer)
        if parts.config.lagrange
        else None,
    )


# ----------------------------------------------------------------------------------- draws


class Samples(NamedTuple):
    """Actions of the policy with their log-densities, which carry no gradient."""

    action: Array  # [B, K, A]
    log_density: Array  # [B, K]


class Draws(NamedTuple):
    """Everything random in one update."""

    noise: Array  # [B, 1, A], of the policy's own action
    target: Samples  # at the next states, one or N for the target
    current: Samples  # at the states, N for the integral
    following: Samples  # at the next states, N for the integral
    uniform: Array  # [B, N, A]


def samples(params: Params, observation: Array, key: Key, count: int, *, parts: Parts) -> Samples:
    """Draws `count` actions of the policy for each observation, without gradient."""
    u = parts.policy.sample_pre_tanh(params, observation, key, count)
    density = parts.policy.log_density_pre_tanh(params, observation, u)
    return Samples(*jax.lax.stop_gradient((parts.policy.squash(u), density)))


def draw(state: State, batch: Transition, key: Key, *, parts: Parts) -> Draws:
    """The random numbers of an update, and the actions that the policy makes of them."""
    noise_key, target_key, current_key, next_key, uniform_key = jax.random.split(key, 5)
    config, (size, width), dtype = parts.config, batch.action.shape, batch.action.dtype
    actor, count = state.actor.params, config.action_samples
    after = batch.next_observation
    return Draws(
        noise=jax.random.normal(noise_key, (size, 1, width), dtype),
        target=samples(actor, after, target_key, count if config.max_backup else 1, parts=parts),
        current=samples(actor, batch.observation, current_key, count, parts=parts),
        following=samples(actor, after, next_key, count, parts=parts),
        uniform=uniform_in(parts.policy.box, uniform_key, (size, count, width), dtype),
    )


# ---------------------------------------------------------------------------------- losses


def critic_target(critic: Params, batch: Transition, action: Array, *, parts: Parts) -> Array:
    """r + discount * max_i min_k Q_k(s', a_i) over actions [B, K, A]: [B], not differentiated."""
    chex.assert_rank(action, 3)
    q = parts.critic.apply(critic, batch.next_observation[:, None], action).min(0).max(-1)
    chex.assert_equal_shape([q, batch.reward, batch.discount])
    return jax.lax.stop_gradient(batch.reward + batch.discount * q)


def log_integrals(critic: Params, batch: Transition, draws: Draws, *, parts: Parts) -> Array:
    """log integral exp Q_k(s, .) plus log(3 N), by importance sampling: [2, B]."""
    box = parts.policy.box
    log_uniform = -float(np.sum(np.log(np.asarray(box.high) - np.asarray(box.low))))
    action = jnp.concatenate([draws.uniform, draws.following.action, draws.current.action], 1)
    density = jnp.concatenate(
        [
            jnp.full(draws.uniform.shape[:2], log_uniform, action.dtype),
            draws.following.log_density,
            draws.current.log_density,
        ],
        1,
    )
    chex.assert_equal_shape([density, action[..., 0]])
    q = parts.critic.apply(critic, batch.observation[:, None], action)
    return values.log_integral(q, density[None]) + np.log(density.shape[1])


def critic_loss(
    params: Params,
    *,
    batch: Transition,
    target: Array,
    draws: Draws,
    weight: Array | float,
    parts: Parts,
) -> tuple[Array, tuple[Array, Metrics]]:
    """sum_k mean (Q_k(s, a) - y)^2 + weight * mean gap_k; also the mean gap and the metrics.

    The gaps' mean over both critics is a scalar without gradient.
    """
    q = parts.critic.apply(params, batch.observation, batch.action)
    chex.assert_shape(q, (2, *batch.reward.shape))
    error = jnp.square(q - target[None]).mean(-1)
    gap = (log_integrals(params, batch, draws, parts=parts) - q).mean(-1)
    metrics = learner.measured(critic_loss=error, q=q, conservative_gap=gap, critic_target=target)
    return jnp.sum(error + weight * gap), (jax.lax.stop_gradient(gap.mean()), metrics)


def actor_loss(
    params: Params,
    *,
    critic_params: Params,
    batch: Transition,
    noise: Array,
    temperature: Array,
    parts: Parts,
) -> tuple[Array, tuple[Array, Metrics]]:
    """mean[ eta log pi(a|s) - min_k Q_k(s, a) ] with a by the noise; also mean log pi."""
    mean, std = parts.policy.moments(params, batch.observation)
    u = mean[:, None] + std[:, None] * noise
    density = parts.policy.log_density_pre_tanh(params, batch.observation, u)[:, 0]
    action = parts.policy.squash(u)[:, 0]
    q = nets.with_action_gradient(parts.critic, critic_params, batch.observation, action).min(0)
    chex.assert_equal_shape([q, density, batch.reward])
    loss = jnp.mean(temperature * density - q)
    average = density.mean()
    return loss, (average, learner.measured(actor_loss=loss, entropy=-average))


# --------------------------------------------------------------------------------- updates


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """A step of the policy, the critics and both scalars, each from the state as it was."""
    del step
    return update_with(state, batch, draw(state, batch, key, parts=parts), parts=parts)


def update_with(
    state: State, batch: Transition, draws: Draws, *, parts: Parts
) -> tuple[State, Metrics]:
    """`update` with given random numbers."""
    eta = jnp.exp(state.temperature.params)
    loss = partial(
        actor_loss,
        critic_params=state.critic.params,
        batch=batch,
        noise=draws.noise,
        temperature=eta,
        parts=parts,
    )
    actor, (density, metrics) = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    excess = jax.lax.stop_gradient(density + parts.target_entropy)
    temperature, _ = learner.gradient_step(
        state.temperature, parts.actor_optimizer, lambda log_eta: (-log_eta * excess, None)
    )
    critic, multiplier, more = update_critic(state, batch, draws, parts=parts)
    metrics |= more | learner.measured(entropy_weight=eta)
    return State(actor, critic, temperature, multiplier), metrics


def update_critic(
    state: State, batch: Transition, draws: Draws, *, parts: Parts
) -> tuple[Trainable, Trainable | None, Metrics]:
    """One step of the critics, of their target network, and of the multiplier if there is one."""
    config, multiplier = parts.config, state.multiplier
    target = critic_target(state.critic.target, batch, draws.target.action, parts=parts)
    weight: Array | float = config.conservatism
    if multiplier is not None:
        weight = weight * jnp.clip(jnp.exp(multiplier.params), 0, LARGEST_MULTIPLIER)
    loss = partial(critic_loss, batch=batch, target=target, draws=draws, weight=weight, parts=parts)
    critic, (gap, metrics) = learner.gradient_step(state.critic, parts.critic_optimizer, loss)
    if multiplier is not None:

        def dual(log_multiplier: Array) -> tuple[Array, None]:
            factor = jnp.clip(jnp.exp(log_multiplier), 0, LARGEST_MULTIPLIER)
            return -factor * config.conservatism * (gap - config.target_gap), None

        multiplier, _ = learner.gradient_step(multiplier, parts.critic_optimizer, dual)
    metrics |= learner.measured(gap_weight=jnp.asarray(weight, jnp.float32))
    return learner.polyak(critic, config.tau), multiplier, metrics


# ------------------------------------------------------------------------ acting, measuring


def act_mean(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The squashed mean of the policy."""
    del key
    return parts.policy.act(state.actor.params, observation)


def act_sample(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample."""
    return parts.policy.sample(state.actor.params, observation, key, 1)[:, 0]


def log_density(state: State, observation: Array, action: Array, *, parts: Parts) -> Array:
    """The log-density of a sample."""
    return parts.policy.log_density(state.actor.params, observation, action)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the policy's width.

    Q of policy actions should not lie far above Q of the data's: else raise `conservatism`.
    """
    uniform = uniform_in(parts.policy.box, key, batch.action.shape, batch.action.dtype)
    policy = act_mean(state, batch.observation, key, parts=parts)
    metrics = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    _, std = parts.policy.moments(state.actor.params, batch.observation)
    return metrics | learner.measured(policy_std=std)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds CQL to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size", "action_samples")
    validation.require_nonnegative(config, "conservatism", "train_steps")
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
