"""ARQ: action-restricted Q-learning, with an explicitly cloned behaviour.

Goo, Niekum, "Know your boundaries: the advantage of explicit behavioral cloning in offline RL",
2022, arXiv 2206.00695; equation numbers are the paper's. "Code" is the authors' published code.

A score model of the behaviour is trained first. It samples N candidate actions for every state of
the data, once, and gives the behaviour's log-density there. Q then backs up only over candidates
inside the support, so that no penalty is needed.

    L(psi)   = E sum_d ( f_psi(y_t, s, t) + z )^2,  score = f / std(t)      denoising score matching
    Q(s, a) <- r + discount * Kth_{a' in supp(s')} min_k Q_k(s', a')                            (5)
    pi(a|s)  = softmax over supp(s) of alpha Q(s, a), on samples taken when acting              (6)
    L(phi)   = -E min(exp(alpha A(s, a)), 100) log pi_phi(a | s),  A = Q - mean over supp(s)    AWR

    symbol        name in code                         shape
    f_psi         behavior, model (behavior/score)     parameters [M, ...] of M members
    Q_theta       critic                               [E, B] or [E, B, C]
    pi_phi        policy                               [B, A]
    N             config.candidates                    columns [rows, N, A] and [rows, N]
    C             N, or N + 1 with the recorded one    an axis of shapes only
    K, log eps    config.kth, threshold_of             numbers; K is a rank, never an axis
    alpha         config.alpha, .actor_alpha          per unit of the transformed reward

Phases: `behavior` (score matching) -> `threshold` (only with `threshold_quantile`) -> `candidates`
(one pass over the data that fills the columns) -> `critic` -> `policy` (AWR). Phases that
`policies` and `q_target` do not need are left out: `policies=behavior` trains only the score model;
`q_target=sarsa` is the ablation Q^beta (with `critic_ensemble_size=1`,
`critic_learning_rate=1e-4`).

Deviations and choices (where paper and code differ, the comment on the field says which is
followed):
 1. The recorded action is a candidate too and is always kept (code; the paper has the N samples).
    It counts in the ranking of which the K-th value is backed up.
 2. The backup is never below Q of the recorded next action (code; not in equation 5). If `floor`
    is off and fewer than K candidates are kept, the smallest kept value is backed up: ours.
 3. The threshold is on the density of standardised actions (code; the paper does not say).
 4. Langevin steps use each sample's own norms (code). In few dimensions that is biased even for the
    exact score; `norms=batch` is not.
 5. The log-density has the exact trace (code: ten random signs, `trace=hutchinson`) and, if
    `density=adaptive`, its own step size for each sample (code: one for 3,000 samples together).
 6. `sampler=few_step` (24 evaluations instead of 1,000) and `density=fixed` are ours.
 7. The members of an ensemble take consecutive shares of one shuffled stream of all data (code: a
    stream for each; paper: different random samples). All networks have the same random Fourier
    features of time (code: each its own).
 8. Rows cut short by a time limit are left out of Q's loss but not of the other losses (code: they
    are dropped from the data).
 9. Candidates and their log-densities are stored in float16. A sample that is not finite has
    log-density minus infinity (code: its batch is sampled again).
10. If all samples of the implicit policy are rejected, it takes the one of highest density: ours.
11. Q^beta is trained with the paper's batch size, 512 (code: 100).
12. The explicit policy's rate may decay (`actor_decays`): ours, for short runs, whose last iterate
    is otherwise noisy.
13. The critics may have layer normalisation (`critic_layer_norm`): ours. On small data it decides
    whether Q's differences between candidates are meaningful (docs/methods/arq.md).
14. `share_behavior` trains one score model and samples one candidate set for all seeds: ours. The
    interval over seeds then does not include the variation between behaviour models.
15. `threshold_quantile` sets the threshold to a quantile of the log-densities of recorded actions:
    ours. A fixed one keeps everything on narrow data and nothing on broad data in many dimensions
    (behavior/support_threshold.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.behavior import score, support_threshold
from jaxrl_prefs.behavior.score import Solver
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy, epoch, sequential, uniform
from jaxrl_prefs.ops import gaussian, likelihood, samplers, support
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, squashed, uniform_in
from jaxrl_prefs.ops.values import advantage_weight
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

POLICIES: tuple[Literal["explicit", "implicit", "behavior"], ...]
POLICIES = ("explicit", "implicit", "behavior")
BATCH_SAMPLERS = {"epoch": epoch, "uniform": uniform}
STORED = np.dtype(np.float16)
LARGEST_STORED = 6e4  # below float16's largest number
SAMPLED_ROWS = 256  # about as many samples are drawn in a diagnosis

AT_LEAST_ONE = (
    *("behavior_ensemble_size", "behavior_blocks", "behavior_width", "behavior_batch_size"),
    *("candidates", "candidate_batch_size", "sampler_steps", "hutchinson_probes", "threshold_rows"),
    *("kth", "critic_ensemble_size", "batch_size"),
)
NONNEGATIVE = ("pretrain_steps", "train_steps", "actor_steps", "alpha", "actor_alpha", "snr")


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for D4RL locomotion (tables A.1 to A.3)."""

    # policies that are trained and evaluated; the first is the headline
    policies: tuple[Literal["explicit", "implicit", "behavior"], ...] = POLICIES
    # --- behaviour
    behavior_width: int = 256  # of the score network's hidden layers
    behavior_blocks: int = 3  # residual blocks of the score network
    behavior_ensemble_size: int = 1  # M, members whose mean is the score
    behavior_learning_rate: float = 1e-4  # Adam's rate for the score network
    behavior_batch_size: int = 512  # rows per update and member
    behavior_tau: float = 0.001  # Polyak rate of the score's target network, which samples
    pretrain_steps: int = 1_000_000  # updates of the score network
    share_behavior: bool = False  # one score model and candidate set for all seeds (ours)
    # --- candidates
    candidates: int = 30  # N for each state, and for each decision of the implicit policy
    candidate_batch_size: int = 16  # states per step of the candidate phase; more on an accelerator
    # how actions are sampled from the score model
    sampler: Literal["predictor_corrector", "predictor", "few_step", "flow"] = "predictor_corrector"
    sampler_steps: int = 500  # of the sampler: 24 for "few_step"; "flow" chooses its own
    snr: float = 0.16  # signal-to-noise ratio of the corrector
    # norms of score and noise in the corrector: each sample's own, or the batch's mean
    norms: Literal["sample", "batch"] = "sample"
    density: Literal["adaptive", "fixed"] = "adaptive"  # steps of the log-density's solver
    density_nodes: int = 32  # score evaluations of the "fixed" density
    tolerance: float = 1e-5  # relative and absolute, of the adaptive density and the flow sampler
    trace: Literal["exact", "hutchinson"] = "exact"  # of the score's Jacobian, in the log-density
    hutchinson_probes: int = 10  # random signs of the "hutchinson" trace
    threshold: float = -5.0  # candidates of higher log-density (standardised actions) are kept
    # the threshold is this quantile of the recorded actions' log-density; 0: `threshold` (ours)
    threshold_quantile: float = 0.0
    threshold_rows: int = 4096  # rows of the data that the quantile is taken over, at most
    # --- values
    q_target: Literal["arq", "sarsa"] = "arq"  # backup over candidates, or the data's next action
    kth: int = 9  # K, the rank of the value that is backed up; 1 is the maximum
    data_candidate: bool = True  # the recorded next action is a candidate, always kept (code)
    min_first: bool = True  # minimum over the critics for each candidate, then the K-th (code)
    floor: bool = True  # never below the recorded next action's value (code)
    critic_ensemble_size: int = 2  # independent critics
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = False  # layer normalisation in the critics (ours)
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 512  # rows per update of critics and policy
    train_steps: int = 1_000_000  # updates of the critics
    # --- policies
    alpha: float = 1.0  # of the implicit policy; 0 is the behaviour inside its support
    # evaluate the implicit policy only after the last update, because it samples at every step
    implicit_last: bool = True
    actor_alpha: float = 1.0  # of the explicit policy; 0 is behaviour cloning
    max_weight: float = 100.0  # largest weight exp(alpha A) of an action (code)
    # class of the explicit policy; "residual" is deterministic too
    policy: Literal["stochastic", "deterministic", "residual"] = "stochastic"
    actor_hidden: tuple[int, ...] = (256, 256)  # hidden layers; of "residual", an entry per block
    actor_learning_rate: float = 3e-4  # Adam's rate for the explicit policy
    actor_decays: bool = False  # cosine decay of that rate to 0 over actor_steps (ours)
    actor_steps: int = 1_000_000  # updates of the explicit policy
    # how rows are chosen: by shuffled passes over the data, or uniformly with replacement
    batches: Literal["epoch", "uniform"] = "epoch"


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # f_psi [M, ...], with its target network
    critic: Trainable | None  # Q [E, ...], with its target network; None without Q
    policy: Trainable | None  # pi_phi; None without an explicit policy
    # log eps with `threshold_quantile`, `UNMEASURED` before its phase; None without
    threshold: Array | None = None


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    spec: Spec
    model: score.Model
    sampler: Solver
    density: Solver
    critic: Net  # (observation, action) -> [E, ...]
    policy: Net  # observation -> [B, A], before any bound
    behavior_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    policy_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes networks, solvers and optimisers. Raises ValueError for a bad config."""
    validation.require_choices(config)
    net = nets.score_net(config.behavior_width, config.behavior_blocks, spec.action_dim)
    critic = nets.scalar_mlp(
        config.critic_hidden,
        activation="relu",
        layer_norm=config.critic_layer_norm,
        initialiser="glorot",
    )
    return Parts(
        config=config,
        spec=spec,
        model=score.model(net, config.behavior_ensemble_size, spec),
        sampler=_sampler(config),
        density=_density(config, spec),
        critic=nets.ensemble(critic, config.critic_ensemble_size),
        policy=_policy_net(config, spec),
        behavior_optimizer=learner.optimizer(config.behavior_learning_rate),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        policy_optimizer=learner.optimizer(
            config.actor_learning_rate,
            decay_steps=config.actor_steps if config.actor_decays else 0,
        ),
    )


def _sampler(config: Config) -> Solver:
    if config.sampler == "few_step":
        return Solver(
            lambda s, y, noise: samplers.few_step(s, y, steps=config.sampler_steps), False
        )
    if config.sampler == "flow":
        return Solver(lambda s, y, noise: samplers.flow(s, y, tolerance=config.tolerance), True)
    corrector = samplers.langevin(snr=config.snr, per_sample=config.norms == "sample")
    return Solver(
        partial(
            samplers.predictor_corrector,
            correct=corrector if config.sampler == "predictor_corrector" else None,
            steps=config.sampler_steps,
        ),
        False,
    )


def _density(config: Config, spec: Spec) -> Solver:
    divergence: likelihood.Divergence = likelihood.exact
    if config.trace == "hutchinson":
        key = jax.random.key(0)  # the same signs for all, as in the published code
        divergence = likelihood.hutchinson(key, spec.action_dim, config.hutchinson_probes)
    if config.density == "fixed":
        solve = partial(likelihood.log_density, divergence=divergence, nodes=config.density_nodes)
        return Solver(lambda s, y, noise: solve(s, y), False)
    steps = partial(
        likelihood.adaptive_log_density, divergence=divergence, tolerance=config.tolerance
    )
    return Solver(lambda s, y, noise: steps(s, y), True)


def _policy_net(config: Config, spec: Spec) -> Net:
    hidden = config.actor_hidden
    if config.policy != "residual":
        return nets.mlp(hidden, spec.action_dim, activation="relu", initialiser="glorot")
    if len(set(hidden)) != 1:
        raise ValueError(f"actor_hidden of a residual policy must be equal widths, not {hidden}")
    return nets.residual_mlp(hidden[0], len(hidden), spec.action_dim)


# ------------------------------------------------------------------------------ candidates


def candidates(
    behavior: Params,
    observation: Array,
    row_keys: Key,
    *,
    parts: Parts,
    clip: bool,
    count: int | None = None,
) -> tuple[Array, Array]:
    """N actions for each observation [B, O] and their log-densities: [B, N, A], [B, N].

    With `clip`, actions are clipped to the box and have the log-density of the clipped action. A
    sample that is not finite becomes the mean action, with log-density minus infinity. N is
    `count`, or the config's.
    """
    model, count = parts.model, count or parts.config.candidates
    y = score.sample(model, behavior, observation, row_keys, count, parts.sampler)
    finite = jnp.isfinite(y).all(-1)
    y = jnp.where(finite[..., None], y, 0)
    action = model.action.invert(y)
    if clip:
        action = clip_to_box(action, parts.spec.action_box)
        y = model.action.apply(action)
    density = score.log_density(model, behavior, observation, y, parts.density)
    return action, jnp.where(finite & ~jnp.isnan(density), density, -jnp.inf)


def keys_of_rows(key: Key, index: Array) -> Key:
    """A key for each row [B], which does not depend on the batch that the row is in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fill_candidates(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics, dict[str, Array]]:
    """Samples the candidates of some rows; the state does not change."""
    del step
    action, density = candidates(
        state.behavior.target,
        batch.observation,
        keys_of_rows(key, batch.index),
        parts=parts,
        clip=False,
    )
    low, high = (expand_rank(bound, 3) for bound in parts.spec.action_box)
    finite = jnp.isfinite(density)
    metrics = learner.measured(
        kept=jnp.float32(density > threshold_of(state, parts)),
        outside=jnp.float32(jnp.any((action < low) | (action > high), -1)),
        unsolved=1 - jnp.float32(finite),
    )
    metrics["log_density"] = (jnp.sum(jnp.where(finite, density, 0)), jnp.sum(jnp.float32(finite)))
    limited = jnp.clip(action, -LARGEST_STORED, LARGEST_STORED)
    return state, metrics, {"candidates": limited.astype(STORED), "log_density": stored(density)}


def stored(density: Array) -> Array:
    """Log-densities in float16; below its range they are minus infinity."""
    return jnp.where(density < -LARGEST_STORED, -jnp.inf, density).astype(STORED)


def threshold_of(state: State, parts: Parts) -> float | Array:
    """log eps: the config's, or the quantile that was measured."""
    return parts.config.threshold if state.threshold is None else state.threshold


def update_threshold(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """Sets the threshold to the quantile of the log-densities of the batch's recorded actions."""
    del key, step
    config, model = parts.config, parts.model
    behavior = state.behavior.target
    density = support_threshold.in_blocks(
        lambda s, y: score.log_density(model, behavior, s, y[:, None], parts.density)[:, 0],
        batch.observation,
        model.action.apply(batch.action),
        config.candidate_batch_size * config.candidates,  # as many as the next phase has at once
    )
    found = support_threshold.quantile(density, config.threshold_quantile)
    # A member of a sweep may have the quantile 0.
    found = jnp.where(config.threshold_quantile > 0, found, config.threshold).astype(jnp.float32)
    return replace(state, threshold=found), learner.measured(threshold=found)


def support_of(
    batch: Transition,
    parts: Parts,
    *,
    successor: bool,
    data: bool,
    threshold: float | Array | None = None,
) -> tuple[Array, Array]:
    """A row's candidates, or its successor's, and which are kept: [B, C, A], [B, C].

    Kept is what has a log-density above `threshold`, or above the config's. With `data`, the
    recorded action comes first and is always kept.
    """
    threshold = parts.config.threshold if threshold is None else threshold
    prefix, recorded = ("next_", batch.next_action) if successor else ("", batch.action)
    actions = batch.columns[f"{prefix}candidates"].astype(recorded.dtype)
    keep = batch.columns[f"{prefix}log_density"] > threshold
    if not data:
        return actions, keep
    actions = jnp.concatenate([recorded[:, None], actions], 1)
    return actions, jnp.concatenate([jnp.ones_like(keep[:, :1]), keep], 1)


# ---------------------------------------------------------------------------------- losses


def critic_target(
    critic: Params, *, parts: Parts, batch: Transition, threshold: float | Array | None = None
) -> Array:
    """r + discount * (the K-th largest Q of the kept candidates): [B] (5).

    With `floor` that value is at least Q of the recorded next action; with `q_target="sarsa"` it is
    Q of the recorded next action. `threshold` is as in `support_of`.

    Rows without `critics.has_sarsa_target` have no successor in the data; their target is a
    placeholder.
    """
    chex.assert_rank([batch.reward, batch.discount], 1)
    config = parts.config
    recorded = parts.critic.apply(critic, batch.next_observation, batch.next_action)
    value = recorded.min(0)
    if config.q_target == "arq":
        actions, keep = support_of(
            batch, parts, successor=True, data=config.data_candidate, threshold=threshold
        )
        q = parts.critic.apply(critic, batch.next_observation[:, None], actions)
        backup = partial(support.restricted_value, k=config.kth, floor=config.floor)
        if config.min_first:
            value = backup(q.min(0), keep, data=value)
        else:
            value = jax.vmap(lambda q, own: backup(q, keep, data=own))(q, recorded).min(0)
    value = jnp.where(batch.discount > 0, value, 0)
    chex.assert_equal_shape([batch.reward, batch.discount, value])
    return jax.lax.stop_gradient(batch.reward + batch.discount * value)


def advantage(
    critic: Params, *, parts: Parts, batch: Transition, threshold: float | Array | None = None
) -> Array:
    """Q(s, a) minus its mean over the recorded action and the kept candidates, [B] (6).

    By the first critic only (code). `threshold` is as in `support_of`.
    """
    actions, keep = support_of(batch, parts, successor=False, data=True, threshold=threshold)
    q = critics.first_q(parts.critic, critic, batch.observation[:, None], actions)
    return q[:, 0] - support.mean_kept(q, keep)


def policy_loss(params: Params, *, parts: Parts, batch: Transition, weight: Array) -> Array:
    """AWR: weighted log-likelihood, or weighted squared error of a deterministic policy."""
    mean = policy_mean(params, batch.observation, parts=parts)
    chex.assert_rank(batch.action, 2)
    chex.assert_equal_shape([mean, batch.action])
    chex.assert_shape(weight, batch.action.shape[:1])
    if parts.config.policy == "stochastic":
        std = jnp.broadcast_to(gaussian.bounded_std(params["log_std"]), mean.shape)
        return -jnp.mean(weight * gaussian.log_density(batch.action, mean, std))
    return 0.5 * jnp.mean(weight * jnp.mean(jnp.square(mean - batch.action), -1))


def policy_mean(params: Params, observation: Array, *, parts: Parts) -> Array:
    """The explicit policy's mean [B, A]; a stochastic policy has a tanh onto the box."""
    output = parts.policy.apply(params["net"], observation)
    if parts.config.policy == "stochastic":
        return squashed(output, parts.spec.action_box)
    return output


# --------------------------------------------------------------------------------- updates


def update_behavior(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the score model on its loss, and of its target network."""
    del step
    loss = partial(
        score.denoising_loss,
        model=parts.model,
        observation=batch.observation,
        action=batch.action,
        key=key,
    )
    behavior, metrics = learner.gradient_step(state.behavior, parts.behavior_optimizer, loss)
    behavior = learner.polyak(behavior, parts.config.behavior_tau)
    return replace(state, behavior=behavior), metrics


def update_critic(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of all critics towards one target, then one of their target networks."""
    del key, step
    assert state.critic is not None
    target = critic_target(
        state.critic.target, parts=parts, batch=batch, threshold=threshold_of(state, parts)
    )
    known = critics.has_sarsa_target(batch)
    critic, metrics = critics.regress(
        state.critic,
        parts.critic_optimizer,
        parts.critic,
        batch,
        target,
        lambda prediction, target: 0.5 * critics.squared_error(prediction, target, known),
    )
    return replace(state, critic=learner.polyak(critic, parts.config.tau)), metrics


def update_policy(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the explicit policy on recorded actions, weighted by their advantage."""
    del key, step
    assert state.critic is not None and state.policy is not None
    config = parts.config
    each = advantage(
        state.critic.target, parts=parts, batch=batch, threshold=threshold_of(state, parts)
    )
    weight = advantage_weight(each, config.actor_alpha, config.max_weight)

    def loss(params: Params) -> tuple[Array, Metrics]:
        value = policy_loss(params, parts=parts, batch=batch, weight=weight)
        return value, learner.measured(policy_loss=value, advantage=each, weight=weight)

    policy, metrics = learner.gradient_step(state.policy, parts.policy_optimizer, loss)
    return replace(state, policy=policy), metrics


# ------------------------------------------------------------------------ acting, measuring


def act_implicit(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """Samples candidates, clips them, and chooses by softmax of alpha Q inside the support (6).

    Q is the first critic's target network (code).
    """
    assert state.critic is not None
    sample_key, choice_key = jax.random.split(key)
    keys = keys_of_rows(sample_key, jnp.arange(len(observation)))
    actions, density = candidates(state.behavior.target, observation, keys, parts=parts, clip=True)
    q = critics.first_q(parts.critic, state.critic.target, observation[:, None], actions)
    logits = support.choice_logits(q, density, threshold_of(state, parts), parts.config.alpha)
    index = jax.random.categorical(choice_key, logits)
    return jnp.take_along_axis(actions, index[:, None, None], 1)[:, 0]


def act_explicit(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The mean action of the explicit policy, clipped to the box."""
    del key
    assert state.policy is not None
    mean = policy_mean(state.policy.params, observation, parts=parts)
    return clip_to_box(mean, parts.spec.action_box)


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the score model, clipped to the box."""
    keys = keys_of_rows(key, jnp.arange(len(observation)))
    y = score.sample(parts.model, state.behavior.target, observation, keys, 1, parts.sampler)
    y = jnp.where(jnp.isfinite(y).all(-1, keepdims=True), y, 0)
    action = parts.model.action.invert(y[:, 0])
    return clip_to_box(action, parts.spec.action_box)


def behavior_log_density(state: State, observation: Array, action: Array, *, parts: Parts) -> Array:
    """The score model's log-density of an action, before samples are clipped."""
    y = parts.model.action.apply(action)[:, None]
    density = score.log_density(parts.model, state.behavior.target, observation, y, parts.density)
    return density[:, 0] + parts.model.action.log_volume


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """The score model's loss; Q on the data's and on uniform actions, and the critics' spread.

    Q may be far higher for uniform actions than for data actions without harm: no backup uses it.
    `candidates_kept` is the share of the behaviour's samples that the threshold keeps.
    """
    score_key, uniform_key = jax.random.split(key)
    usable_rows = (  # as many for every member of the score model
        len(batch.reward)
        // parts.config.behavior_ensemble_size
        * parts.config.behavior_ensemble_size
    )
    _, metrics = score.denoising_loss(
        state.behavior.target,
        model=parts.model,
        observation=batch.observation[:usable_rows],
        action=batch.action[:usable_rows],
        key=score_key,
    )
    if state.critic is None:
        return metrics
    box, policy = parts.spec.action_box, batch.action
    uniform = uniform_in(box, uniform_key, batch.action.shape, batch.action.dtype)
    if state.policy is not None:
        policy = policy_mean(state.policy.params, batch.observation, parts=parts)
        policy = clip_to_box(policy, box)
    q = critics.q_diagnostics(parts.critic, state.critic.target, batch, policy, uniform)
    return metrics | q | _kept(state, batch, jax.random.fold_in(key, 2), parts)


def _kept(state: State, batch: Transition, key: Key, parts: Parts) -> Metrics:
    """The share of samples above the threshold, one sample for each of a few rows.

    Not measured before the threshold is.
    """
    few = slice(None, None, max(1, len(batch.reward) // SAMPLED_ROWS))
    observation, threshold = batch.observation[few], jnp.float32(threshold_of(state, parts))
    keys = keys_of_rows(key, batch.index[few])
    behavior = state.behavior.target
    _, density = candidates(behavior, observation, keys, parts=parts, clip=False, count=1)
    known = jnp.float32(threshold > support_threshold.UNMEASURED)
    return {"candidates_kept": (known * jnp.mean(jnp.float32(density > threshold)), known)}


# ------------------------------------------------------------------------------------ make


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    behavior_key, critic_key, policy_key = jax.random.split(key, 3)
    observation, action = batch.observation, batch.action
    behavior = score.init(parts.model, behavior_key, observation, action)
    critic = policy = None
    if needs_critic(parts.config):
        params = parts.critic.init(critic_key, observation, action)
        critic = learner.init(params, parts.critic_optimizer, target=True)
    if "explicit" in parts.config.policies:
        params = {"net": parts.policy.init(policy_key, observation)}
        if parts.config.policy == "stochastic":
            params["log_std"] = jnp.zeros((1, parts.spec.action_dim))
        policy = learner.init(params, parts.policy_optimizer)
    return State(
        behavior=learner.init(behavior, parts.behavior_optimizer, target=True),
        critic=critic,
        policy=policy,
        threshold=jnp.float32(support_threshold.UNMEASURED)
        if measures_threshold(parts.config)
        else None,
    )


def measures_threshold(config: Config) -> bool:
    """Whether a phase measures the threshold: a quantile is set, and a policy needs Q."""
    return needs_critic(config) and support_threshold.is_quantile(config.threshold_quantile)


def needs_critic(config: Config) -> bool:
    """Whether any policy needs Q."""
    return config.policies != ("behavior",)


def needs_candidates(config: Config) -> bool:
    """Whether any phase reads the columns."""
    return "explicit" in config.policies or (needs_critic(config) and config.q_target == "arq")


def make(config: Config, spec: Spec) -> Method:
    """Binds ARQ to a config and to the data's sizes. Raises ValueError for a bad config."""
    _check(config)
    parts = build(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=tuple(_phases(parts)),
        policies={name: _policies(parts)[name] for name in config.policies},
        diagnose=partial(diagnose, parts=parts),
        warn=support_threshold.warnings,
    )


def _check(config: Config) -> None:
    validation.require_choices(config)
    validation.require_positive(config, *AT_LEAST_ONE)
    validation.require_nonnegative(config, *NONNEGATIVE)
    support_threshold.is_quantile(config.threshold_quantile)
    if not config.policies or len(set(config.policies)) < len(config.policies):
        raise ValueError(f"policies must be one or more, each once, not {config.policies}")
    largest = config.candidates + config.data_candidate
    if config.kth > largest:
        raise ValueError(
            f"kth ({config.kth}) cannot exceed the number of candidates ({largest}): "
            "the backup would always be the recorded action's"
        )
    if config.density == "fixed" and config.density_nodes < 6:
        raise ValueError(f"density_nodes must be at least 6, not {config.density_nodes}")
    if config.sampler != "flow" and config.sampler_steps < 2:
        raise ValueError(f"sampler_steps must be at least 2, not {config.sampler_steps}")


def _phases(parts: Parts) -> list[Phase]:
    config, spec = parts.config, parts.spec
    shared = ("behavior",) if config.share_behavior else ()
    row_sampler = BATCH_SAMPLERS[config.batches]

    def phase(name: str, steps: int, update: Callable[..., Any], size: int, **more: Any) -> Phase:
        return Phase(
            name, steps, partial(update, parts=parts), size, **{"sampler": row_sampler, **more}
        )

    behavior_rows = config.behavior_ensemble_size * config.behavior_batch_size
    behavior = phase(
        "behavior", config.pretrain_steps, update_behavior, behavior_rows, shared=shared
    )
    phases = [behavior._replace(outputs=("behavior",))]
    if measures_threshold(config):
        size = min(config.threshold_rows, spec.size)
        once = {"sampler": epoch, "shared": ("threshold",) if shared else ()}
        outputs = ("behavior", "threshold")
        phases.append(phase("threshold", 1, update_threshold, size, outputs=outputs, **once))
    if needs_candidates(config):
        size = min(config.candidate_batch_size, spec.size)
        columns = {
            "candidates": jax.ShapeDtypeStruct((config.candidates, spec.action_dim), STORED),
            "log_density": jax.ShapeDtypeStruct((config.candidates,), STORED),
        }
        fill = {"sampler": sequential, "columns": columns, "shared": shared}
        phases.append(phase("candidates", -(-spec.size // size), fill_candidates, size, **fill))
    if needs_critic(config):
        phases.append(phase("critic", config.train_steps, update_critic, config.batch_size))
    if "explicit" in config.policies:
        phases.append(phase("policy", config.actor_steps, update_policy, config.batch_size))
    return phases


def _policies(parts: Parts) -> dict[str, Policy]:
    config = parts.config
    shared = "; one behaviour model for all seeds" if config.share_behavior else ""
    inside = f"log-density > {config.threshold}"
    if measures_threshold(config):
        inside = f"log-density > the data's {config.threshold_quantile} quantile"
    return {
        "explicit": Policy(partial(act_explicit, parts=parts), 1, f"mean{shared}"),
        "implicit": Policy(
            partial(act_implicit, parts=parts),
            config.candidates,
            f"softmax({config.alpha} Q) where {inside}{shared}",
            config.implicit_last,
        ),
        "behavior": Policy(
            partial(act_behavior, parts=parts),
            1,
            f"single sample{shared}",
            log_density=partial(behavior_log_density, parts=parts),
        ),
    }
