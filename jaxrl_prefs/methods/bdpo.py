"""BDPO: behaviour-regularised diffusion policy optimisation.

Gao, Wu, Cao, Xiao, Yu, Zhang, ICML 2025, arXiv 2502.04778; equation numbers are the paper's.

A diffusion policy is regularised towards a behaviour diffusion policy by the KL between their whole
reverse paths, which decomposes into analytic one-step penalties l_n. Two time scales: Q lives in
environment time, V_n in diffusion time, and the actor is improved one reverse step at a time,
without back-propagation through the chain.

    l_n(s, a^n) = w_n |eps_pi - eps_nu|^2                                          (17)
    Q(s, a)    <- r + discount * ( LCB mean_M Q(s', a') - eta * sum_n l_n(s', a'^n) )   (13, 18)
    V_n(s,a^n) <- LCB mean_M V_{n-1}(s, a^{n-1}) - eta * l_n(s, a^n),   V_0 = Q         (15)
    actor      -> maximise the right-hand side of (15) over its own reverse step         (16)

    symbol          name in code           shape
    nu, pi          behavior, actor        parameters of one network class
    eps_nu, eps_pi  family (diffusion)     [B, A] or [B, K, A]
    Q_k, V_n,k      critic, value          [E, B] or [E, B, K]
    eta, rho        config.eta, .rho       scalars, in units of the transformed reward
    N, M, K         diffusion_steps, *_samples, critic_ensemble_size

Phases: `behavior` (noise regression) -> `critic` (warm-up; enters by copying the behaviour's moving
average into the actor) -> `train` (critic every step, actor every `actor_interval` steps).

Deviations and choices (where paper and author's code differ, the field says so):
 1. The penalty sits inside the discount, as in equation 13. The code of the published runs
    subtracted it outside, at terminals too; a run of ours pays gamma times that penalty.
 2. Reverse steps have variance beta_n in sampler and penalty; equation 8's exact posterior variance
    is zero at n = 1. Penalties use raw noise predictions, the sampler clips the clean action.
 3. The LCB also enters the actor's objective (code; the paper does not say).
 4. With `max_backup` the penalty is still averaged over the M paths (code).
 5. `behavior_continues`: the behaviour takes one more step with each actor update (code only).
 6. Critic learning rate decays by a cosine and every gradient is clipped (code; the paper lists
    both for the actor alone). The actor's cosine counts its own updates, a fifth of all.
 7. Losses average over the ensemble (code; equation 19 sums, which matters only to clipping).
 8. Each member of the V ensemble owns its step feature (the sheet leaves it open).
 9. `levels = "stratified"` draws n in equal blocks instead of uniformly, so that Q is evaluated at
    n = 1 alone and V elsewhere alone: ours, an option.
10. `policy = "gaussian"` or `"deterministic"`: the paper's ablation of the policy class. Both draw
    at once, behaviour and actor alike; V does not exist and the penalty is the analytic KL, or half
    the squared distance. Their bounds are ours (parts/gaussian.py).
11. `value_tau` is V's own rate (equal to the others' by default): what is learned at the clean end
    passes N averages on its way to V_N, N / value_tau updates in all, too many where N is 50.
12. `q_samples = 0` evaluates no next state, for bandits, where the discount is 0 throughout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy, epoch, uniform
from jaxrl_prefs.ops import ddpm, schedules, values
from jaxrl_prefs.ops.shapes import expand_rank
from jaxrl_prefs.policies import diffusion, gaussian
from jaxrl_prefs.policies.family import Family, Refinement
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.validation import require_choice, require_nonnegative, require_positive

ROWS = {"epoch": epoch, "uniform": uniform}
STEPS = {"ddpm": ddpm.ancestral, "ddim": ddpm.ddim}

COUNTS = (
    "v_samples",
    "actor_samples",
    "diffusion_steps",
    "critic_ensemble_size",
    "batch_size",
    "actor_interval",
    "candidates",
)
STRENGTHS = ("eta", "rho", "q_samples", "warmup_steps", "pretrain_steps", "temperature")


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for D4RL locomotion (table 3; eta, rho: table 4, halfcheetah)."""

    # objective
    eta: float = 0.05  # strength of the pathwise KL, in units of the transformed reward
    rho: float = 0.5  # pessimism of the ensemble's lower confidence bound
    max_backup: bool = False  # Q target by the best of the M next actions (antmaze)
    q_samples: int = 10  # M, paths per next state in the Q target; 0 for bandits
    v_samples: int = 10  # M, reverse steps per noised action in the V target
    actor_samples: int = 10  # M, reverse steps per noised action in the actor's objective
    # policy
    policy: str = "diffusion"  # or "gaussian", "deterministic"
    diffusion_steps: int = 5  # N
    schedule: str = "vp"  # or "linear", "cosine"
    sampler: str = "ddpm"  # or "ddim" (deterministic; the paper draws figures with it)
    clip_sampler: bool = True  # clip the clean action to the box in every step; off, nothing bounds
    levels: str = "uniform"  # or "stratified" (ours)
    actor_hidden: tuple[int, ...] = (256, 256, 256, 256)
    # values
    critic_ensemble_size: int = 10  # K
    critic_hidden: tuple[int, ...] = (256, 256, 256)
    critic_layer_norm: bool = False  # on for antmaze; V always has it
    # optimisation
    behavior_learning_rate: float = 3e-4
    actor_learning_rate: float = 1e-5
    critic_learning_rate: float = 3e-4
    actor_decays: bool = True  # cosine over train_steps of the actor's own updates
    critic_decays: bool = True  # cosine over train_steps
    clip_norm: float = 1.0  # global norm of each gradient; 0 does not clip
    tau: float = 0.005  # rate of the moving averages of behaviour, actor and Q
    value_tau: float = 0.005  # rate of V's; the code has one rate for all
    batch_size: int = 256
    batches: str = "epoch"  # shuffled passes over the data (code), or "uniform"
    pretrain_steps: int = 2_000_000  # behaviour
    train_steps: int = 2_000_000  # critic, warm-up included
    warmup_steps: int = 50_000  # critic alone, before the actor moves
    actor_interval: int = 5
    behavior_continues: bool = True  # one behaviour step with each actor update (code only)
    # acting
    candidates: int = 10  # actions drawn per decision
    temperature: float = 0.0  # 0 takes the candidate of highest mean Q, else softmax(Q / T)


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # nu, with its moving average
    actor: Trainable  # pi, with its moving average
    critic: Trainable  # Q ensemble, leaves [E, ...]
    value: Trainable | None  # V ensemble; None where an action is drawn at once


class Parts(NamedTuple):
    """What the losses are computed with: the config, and all that it describes; no arrays."""

    config: Config
    spec: Spec
    family: Family
    critic: Net  # (observation, action) -> [E, ...]
    value: Net  # (observation, a^n, n) -> [E, ...]
    behavior_optimizer: optax.GradientTransformation
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers. Raises ValueError for a value no field allows."""
    decay = config.train_steps
    return Parts(
        config=config,
        spec=spec,
        family=_family(config, spec),
        critic=nets.ensemble(
            nets.scalar_mlp(config.critic_hidden, layer_norm=config.critic_layer_norm),
            config.critic_ensemble_size,
        ),
        value=nets.ensemble(
            nets.stepped_scalar_mlp(config.critic_hidden), config.critic_ensemble_size
        ),
        behavior_optimizer=learner.optimizer(
            config.behavior_learning_rate, clip_norm=config.clip_norm
        ),
        actor_optimizer=learner.optimizer(
            config.actor_learning_rate,
            decay_steps=decay if config.actor_decays else 0,
            clip_norm=config.clip_norm,
        ),
        critic_optimizer=learner.optimizer(
            config.critic_learning_rate,
            decay_steps=decay if config.critic_decays else 0,
            clip_norm=config.clip_norm,
        ),
    )


def _family(config: Config, spec: Spec) -> Family:
    hidden, size = config.actor_hidden, spec.action_dim
    tabulate = schedules.SCHEDULES[require_choice("schedule", config.schedule, schedules.SCHEDULES)]
    step = STEPS[require_choice("sampler", config.sampler, STEPS)]
    levels = require_choice("levels", config.levels, ("uniform", "stratified"))
    if (
        require_choice("policy", config.policy, ("diffusion", "gaussian", "deterministic"))
        == "gaussian"
    ):
        return gaussian.diagonal(nets.mlp(hidden, 2 * size), spec.action_low, spec.action_high)
    if config.policy == "deterministic":
        return gaussian.deterministic(nets.mlp(hidden, size), spec.action_low, spec.action_high)
    bounds = {"low": spec.action_low, "high": spec.action_high} if config.clip_sampler else {}
    return diffusion.family(
        nets.stepped_mlp(hidden, size),
        tabulate(config.diffusion_steps),
        step(**bounds),
        size,
        stratified=levels == "stratified",
    )


# ---------------------------------------------------------------------------------- losses


def next_value(state: State, parts: Parts, observation: Array, step: Refinement) -> Array:
    """LCB_k mean_M V_{n-1,k}(s, a^{n-1}) with V_0 = Q, by the moving averages: [B] (15, 18).

    Means over samples come before the bound over members.
    """

    def opinion(net: Net, critic_params: Trainable, rows: slice, *level: Array) -> Array:
        context, samples = observation[rows, None], step.samples[rows]
        return nets.with_action_gradient(net, critic_params.target, context, samples, *level).mean(
            -1
        )

    q, v, below = state.critic, state.value, step.level[:, None] - 1
    everything = slice(None)
    if v is None:
        members = opinion(parts.critic, q, everything)
    elif parts.config.levels == "stratified":  # sorted blocks: the rows at level 1 come first
        ones = -(-len(step.level) // parts.family.levels)
        first, others = slice(ones), slice(ones, None)
        at_one = opinion(parts.critic, q, first)
        members = jnp.concatenate([at_one, opinion(parts.value, v, others, below[others])], 1)
    else:
        at_one = opinion(parts.critic, q, everything)
        above = opinion(parts.value, v, everything, below)
        members = jnp.where(step.level[None] == 1, at_one, above)
    return values.lcb(members, parts.config.rho)


def step_value(
    actor: Params, state: State, parts: Parts, batch: Transition, key: Key, samples: int
) -> tuple[Array, Refinement]:
    """The right-hand side of equation 15 for one reverse step of `actor`: [B], and the step.

    It is V's regression target under the averaged actor, and what the actor maximises (16). Critics
    and behaviour are moving averages, held fixed.
    """
    step = parts.family.refine(
        actor, state.behavior.target, batch.observation, batch.action, key, samples
    )
    after = next_value(state, parts, batch.observation, step)
    return after - parts.config.eta * step.penalty, step


def critic_target(state: State, *, parts: Parts, batch: Transition, key: Key) -> Array:
    """r + discount * (LCB_k agg_M Q_k(s', a') - eta * mean_M path KL) (equations 13, 18): [B]."""
    if parts.config.q_samples == 0:
        return batch.reward
    action, penalty = parts.family.paths(
        state.actor.target,
        state.behavior.target,
        batch.next_observation,
        key,
        parts.config.q_samples,
    )
    q = parts.critic.apply(state.critic.target, batch.next_observation[:, None], action)
    best = values.lcb(q.max(-1) if parts.config.max_backup else q.mean(-1), parts.config.rho)
    soft = best - parts.config.eta * penalty.mean(-1)
    return values.td_target(batch.reward, batch.discount, soft)


def regression_loss(prediction: Array, target: Array) -> Array:
    """Mean over members and batch of (prediction - y)^2: [E, B], [B] -> scalar (equation 19)."""
    return jnp.mean(jnp.square(prediction - target[None]))


def actor_loss(
    params: Params, *, state: State, parts: Parts, batch: Transition, key: Key
) -> tuple[Array, Metrics]:
    """Minus the mean of equation 16's objective; gradients reach `params` through the samples of
    the reverse step, as the critics see them, and through the penalty.
    """
    gain, step = step_value(params, state, parts, batch, key, parts.config.actor_samples)
    loss = -jnp.mean(gain)
    return loss, learner.measured(actor_loss=loss, step_penalty=step.penalty)


# --------------------------------------------------------------------------------- updates


def update_behavior(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the behaviour on its own loss, and of its moving average."""
    del step

    def loss(params: Params) -> tuple[Array, Metrics]:
        return parts.family.fit(params, batch.observation, batch.action, key)

    behavior, metrics = learner.gradient_step(state.behavior, parts.behavior_optimizer, loss)
    return replace(state, behavior=learner.polyak(behavior, parts.config.tau)), metrics


def enter_critic(state: State, key: Key, *, parts: Parts) -> State:
    """Starts the actor from the behaviour's moving average, with a fresh optimiser."""
    del key
    actor = learner.init(state.behavior.target, parts.actor_optimizer, target=True)
    return replace(state, actor=actor)


def update_critic(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One joint step of Q and V towards targets of the old moving averages, then both averages."""
    del step
    q_key, v_key = jax.random.split(key)
    critic, metrics = _regress(
        state.critic,
        parts,
        "critic",
        parts.config.tau,
        critic_target(state, parts=parts, batch=batch, key=q_key),
        lambda params: parts.critic.apply(params, batch.observation, batch.action),
    )
    if state.value is None:
        return replace(state, critic=critic), metrics
    target, at = step_value(state.actor.target, state, parts, batch, v_key, parts.config.v_samples)
    value, value_metrics = _regress(
        state.value,
        parts,
        "value",
        parts.config.value_tau,
        target,
        lambda params: parts.value.apply(params, batch.observation, at.source, at.level),
    )
    return replace(state, critic=critic, value=value), metrics | value_metrics


def _regress(
    part: Trainable,
    parts: Parts,
    name: str,
    rate: float,
    target: Array,
    predict: Callable[[Params], Array],
) -> tuple[Trainable, Metrics]:
    def loss(params: Params) -> tuple[Array, Metrics]:
        error = regression_loss(predict(params), target)
        return error, learner.measured(**{f"{name}_loss": error, f"{name}_target": target})

    part, metrics = learner.gradient_step(part, parts.critic_optimizer, loss)
    return learner.polyak(part, rate), metrics


def update_actor(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the actor and its average; then one of the behaviour if it continues."""
    actor_key, behavior_key = jax.random.split(key)

    def loss(params: Params) -> tuple[Array, Metrics]:
        return actor_loss(params, state=state, parts=parts, batch=batch, key=actor_key)

    actor, metrics = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    state = replace(state, actor=learner.polyak(actor, parts.config.tau))
    if parts.config.behavior_continues:
        state, behavior_metrics = update_behavior(state, batch, behavior_key, step, parts=parts)
        metrics |= behavior_metrics
    return state, metrics


def update_all(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """The critic at every step, the actor at every `actor_interval`-th, on the same batch."""
    critic_key, actor_key = jax.random.split(key)
    state, metrics = update_critic(state, batch, critic_key, step, parts=parts)

    def improve(operand: tuple[State, Metrics]) -> tuple[State, Metrics]:
        return update_actor(operand[0], batch, actor_key, step, parts=parts)

    names = ["actor_loss", "step_penalty"]
    idle = learner.unmeasured(*names, *["behavior_loss"] * parts.config.behavior_continues)
    state, actor_metrics = learner.every(parts.config.actor_interval, step, improve, (state, idle))
    return state, metrics | actor_metrics


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """Draws candidates from the averaged actor and chooses by the mean of the averaged Q."""
    draw_key, choice_key = jax.random.split(key)
    actions = parts.family.draw(state.actor.target, observation, draw_key, parts.config.candidates)
    if parts.config.candidates == 1:
        return actions[:, 0]
    q = parts.critic.apply(state.critic.target, observation[:, None], actions).mean(0)
    if parts.config.temperature > 0:
        best = jax.random.categorical(choice_key, q / parts.config.temperature)
    else:
        best = jnp.argmax(q, -1)
    return jnp.take_along_axis(actions, best[:, None, None], 1)[:, 0]


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """Draws one action from the averaged behaviour."""
    return parts.family.draw(state.behavior.target, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the ensemble's spread, and the path KL.

    Q on uniform actions far above Q on data is an exploding critic; a path KL that grows without
    end is an actor that left the data (eta too small).
    """
    path_key, uniform_key = jax.random.split(key)
    policy, penalty = parts.family.paths(
        state.actor.target, state.behavior.target, batch.observation, path_key, 1
    )
    unit = jax.random.uniform(uniform_key, batch.action.shape, batch.action.dtype)
    low, high = expand_rank(parts.spec.action_low, 2), expand_rank(parts.spec.action_high, 2)

    def q(action: Array) -> Array:
        return parts.critic.apply(state.critic.target, batch.observation, action)

    on_policy = q(policy[:, 0])
    return learner.measured(
        q_data=q(batch.action),
        q_policy=on_policy,
        q_uniform=q(low + unit * (high - low)),
        q_spread=on_policy.std(0),
        path_kl=penalty,
    )


# ------------------------------------------------------------------------------------ make


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """A fresh state; the batch is read for shapes only."""
    behavior_key, critic_key, value_key = jax.random.split(key, 3)
    observation, action = batch.observation, batch.action
    behavior = parts.family.init(behavior_key, observation, action)
    critic = parts.critic.init(critic_key, observation, action)
    value = None
    if parts.family.levels > 1:
        level = jnp.ones(action.shape[:1], jnp.int32)
        params = parts.value.init(value_key, observation, action, level)
        value = learner.init(params, parts.critic_optimizer, target=True)
    return State(
        behavior=learner.init(behavior, parts.behavior_optimizer, target=True),
        actor=learner.init(behavior, parts.actor_optimizer, target=True),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
        value=value,
    )


def make(config: Config, spec: Spec) -> Method:
    """Binds BDPO to a config and to the data's sizes. Raises ValueError for a bad config."""
    require_positive(config, *COUNTS)
    require_nonnegative(config, *STRENGTHS)
    if config.warmup_steps > config.train_steps:
        raise ValueError(
            f"warmup_steps ({config.warmup_steps}) is part of train_steps ({config.train_steps}) "
            "and cannot exceed it"
        )
    parts = build(config, spec)
    sampler = ROWS[require_choice("batches", config.batches, ROWS)]

    def phase(name: str, steps: int, update: Callable[..., Any], **more: Any) -> Phase:
        return Phase(
            name, steps, partial(update, parts=parts), config.batch_size, sampler=sampler, **more
        )

    rule = f"softmax(mean Q / {config.temperature:g})" if config.temperature else "argmax mean Q"
    rule = rule if config.candidates > 1 else "the one drawn"
    return Method(
        init=partial(init, parts=parts),
        phases=(
            phase("behavior", config.pretrain_steps, update_behavior),
            phase(
                "critic",
                config.warmup_steps,
                update_critic,
                enter=partial(enter_critic, parts=parts),
            ),
            phase(
                "train",
                config.train_steps - config.warmup_steps,
                update_all,
            ),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), config.candidates, rule),
            "behavior": Policy(partial(act_behavior, parts=parts), 1, "the one drawn"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
