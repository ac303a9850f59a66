"""BPR: behaviour preference regression.

Srinivasan, Knottenbelt, AAAI 2025, arXiv 2503.00930; equation numbers are the paper's. The
authors have published no code, and the appendices that the paper refers to are not in it.

An energy model E of the behaviour is fitted once. For two of its own actions in one state, the
actor then regresses the difference of its log-densities on the difference of Q - E / lam. The
partition function cancels. A large lam follows Q, a small one the behaviour.

    E           <- -log pi_beta + c(s), by InfoNCE against a known proposal
    Q(s, a)     <- r + discount * (min_k Q_k(s', a') - alpha log pi(a' | s')),   a' ~ pi
    g(s, a)      = lam (log pi(a | s) - Q(s, a)) + E(s, a)
    actor       -> minimise (g(s, a1) - g(s, a2))^2,   a1, a2 ~ pi, no gradient      (7)
    pi*(a | s)  ∝ exp(Q(s, a)) pi_beta(a | s)^(1 / lam)                            (2, 8)

With both actions sampled from the actor (self-play), the expected gradient of (7) is 4 lam^2 times
that of KL[pi || pi*]: a score-function estimate of SAC's actor step with the other action as
baseline. A policy class that does not contain pi*, such as Gaussians, ends at its closest member by
that KL. The loss is above 0 there, so a loss that stops falling is not a failure.

    symbol     name in code       shape
    E          energy             [B, K]
    pi         actor              parameters of a tanh-Gaussian; log_density [B, K]
    Q_k        critic             [E, B] or [E, B, K]
    lambda     config.lam         scalar; divides the energy, not Q

Phases: `behavior` (the energy only) -> `train` (actor, then critic, at every step). The one-step
and ensemble critics do not depend on the actor, so they are trained in the same phase as it; a
phase of their own would have the same fixed point.

Deviations and choices (the main text leaves all of them open; "ours" unless a source is named):
 1. `q_scale = "mean_abs"` regresses on c Q / mean |Q| with c = `q_weight`, as TD3+BC scales Q.
    `"raw"` compares Q in units of the reward with energies in nats. On rewards that are not scaled
    either (the run's `reward = "affine"`) that is equation 7 to the letter; the presets for
    locomotion divide rewards by a thousandth of the range of returns.
    Early in training mean |Q| is near 0, so the scaled Q is mostly amplified noise: on
    pendulum-mixed it differs between two actions by 70 nats before the first update and by 1 nat
    after 1,000.
 2. Negatives are uniform on the action box, so that differences of E are differences of
    log-density, as equation 7 needs. `negatives = "langevin"` takes the negatives and the gradient
    penalty of implicit behavioural cloning (Florence et al. 2022); their scale is not calibrated.
 3. Energy network: pre-activation residual, spectral norm on every layer (paper), one power
    iteration per step, times a learned gain, because a slope of 2^blocks is too small for narrow
    behaviour. Every 20th row is held out of its loss.
 4. `alpha` is fixed and 0 by default (the paper's backup has an entropy term; it gives no value).
    SAC's tuned alpha with an entropy target is left out: pi* contains the behaviour, whose entropy
    may lie below the target, and alpha would then grow until Q no longer counts.
 5. The actor reads the minimum of the two online critics. Without an entropy term the one-step
    target is r + discount * min_k Q_k(s', a'_data); rows whose next action was cut off by a time
    limit have weight 0.
 6. `critic = "ensemble"`: independent members, each with its own one-step target. Their value is
    mean - omega * variance (paper). `spread = "std"` takes the standard deviation, as does the work
    that the paper cites.
 7. K `samples` per state are compared pair by pair; K = 2 is the paper's. `sampling = "reference"`
    compares the data's action with K - 1 of the actor's, an alternative that the paper discusses.
 8. `behavior = "tilted"` adds the energy network to a Gaussian fitted beside it, whose samples are
    half of the negatives. Where the behaviour is narrow, uniform negatives are all far from it and
    teach nothing (docs/methods/bpr.md). `"gaussian"` is the Gaussian without the network: an
    ablation.
 9. Tanh-Gaussian with log standard deviation in -5 to 2, initially near the uniform distribution;
    its gradient is clipped to `clip_norm`. Evaluation by the tanh of the mean.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, nets
from jaxrl_prefs.behavior import energy, proposals
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Encoder, EncoderLoss, Method, Phase, Policy, epoch, uniform
from jaxrl_prefs.nets import spectral_residual
from jaxrl_prefs.nets.spectral_residual import Vectors
from jaxrl_prefs.ops import preference, values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies.gaussian import DiagonalGaussian
from jaxrl_prefs.policies.tanh_gaussian import TanhGaussian
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.validation import require_choices, require_nonnegative, require_positive
from jaxrl_prefs.values import critics

BATCH_SAMPLERS = {"epoch": epoch, "uniform": uniform}
AT_LEAST_ONE = (
    "critic_ensemble_size",
    "negative_samples",
    "langevin_steps",
    "search_samples",
    "search_rounds",
    "batch_size",
    "behavior_batch_size",
)
NONNEGATIVE = (
    "q_weight",
    "omega",
    "alpha",
    "clip_norm",
    "behavior_blocks",
    "pretrain_steps",
    "train_steps",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults for D4RL; the paper gives lam, omega, K, four ensemble members and no more."""

    # --- objective
    lam: float = 1.0  # the energy is divided by it: large follows Q, small the behaviour
    samples: int = 2  # K, actions compared per state
    # which actions are compared: the actor's with each other, or the data's with the actor's
    sampling: Literal["selfplay", "reference"] = "selfplay"
    # scale of Q: c Q / mean |Q|, or "raw": as it is, equation 7 where rewards are not scaled either
    q_scale: Literal["mean_abs", "raw"] = "mean_abs"
    q_weight: float = 10.0  # c of "mean_abs", in nats
    # --- critics
    # "sac" backs up the actor's actions; the others estimate the behaviour's values
    critic: Literal["sac", "onestep", "ensemble"] = "sac"
    alpha: float = 0.0  # weight of the entropy in the backup of "sac", in units of reward per nat
    critic_ensemble_size: int = 4  # members of "ensemble"; the others have two
    omega: float = 2.0  # pessimism of "ensemble", a multiple of `spread`
    spread: Literal["variance", "std"] = "variance"  # over the members, what omega multiplies
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = True  # layer normalisation in the critics
    # --- behaviour
    # an energy network, a Gaussian ("tilted": corrected by that network), or the Gaussian only
    behavior: Literal["energy", "tilted", "gaussian"] = "energy"
    behavior_width: int = 256  # of the energy network's hidden layers
    behavior_blocks: int = 4  # residual blocks of two layers each
    # where the negative actions of "energy" come from
    negatives: Literal["uniform", "langevin"] = "uniform"
    negative_samples: int = 256  # n, negative actions per row
    langevin_steps: int = 100  # of the chain that makes a Langevin negative
    # candidates of the derivative-free search for the behaviour's action (Florence et al.: 16,384)
    search_samples: int = 256
    search_rounds: int = 3  # rounds of the search, the uniform one included
    # --- actor
    actor_hidden: tuple[int, ...] = (256, 256)  # hidden layers of actor and Gaussian behaviour
    # --- optimisation
    behavior_learning_rate: float = 5e-4  # Adam's rate, a cosine to 0 over pretrain_steps
    actor_learning_rate: float = 3e-4  # Adam's rate for the actor
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    clip_norm: float = 1.0  # largest norm of the actor's gradient; 0 does not clip
    tau: float = 0.005  # rate of the critics' target network
    batch_size: int = 256  # rows per update of actor and critics
    behavior_batch_size: int = 512  # rows per update of the behaviour model
    # how rows are chosen: uniformly with replacement, or by shuffled passes over the data
    batches: Literal["epoch", "uniform"] = "uniform"
    pretrain_steps: int = 100_000  # updates of the behaviour model
    train_steps: int = 1_000_000  # updates of actor and critics


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    behavior: Trainable  # E, or the Gaussian
    vectors: Vectors  # of E's spectral norms, changed only in `behavior`; {} for a Gaussian
    actor: Trainable
    critic: Trainable  # leaves [E, ...], with target networks


class Parts(NamedTuple):
    """What the losses are computed with: the config, and all that it describes; no arrays."""

    config: Config
    spec: Spec
    model: energy.Model
    policy: TanhGaussian
    critic: Net  # (observation, action) -> [E, ...]
    behavior_optimizer: optax.GradientTransformation
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers."""
    members = config.critic_ensemble_size if config.critic == "ensemble" else 2
    critic = nets.scalar_mlp(
        config.critic_hidden,
        activation="relu",
        layer_norm=config.critic_layer_norm,
        initialiser="lecun",
    )
    return Parts(
        config=config,
        spec=spec,
        model=_model(config, spec),
        policy=TanhGaussian(
            nets.viewed(_moments_net(config, spec), spec.view("actor")), spec.action_box
        ),
        critic=nets.viewed(nets.ensemble(critic, members), spec.view("critic")),
        behavior_optimizer=learner.optimizer(
            config.behavior_learning_rate, decay_steps=config.pretrain_steps
        ),
        actor_optimizer=learner.optimizer(config.actor_learning_rate, clip_norm=config.clip_norm),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
    )


def _moments_net(config: Config, spec: Spec) -> Net:
    """A mean and a log standard deviation per action dimension, initially near 0."""
    return nets.mlp(
        config.actor_hidden,
        2 * spec.action_dim,
        activation="relu",
        initialiser="lecun",
        last_gain=0.01,
    )


def _model(config: Config, spec: Spec) -> energy.Model:
    box = spec.action_box
    view = spec.view("behavior")
    moments = nets.viewed(_moments_net(config, spec), view)
    gaussian = energy.GaussianModel(DiagonalGaussian(moments, box))
    net = nets.viewed(spectral_residual.scalar(config.behavior_width, config.behavior_blocks), view)
    if config.behavior == "gaussian":
        return gaussian
    if config.behavior == "tilted":
        return energy.TiltedModel(net, gaussian, config.negative_samples, config.search_samples)
    return energy.EnergyModel(
        net=net,
        box=box,
        negatives=config.negative_samples,
        proposal=proposals.uniform(box),
        langevin_steps=config.langevin_steps if config.negatives == "langevin" else 0,
        candidates=config.search_samples,
        rounds=config.search_rounds,
    )


# ---------------------------------------------------------------------------------- losses


def critic_target(state: State, *, parts: Parts, batch: Transition, key: Key) -> Array:
    """Regression targets of all members, [E, B]; they differ only in an ensemble."""
    if parts.config.critic == "sac":
        actor, observation = state.actor.params, batch.next_observation
        u = parts.policy.sample_pre_tanh(actor, observation, key, 1)
        log_density = parts.policy.log_density_pre_tanh(actor, observation, u)[:, 0]
        action = parts.policy.squash(u)[:, 0]
    else:
        log_density, action = jnp.zeros_like(batch.reward), batch.next_action
    chex.assert_equal_shape([batch.reward, batch.discount, log_density])
    q = parts.critic.apply(state.critic.target, batch.next_observation, action)
    if parts.config.critic != "ensemble":
        q = jnp.broadcast_to(q.min(0, keepdims=True), q.shape)
    soft = q - parts.config.alpha * log_density[None]
    return batch.reward[None] + batch.discount[None] * soft


def critic_weight(batch: Transition, *, parts: Parts) -> Array:
    """1 for rows with a known target, else 0: [B]. One-step targets need the next action."""
    if parts.config.critic == "sac":
        return jnp.ones_like(batch.reward)
    return critics.has_sarsa_target(batch)


def ensemble_value(members: Array, *, config: Config) -> Array:
    """The value of an action for the actor, from E members: [E, ...] -> [...]."""
    if config.critic != "ensemble":
        return members.min(0)
    bound = values.lcb if config.spread == "std" else values.variance_lcb
    return bound(members, config.omega)


def scaled(q: Array, *, config: Config) -> Array:
    """Q in nats: c Q / mean |Q|, with the mean over the whole batch; or Q as it is."""
    return q if config.q_scale == "raw" else config.q_weight * values.normalised(q)


class Comparison(NamedTuple):
    """The terms of equation 7 for K actions in each state."""

    action: Array  # [B, K, A]
    log_density: Array  # [B, K], the only one that carries a gradient
    q: Array  # [B, K], scaled
    energy: Array  # [B, K]


def compare(
    actor: Params, *, state: State, parts: Parts, batch: Transition, key: Key
) -> Comparison:
    """Samples actions with their terms; only the actor's log-density carries a gradient."""
    policy, config = parts.policy, parts.config
    own = config.samples - (config.sampling == "reference")
    u = policy.sample_pre_tanh(actor, batch.observation, key, own)
    if config.sampling == "reference":
        u = jnp.concatenate([policy.unsquash(batch.action)[:, None], u], 1)
    u = jax.lax.stop_gradient(u)
    action, context = policy.squash(u), batch.observation[:, None]
    members = parts.critic.apply(state.critic.params, context, action)
    energies = parts.model.energy(state.behavior.params, state.vectors)(context, action)
    q, energies = jax.lax.stop_gradient((ensemble_value(members, config=config), energies))
    density = policy.log_density_pre_tanh(actor, batch.observation, u)
    return Comparison(action, density, scaled(q, config=config), energies)


def magnitudes(comparison: Comparison, lam: float) -> Metrics:
    """Mean differences within a state: actions, and the three terms of equation 7 side by side.

    The three terms should be of one order. A pair distance of 0 is a collapsed actor.
    """
    terms = {
        "density_gap": comparison.log_density,
        "q_gap": comparison.q,
        "energy_gap": comparison.energy / lam,
    }
    gaps = {name: preference.spread(x[..., None]) for name, x in terms.items()}
    return learner.measured(pair_distance=preference.spread(comparison.action), **gaps)


def actor_loss(
    params: Params, *, state: State, parts: Parts, batch: Transition, key: Key
) -> tuple[Array, Metrics]:
    """Equation 7, its mean over pairs and batch; only log pi at fixed actions has a gradient."""
    config = parts.config
    chex.assert_shape(batch.action, (len(batch.observation), parts.spec.action_dim))
    comparison = compare(params, state=state, parts=parts, batch=batch, key=key)
    g = preference.residual(comparison.log_density, comparison.q, comparison.energy, config.lam)
    pairs = preference.against_first if config.sampling == "reference" else preference.all_pairs
    loss = jnp.mean(pairs(g))
    metrics = learner.measured(actor_loss=loss, log_density=comparison.log_density)
    return loss, metrics | magnitudes(jax.lax.stop_gradient(comparison), config.lam)


# --------------------------------------------------------------------------------- updates


def update_behavior(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the behaviour model on its own loss."""
    del step
    behavior, vectors, metrics = energy.train(
        state.behavior, state.vectors, parts.model, parts.behavior_optimizer, batch, key
    )
    return replace(state, behavior=behavior, vectors=vectors), metrics


def update_critic(
    state: State, batch: Transition, key: Key, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of every member on its target, and of the target networks."""
    target = critic_target(state, parts=parts, batch=batch, key=key)
    weight = critic_weight(batch, parts=parts)
    critic, metrics = critics.regress(
        state.critic,
        parts.critic_optimizer,
        parts.critic,
        batch,
        target,
        partial(critics.squared_error, weight=weight),
    )
    return replace(state, critic=learner.polyak(critic, parts.config.tau)), metrics


def update_actor(
    state: State, batch: Transition, key: Key, *, parts: Parts
) -> tuple[State, Metrics]:
    """One step of the actor on equation 7."""

    def loss(params: Params) -> tuple[Array, Metrics]:
        return actor_loss(params, state=state, parts=parts, batch=batch, key=key)

    actor, metrics = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    return replace(state, actor=actor), metrics


def update_both(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """The actor, then the critic (the order of algorithm 1), on one batch."""
    del step
    actor_key, critic_key = jax.random.split(key)
    state, metrics = update_actor(state, batch, actor_key, parts=parts)
    state, more = update_critic(state, batch, critic_key, parts=parts)
    return state, metrics | more


def behavior_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> Array:
    """The behaviour model's loss, by which its own encoder of images is trained."""
    del step
    params = state.behavior.params
    vectors = parts.model.power_iteration(params, state.vectors)
    return parts.model.loss(params, vectors, batch, key)[0]


def actor_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> Array:
    """The actor's loss in `update_both`, by which an encoder of its own is trained."""
    del step
    actor_key, _ = jax.random.split(key)
    params = state.actor.params
    return actor_loss(params, state=state, parts=parts, batch=batch, key=actor_key)[0]


def critic_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> Array:
    """The critics' loss in `update_both`, by which their encoder of images is trained."""
    del step
    actor_key, critic_key = jax.random.split(key)
    without = batch._replace(observation=jax.lax.stop_gradient(batch.observation))
    state, _ = update_actor(state, without, actor_key, parts=parts)
    target = critic_target(state, parts=parts, batch=without, key=critic_key)
    error = partial(critics.squared_error, weight=critic_weight(batch, parts=parts))
    return critics.regression_loss(parts.critic, state.critic.params, batch, target, error)


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The squashed mean."""
    del key
    return parts.policy.act(state.actor.params, observation)


def act_behavior(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The behaviour model's action."""
    return parts.model.act(state.behavior.params, state.vectors, observation, key)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Q on data, policy and uniform actions; the energy's ranks; the terms of equation 7.

    If Q is far higher for uniform actions than for data actions, the critic diverges. Ranks near .5
    mean that the energy has learned nothing, a pair distance near 0 that the actor has collapsed.
    """
    pair_key, uniform_key, rank_key = jax.random.split(key, 3)
    comparison = compare(state.actor.params, state=state, parts=parts, batch=batch, key=pair_key)
    uniform = uniform_in(parts.policy.box, uniform_key, batch.action.shape, batch.action.dtype)
    ranks = energy.data_ranks(parts.model, state.behavior.params, state.vectors, batch, rank_key)
    policy = comparison.action[:, -1]
    metrics = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    metrics |= learner.measured(rank_accuracy=ranks)
    return metrics | magnitudes(comparison, parts.config.lam)


# ------------------------------------------------------------------------------------ make


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    behavior_key, actor_key, critic_key = jax.random.split(key, 3)
    observation, action = batch.observation, batch.action
    behavior, vectors = parts.model.init(behavior_key, observation, action)
    actor = parts.policy.init(actor_key, observation)
    critic = parts.critic.init(critic_key, observation, action)
    return State(
        behavior=learner.init(behavior, parts.behavior_optimizer),
        vectors=vectors,
        actor=learner.init(actor, parts.actor_optimizer),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
    )


def check(config: Config) -> None:
    """Raises ValueError for a value that a field does not allow."""
    require_choices(config)
    require_positive(config, *AT_LEAST_ONE)
    require_nonnegative(config, *NONNEGATIVE)
    require_positive(config, "lam")
    if config.negatives != "uniform" and config.behavior != "energy":
        raise ValueError(f"negatives={config.negatives} needs behavior=energy")
    if config.samples < 2:
        raise ValueError(f"samples must be at least 2, not {config.samples}")


def make(config: Config, spec: Spec) -> Method:
    """Binds BPR to a config and to the data's sizes. Raises ValueError for a bad config."""
    check(config)
    parts, sampler = build(config, spec), BATCH_SAMPLERS[config.batches]
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase(
                "behavior",
                config.pretrain_steps,
                partial(update_behavior, parts=parts),
                config.behavior_batch_size,
                sampler=sampler,
                outputs=("behavior", "vectors"),
                encoder_losses=(
                    EncoderLoss("behavior", partial(behavior_encoder_loss, parts=parts)),
                ),
            ),
            Phase(
                "train",
                config.train_steps,
                partial(update_both, parts=parts),
                config.batch_size,
                sampler=sampler,
                encoder_losses=(
                    EncoderLoss("critic", partial(critic_encoder_loss, parts=parts)),
                    EncoderLoss("actor", partial(actor_encoder_loss, parts=parts)),
                ),
            ),
        ),
        policies={
            "actor": Policy(partial(act, parts=parts), 1, "mean"),
            "behavior": Policy(partial(act_behavior, parts=parts), *parts.model.rule),
        },
        diagnose=partial(diagnose, parts=parts),
        encoders=(
            Encoder("critic"),
            Encoder("behavior", spectral=True),
            Encoder("actor", shared_with="critic"),
        ),
    )
