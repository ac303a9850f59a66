"""BDPO: behaviour-regularised diffusion policy optimisation.

Gao, Wu, Cao, Xiao, Yu, Zhang, ICML 2025, arXiv 2502.04778; equation numbers are the paper's.

A diffusion policy is regularised towards a behaviour diffusion policy by the KL between their whole
reverse paths, which is a sum of analytic one-step penalties l_n. There are two time scales: Q is
over environment time, V_n over diffusion time. The actor is improved one reverse step at a time,
without back-propagation through the chain.

    l_n(s, a^n) = w_n |eps_pi - eps_nu|^2,  w_n = beta_n / (2 alpha_n (1 - abar_n))     (17)
    Q(s, a)    <- r + discount * ( LCB mean_M Q(s', a') - eta * mean_M sum_n l_n(s', a'^n) )
                  with a' = a'^0, the end of the path a'^N, ..., a'^0               (13, 18)
    V_n(s,a^n) <- LCB mean_M V_{n-1}(s, a^{n-1}) - eta * l_n(s, a^n),   V_0 = Q         (15)
    actor      -> maximise the right-hand side of (15), a^{n-1} drawn by the actor        (16)

    symbol          name in code           shape
    nu, pi          behavior, actor        parameters of one network class
    eps_nu, eps_pi  policy (diffusion)     [B, A] or [B, K, A]
    Q_k, V_n,k      critic, value          [E, B] or [E, B, K]
    eta             config.eta             scalar, in units of the transformed reward per nat
    rho             config.rho             scalar, a number of standard deviations
    N, M, E         diffusion_steps, *_samples, critic_ensemble_size; N is the paper's, and the
                    shapes of ops/schedules.py and policies/diffusion.py write T

Phases: `behavior` (noise regression) -> `critic` (warm-up; starts by copying the behaviour's target
network into the actor) -> `train` (critic every step, actor every `actor_interval` steps).

Deviations and choices; "(code)" marks what follows the authors' code where the paper differs or is
silent:
 1. The penalty is inside the discount, as in equation 13. The code of the published runs
    subtracts it outside the discount, at terminals too; here it is multiplied by gamma and
    vanishes at terminals.
 2. The penalty uses variance beta_n at every step, because equation 8's exact posterior variance
    is zero at n = 1. The sampler uses beta_n for n > 1 and adds no noise at n = 1. Penalties use
    raw noise predictions; the sampler clips the clean action.
 3. The LCB also enters the actor's objective (code; the paper does not say).
 4. With `max_backup` the penalty is still the mean over the M paths (code).
 5. `behavior_continues`: the behaviour takes one more step with each actor update (code only).
 6. The critics' rate decays by a cosine and every gradient is clipped (code; the paper lists both
    for the actor only). The actor's cosine is as long as the critics' but advances once per actor
    update, so by default the actor's rate falls by only a tenth.
 7. Losses are means over the ensemble (code; equation 19 sums, which matters only to clipping).
 8. Each member of the V ensemble has its own step feature (the paper does not say), of widths
    64-64 as in the published runs; since February 2026 the code has 128-64
    (`value_step_hidden=128`).
 9. `levels = "stratified"` draws n in equal shares of the batch instead of uniformly, so that
    each row needs either Q (n = 1) or V, not both: ours, an option.
10. `policy = "gaussian"` or `"deterministic"`: the paper's ablation of the policy class, of actor
    and behaviour. An action is sampled in one step, so there is no V. The penalty is the analytic
    KL, or half the squared distance. The bounds are ours (policies/gaussian.py).
11. `value_tau` is the rate of V's target network, 0.005 by default, like `tau`, which it
    does not follow. V_n bootstraps on V_{n-1}, so the value of the clean action reaches V_N through
    N successive bootstraps on one slow target network, in about N / value_tau updates: too many
    where N is 50.
12. `q_samples = 0` evaluates no next state, for bandits, where every discount is 0.
13. `policy = "flow"`: actor and behaviour are velocity networks of straight-line flows, read as
    noise predictions (`ops.flow.predicted_noise`), with the same chain, penalty and values. Noise
    regression is then flow matching at the chain's N times, weighted by t^2.
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
import optax

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy, epoch, uniform
from jaxrl_prefs.ops import ddpm, schedules, values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import candidates, paths
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.policies.diffusion import DiffusionPolicy
from jaxrl_prefs.policies.flow import noise_prediction
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.policies.paths import PathPolicy, Refinement
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics

BATCH_SAMPLERS = {"epoch": epoch, "uniform": uniform}
REVERSE_STEPS = {"ddpm": ddpm.ancestral, "ddim": ddpm.ddim}

AT_LEAST_ONE = (
    "v_samples",
    "actor_samples",
    "diffusion_steps",
    "critic_ensemble_size",
    "value_step_hidden",
    "batch_size",
    "actor_interval",
    "candidates",
)
NONNEGATIVE = ("eta", "rho", "q_samples", "warmup_steps", "pretrain_steps", "temperature")


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for D4RL locomotion (table 3; eta, rho: table 4, halfcheetah)."""

    # --- objective
    eta: float = 0.05  # strength of the path KL, in units of the transformed reward per nat
    rho: float = 0.5  # pessimism of the ensemble's lower confidence bound
    max_backup: bool = False  # Q target by the best of the M next actions (antmaze)
    q_samples: int = 10  # M, paths per next state in the Q target; 0 for bandits
    v_samples: int = 10  # M, reverse steps per noised action in the V target
    actor_samples: int = 10  # M, reverse steps per noised action in the actor's objective
    # --- policy
    # class of actor and behaviour; "flow" is a chain by a velocity network (ours), and the last two
    # are the paper's ablation
    policy: Literal["diffusion", "flow", "gaussian", "deterministic"] = "diffusion"
    diffusion_steps: int = 5  # N, reverse steps from noise to action
    schedule: Literal["vp", "linear", "cosine"] = "vp"  # of the noise
    # reverse steps; "ddim" is deterministic, and the paper draws figures with it
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    # clip the clean action to the box in every reverse step; without it nothing bounds actions
    clip_sampler: bool = True
    # how n is sampled: uniformly over 1..N, or in equal shares of the batch (ours)
    levels: Literal["uniform", "stratified"] = "uniform"
    actor_hidden: tuple[int, ...] = (256, 256, 256, 256)  # hidden layers of actor and behaviour
    # --- values
    critic_ensemble_size: int = 10  # E, members of Q and of V
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of the hidden layers of Q and V
    critic_layer_norm: bool = False  # layer normalisation in Q (antmaze); V always has it
    activation: Literal["mish", "gelu"] = "mish"  # of hidden layers; gelu on OGBench (RQL)
    # width of the first layer of V's step feature; 64 in the published runs, 128 in the
    # authors' code since February 2026. The second layer has 64
    value_step_hidden: int = 64
    # --- optimisation
    behavior_learning_rate: float = 3e-4  # Adam's rate for the behaviour
    actor_learning_rate: float = 1e-5  # Adam's rate for the actor
    critic_learning_rate: float = 3e-4  # Adam's rate for Q and V
    # cosine decay of the actor's rate over train_steps of its own updates. It makes fewer (one per
    # actor_interval), so by default the rate ends at 0.91 of its start
    actor_decays: bool = True
    critic_decays: bool = True  # cosine decay of the critics' rate to 0 over train_steps
    clip_norm: float = 1.0  # largest global norm of each gradient; 0 does not clip
    tau: float = 0.005  # rate of the target networks of behaviour, actor and Q
    value_tau: float = 0.005  # rate of V's target network; the code has one rate for all
    batch_size: int = 256  # rows per update
    # how rows are chosen: by shuffled passes over the data (code), or uniformly with replacement
    batches: Literal["epoch", "uniform"] = "epoch"
    pretrain_steps: int = 2_000_000  # updates of the behaviour
    train_steps: int = 2_000_000  # updates of the critics, warm-up included
    warmup_steps: int = 50_000  # updates of the critics before the actor moves
    actor_interval: int = 5  # critic steps per actor step
    behavior_continues: bool = True  # one behaviour step with each actor step (code only)
    # --- acting
    candidates: int = 10  # actions sampled per decision
    # 0 takes the candidate of highest mean Q, else softmax(mean Q / temperature)
    temperature: float = 0.0


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # nu, with its target network
    actor: Trainable  # pi, with its target network
    critic: Trainable  # Q ensemble, leaves [E, ...], with target networks
    value: Trainable | None  # V ensemble, same layout; None if the policy samples in one step


class Parts(NamedTuple):
    """What the losses are computed with: the config and everything it describes; no arrays."""

    config: Config
    spec: Spec
    policy: PathPolicy
    critic: Net  # (observation, action) -> [E, ...]
    value: Net  # (observation, a^n, n) -> [E, ...]
    behavior_optimizer: optax.GradientTransformation
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers. Raises ValueError for a value that no field allows."""
    validation.require_choices(config)
    decay = config.train_steps
    return Parts(
        config=config,
        spec=spec,
        policy=_policy(config, spec),
        critic=nets.ensemble(
            nets.scalar_mlp(
                config.critic_hidden,
                activation=config.activation,
                layer_norm=config.critic_layer_norm,
            ),
            config.critic_ensemble_size,
        ),
        value=nets.ensemble(
            nets.stepped_scalar_mlp(
                config.critic_hidden,
                steps=config.diffusion_steps,
                step_hidden=config.value_step_hidden,
                activation=config.activation,
            ),
            config.critic_ensemble_size,
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


def _policy(config: Config, spec: Spec) -> PathPolicy:
    hidden, size, box = config.actor_hidden, spec.action_dim, spec.action_box
    mlp = partial(nets.mlp, hidden, activation=config.activation)
    if config.policy == "gaussian":
        return paths.gaussian_path(DiagonalGaussian(mlp(2 * size), box))
    if config.policy == "deterministic":
        return paths.deterministic_path(Deterministic(mlp(size), box))
    reverse_step = REVERSE_STEPS[config.sampler]
    schedule = schedules.SCHEDULES[config.schedule](config.diffusion_steps)
    if config.policy == "flow":
        net = noise_prediction(mlp(size), schedule)
    else:
        net = nets.stepped_mlp(
            hidden, size, steps=config.diffusion_steps, activation=config.activation
        )
    return DiffusionPolicy(
        net=net,
        schedule=schedule,
        step=reverse_step(box) if config.clip_sampler else reverse_step(),
        action_dim=size,
        stratified=config.levels == "stratified",
    )


# ---------------------------------------------------------------------------------- losses


def next_value(state: State, parts: Parts, observation: Array, step: Refinement) -> Array:
    """LCB_k mean_M V_{n-1,k}(s, a^{n-1}) with V_0 = Q, by the target networks: [B] (15, 18).

    The mean over samples comes before the bound over members.
    """

    def means(net: Net, trainable: Trainable, rows: slice, *level: Array) -> Array:
        context, samples = observation[rows, None], step.samples[rows]
        each = nets.with_action_gradient(net, trainable.target, context, samples, *level)
        return each.mean(-1)

    q, v, lower = state.critic, state.value, step.level[:, None] - 1
    all_rows = slice(None)
    if v is None:
        members = means(parts.critic, q, all_rows)
    elif parts.config.levels == "stratified":  # sorted blocks: the rows at level 1 come first
        count_at_one = -(-len(step.level) // parts.policy.steps)
        at_one, higher = slice(count_at_one), slice(count_at_one, None)
        from_critic = means(parts.critic, q, at_one)
        from_value = means(parts.value, v, higher, lower[higher])
        members = jnp.concatenate([from_critic, from_value], 1)
    else:
        from_critic = means(parts.critic, q, all_rows)
        from_value = means(parts.value, v, all_rows, lower)
        members = jnp.where(step.level[None] == 1, from_critic, from_value)
    return values.lcb(members, parts.config.rho)


def step_value(
    actor: Params, state: State, parts: Parts, batch: Transition, key: Key, samples: int
) -> tuple[Array, Refinement]:
    """The right-hand side of equation 15 for one reverse step of `actor`: [B], and the step.

    With the target actor it is V's regression target; with the online one, what the actor maximises
    (16). The critics and the behaviour are target networks and receive no gradient.
    """
    chex.assert_rank(batch.action, 2)
    step = parts.policy.refine(
        actor, state.behavior.target, batch.observation, batch.action, key, samples
    )
    rows = batch.action.shape[:1]
    chex.assert_shape(step.samples, (*rows, samples, batch.action.shape[1]))
    chex.assert_shape([step.level, step.penalty], rows)
    after = next_value(state, parts, batch.observation, step)
    return after - parts.config.eta * step.penalty, step


def critic_target(state: State, *, parts: Parts, batch: Transition, key: Key) -> Array:
    """r + discount * (LCB_k agg_M Q_k(s', a') - eta * mean_M path KL) (equations 13, 18): [B]."""
    chex.assert_rank([batch.reward, batch.discount], 1)
    chex.assert_equal_shape([batch.reward, batch.discount])
    if parts.config.q_samples == 0:
        return batch.reward
    action, penalty = parts.policy.paths(
        state.actor.target,
        state.behavior.target,
        batch.next_observation,
        key,
        parts.config.q_samples,
    )
    chex.assert_shape(penalty, (*batch.reward.shape, parts.config.q_samples))
    q = parts.critic.apply(state.critic.target, batch.next_observation[:, None], action)
    lower_bound = values.lcb(q.max(-1) if parts.config.max_backup else q.mean(-1), parts.config.rho)
    soft = lower_bound - parts.config.eta * penalty.mean(-1)
    return batch.reward + batch.discount * soft


def regression_loss(prediction: Array, target: Array) -> Array:
    """Mean over members and batch of (prediction - y)^2: [E, B], [B] -> scalar (equation 19)."""
    chex.assert_rank([prediction, target], [2, 1])
    chex.assert_equal(prediction.shape[1:], target.shape)
    return jnp.mean(jnp.square(prediction - target[None]))


def actor_loss(
    params: Params, *, state: State, parts: Parts, batch: Transition, key: Key
) -> tuple[Array, Metrics]:
    """Minus the mean of equation 16's objective.

    Its gradient flows through the samples of the reverse step, which the critics evaluate, and
    through the penalty.
    """
    objective, step = step_value(params, state, parts, batch, key, parts.config.actor_samples)
    loss = -jnp.mean(objective)
    return loss, learner.measured(actor_loss=loss, step_penalty=step.penalty)


# --------------------------------------------------------------------------------- updates


def update_behavior(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the behaviour on its cloning loss, and of its target network."""
    del step

    def loss(params: Params) -> tuple[Array, Metrics]:
        error = parts.policy.bc_loss(params, batch.observation, batch.action, key)
        return error, learner.measured(behavior_loss=error)

    behavior, metrics = learner.gradient_step(state.behavior, parts.behavior_optimizer, loss)
    return replace(state, behavior=learner.polyak(behavior, parts.config.tau)), metrics


def enter_critic(state: State, key: Key, *, parts: Parts) -> State:
    """Starts the actor, with a new optimiser, from the behaviour's target network."""
    del key
    actor = learner.init(state.behavior.target, parts.actor_optimizer, target=True)
    return replace(state, actor=actor)


def update_critic(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of Q and one of V.

    Both targets use the target networks as they were; these are updated afterwards.
    """
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
    actor, samples = state.actor.target, parts.config.v_samples
    target, noised = step_value(actor, state, parts, batch, v_key, samples)
    value, value_metrics = _regress(
        state.value,
        parts,
        "value",
        parts.config.value_tau,
        target,
        lambda params: parts.value.apply(params, batch.observation, noised.source, noised.level),
    )
    return replace(state, critic=critic, value=value), metrics | value_metrics


def _regress(
    trainable: Trainable,
    parts: Parts,
    name: str,
    rate: float,
    target: Array,
    predict: Callable[[Params], Array],
) -> tuple[Trainable, Metrics]:
    # Not `critics.regress`: the loss is the mean over members, and one global norm over all members
    # clips its gradient.
    def loss(params: Params) -> tuple[Array, Metrics]:
        error = regression_loss(predict(params), target)
        return error, learner.measured(**{f"{name}_loss": error, f"{name}_target": target})

    trainable, metrics = learner.gradient_step(trainable, parts.critic_optimizer, loss)
    return learner.polyak(trainable, rate), metrics


def update_actor(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the actor and its target; then one of the behaviour if it continues."""
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
    unmeasured = learner.unmeasured(*names, *["behavior_loss"] * parts.config.behavior_continues)
    state, actor_metrics = learner.every(
        parts.config.actor_interval, step, improve, (state, unmeasured)
    )
    return state, metrics | actor_metrics


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """Samples candidates from the target actor and chooses by the mean of the target critics."""
    sample_key, choice_key = jax.random.split(key)
    count = parts.config.candidates
    actions = parts.policy.sample(state.actor.target, observation, sample_key, count)
    if count == 1:
        return actions[:, 0]
    q = parts.critic.apply(state.critic.target, observation[:, None], actions).mean(0)
    return candidates.chosen(actions, q, choice_key, parts.config.temperature)


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """A single sample of the behaviour's target network."""
    return parts.policy.sample(state.behavior.target, observation, key, 1)[:, 0]


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, the ensemble's spread, and the path KL.

    If Q is far higher for uniform actions than for data actions, the critic diverges. If the path
    KL keeps growing, the actor has left the data: eta is too small.
    """
    path_key, uniform_key = jax.random.split(key)
    policy_action, penalty = parts.policy.paths(
        state.actor.target, state.behavior.target, batch.observation, path_key, 1
    )
    uniform_action = uniform_in(
        parts.spec.action_box, uniform_key, batch.action.shape, batch.action.dtype
    )
    metrics = critics.q_diagnostics(
        parts.critic, state.critic.target, batch, policy_action[:, 0], uniform_action
    )
    return metrics | learner.measured(path_kl=penalty)


# ------------------------------------------------------------------------------------ make


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    behavior_key, critic_key, value_key = jax.random.split(key, 3)
    observation, action = batch.observation, batch.action
    behavior = parts.policy.init(behavior_key, observation)
    critic = parts.critic.init(critic_key, observation, action)
    value = None
    if parts.policy.steps > 1:
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
    validation.require_positive(config, *AT_LEAST_ONE)
    validation.require_nonnegative(config, *NONNEGATIVE)
    if config.warmup_steps > config.train_steps:
        raise ValueError(
            f"warmup_steps ({config.warmup_steps}) is part of train_steps ({config.train_steps}) "
            "and cannot exceed it"
        )
    parts = build(config, spec)
    sampler = BATCH_SAMPLERS[config.batches]

    def phase(name: str, steps: int, update: Callable[..., Any], **more: Any) -> Phase:
        return Phase(
            name, steps, partial(update, parts=parts), config.batch_size, sampler=sampler, **more
        )

    rule = candidates.rule("mean Q", config.candidates, config.temperature)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            phase("behavior", config.pretrain_steps, update_behavior, outputs=("behavior",)),
            phase(
                "critic",
                config.warmup_steps,
                update_critic,
                enter=partial(enter_critic, parts=parts),
                outputs=("behavior", "actor", "critic", "value"),
            ),
            phase(
                "train",
                config.train_steps - config.warmup_steps,
                update_all,
                period=config.actor_interval,
            ),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), config.candidates, rule),
            "behavior": Policy(partial(act_behavior, parts=parts), 1, "single sample"),
        },
        diagnose=partial(diagnose, parts=parts),
    )
