"""TD3-BST: TD3 with behavioural supervisor tuning by a Morse network.

Srinivasan and Knottenbelt, IJCAI 2024, arXiv 2404.16399.

A Morse network, trained on the data and then frozen, gives a score M in [0, 1] for how likely an
action is to belong to the data. Where M is near 1 at the policy's own action, there is almost no
penalty; the smaller M is, the stronger the pull towards the recorded action. This weight replaces
TD3+BC's constant one. The paper aims at one setting for every dataset; our presets have one for
every family but the pendulum (see 10).

    M(s, a) = K(f(s, a), a) in [0, 1]                                      behavior/morse.py
    C       = 1 - M(s, pi(s))                                              the uncertainty
    Q_k  <- r + discount * min_k Q_k(s', clip(pi(s') + noise))             as in TD3
    pi   -> maximise  mean Q_1(s, pi) / mean|Q_1|  -  mean (exp(C / mu) - 1) |pi - a|^2

    symbol      name in code             shape
    f           morse                    [B, A], a network of (s, a)
    pi          actor                    policy network [B, A], tanh onto the action box
    Q_k         critic                   [2, B]
    lambda      config.kernel_scale      how narrow the kernel is
    mu          config.mu                temperature of the weight, which is at most exp(1 / mu) - 1

Phases: `clone` (a Gaussian fitted to the data's actions, only with `clone_steps`) -> `morse` ->
`train` (Morse network frozen). The first two hold out every 20th row and measure on it.

The paper's full text, its table of settings and its code were not available to us. We know its
objective, its two hyperparameters and the values of lambda that it tries. All other choices are
ours:
 1. Morse network and loss: kernel on f(s, a) - a, uniform actions at the data's states, 3x256 ReLU,
    Adam 3e-4, batch 1024, 100,000 steps and 10 uniform actions per row. They follow a later paper
    with the same network as far as it gives them.
 2. The weight is differentiated too (`weight_gradient = "full"`). With a detached weight the policy
    ends at the mean of the modes, as behaviour cloning does; the paper says that it does not.
 3. |pi - a|^2 is the mean over action dimensions, as in TD3+BC; "sum" is the other reading. With
    `distance = "standardised"`, an option of ours, it is the mean of ((pi - a) / sigma(s))^2, with
    the standard deviations of the clone: where the behaviour is narrow, the pull is strong.
 4. As in TD3+BC, mean|Q_1| divides the value and carries no gradient, and the policy maximises the
    first critic.
 5. mu = 1; the presets have 4, with standardised distances, and 16 for our pendulum. A larger mu is
    a weaker pull: near mu = 3 the largest weight is that of TD3+BC, whose distances are in the box.
 6. Every constant of TD3 is TD3+BC's; so are the initialisation of the dense layers and the step at
    which the policy is first updated.
 7. `negative_weight` is 1, the usual loss: certainty is then 1 wherever the data are denser than
    uniform actions. At 2 (per dimension) it is 1 where their density is above 1 (in halves of the
    box).
 8. `shuffled` is 0, uniform negatives only, as usual. In 24 dimensions such a network does not
    distinguish states; the presets for adroit and kitchen take half of the negatives that are
    not near the data from other rows.
 9. Kernels other than the RBF have parameterisations of ours (behavior/morse.py).
10. A network that is trained to the optimum of its loss is a plateau with a cliff, on which the
    method has no slope. The remedies are options, off by default: fewer `pretrain_steps`, a rule
    that ends training (`stop_uncertainty`), negatives from a widened Gaussian clone (`near`), noise
    on the network's input (`input_noise`), weight decay (behavior/supervisor.py). The presets have
    3,000 steps, half of the negatives near the data, a detached weight and standardised distances.
    The clone also measures the slope; a run warns where there is none.
11. `weight_floor` is 0. With a floor the weight is max(exp(C / mu) - 1, floor).
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import flax.struct
import jax

from jaxrl_prefs import validation
from jaxrl_prefs.behavior import morse, supervisor
from jaxrl_prefs.behavior.supervisor import Supervisor
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics, td3
from jaxrl_prefs.values.td3 import Td3


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults: the kernel scale is the paper's; [ours] marks a choice of ours."""

    # --- objective
    # lambda, how narrow the kernel is: a number, or a multiple of the action dimension k
    kernel_scale: str = dataclasses.field(default="k/2", metadata=morse.SCALE)
    mu: float = 1.0  # [ours] temperature of the weight exp(C / mu) - 1
    # [ours] whether the weight is differentiated with respect to the policy
    weight_gradient: Literal["full", "detached"] = "full"
    weight_floor: float = 0.0  # [ours] least weight; 1 / alpha and a large mu give TD3+BC
    # [ours] |pi - a|^2 over the action dimensions; standardised: mean, in stds of the clone
    distance: Literal["mean", "sum", "standardised"] = "mean"
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
    # --- policy and critics: TD3+BC's
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = False  # [ours] layer normalisation in the critics
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    actor_decays: bool = False  # [ours] cosine decay of the actor's rate to 0 over train_steps
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    tau: float = 0.005  # rate of both target networks, which move with the policy
    noise: float = 0.2  # std of the noise on the target's next action, in halves of the action box
    noise_clip: float = 0.5  # bound of that noise, in halves of the action box
    actor_interval: int = 2  # critic steps per policy step
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of the critics


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    morse: Trainable  # f; without a target network
    clone: Trainable | None  # the Gaussian clone, if there is one
    stopped_at: Array | None  # updates after which f stopped by `stop_uncertainty`, or -1
    actor: Trainable  # with its target network
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


class Parts(NamedTuple):
    """What the losses are computed with; no arrays."""

    config: Config
    supervisor: Supervisor
    td3: Td3


def build(config: Config, spec: Spec) -> Parts:
    """Makes the networks and optimisers. Raises ValueError for a value that no field allows."""
    return Parts(
        config=config,
        supervisor=supervisor.from_config(config, spec),
        td3=td3.from_config(config, spec),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    morse_key, td3_key = jax.random.split(key)
    actor, critic = td3.init(td3_key, batch, td3=parts.td3)
    fields = supervisor.init(morse_key, batch, supervisor=parts.supervisor)
    return State(**fields, actor=actor, critic=critic)


# --------------------------------------------------------------------------------- updates


def actor_loss(
    params: Params, critic_params: Params, *, state: State, batch: Transition, parts: Parts
) -> tuple[Array, Metrics]:
    """The objective above, negated; its gradient passes value, weight and distance."""
    return actor_losses.td3_bst_loss(
        params,
        policy=parts.td3.policy.act,
        critic=parts.td3.critic,
        critic_params=critic_params,
        morse=parts.supervisor.morse,
        morse_params=state.morse.params,
        batch=batch,
        mu=parts.config.mu,
        gradient=parts.config.weight_gradient,
        distance=parts.config.distance,
        std=supervisor.clone_std(state, batch, supervisor=parts.supervisor),
        floor=parts.config.weight_floor,
    )


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts
) -> tuple[State, Metrics]:
    """The critics at every step, policy and target networks at every `actor_interval`-th."""
    actor, critic, metrics = td3.update(
        state.actor,
        state.critic,
        batch,
        key,
        step,
        td3=parts.td3,
        loss=partial(actor_loss, state=state, batch=batch, parts=parts),
        metric_names=("actor_loss", "bc_error", "bst_weight"),
    )
    return replace(state, actor=actor, critic=critic), metrics


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's action, without noise."""
    del key
    return parts.td3.policy.act(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q and certainty on data, policy and uniform actions, and the critics' spread."""
    uniform = uniform_in(parts.td3.box, key, batch.action.shape, batch.action.dtype)
    policy = parts.td3.policy.act(state.actor.params, batch.observation)
    q = critics.q_diagnostics(parts.td3.critic, state.critic.params, batch, policy, uniform)
    return q | supervisor.diagnosis(state, batch, key, policy, uniform, supervisor=parts.supervisor)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds TD3-BST to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    actor_losses.check_td3_bst_fields(config)
    validation.require_positive(config, "actor_interval")
    validation.require_nonnegative(config, "noise", "noise_clip")
    parts = build(config, spec)

    return Method(
        init=partial(init, parts=parts),
        phases=(
            *(Phase(**each) for each in supervisor.pretraining(config, parts.supervisor)),
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts),
                config.batch_size,
                period=config.actor_interval,
            ),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
        warn=supervisor.warnings,
    )
