"""TD3+BC: TD3 whose policy also imitates the data, with one constant weight.

Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860; equation numbers are the paper's.

    Q_k  <- r + discount * min_k Q_k(s', clip(pi(s') + noise))                 TD3
    pi   -> maximise  alpha Q_1(s, pi(s)) / mean|Q_1|  -  mean (pi(s) - a)^2    (3, 5)

    symbol      name in code     shape
    pi          actor            policy network [B, A], tanh onto the action box
    Q_k         critic           [2, B]
    alpha       config.alpha     scalar; mean|Q_1| makes alpha independent of the reward scale

Phases: `train` only. The paper normalises observations (eps 1e-3) and uses raw rewards; for
locomotion the presets set the run's fields `normalize_observations` and `reward` accordingly.

Deviations; in `Config`, "(ours)" marks what the paper does not have:
 1. Dense layers are initialised as by Flax (LeCun normal, zero biases). PyTorch, which
    the authors use, draws both uniformly with variance 1 / (3 fan-in), a third of LeCun's.
 2. The policy is updated at steps 0, 2, 4, ...; the authors' code updates it one step later.
 3. Rows at a time limit are trained on, with the value of the recorded next observation. D4RL's
    function, which the authors use, leaves them out. Actions are clipped to 1 - 1e-5 of the box.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import flax.struct

from jaxrl_prefs import learner, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Encoder, EncoderLoss, Method, Phase, Policy
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import actor_losses, critics, td3
from jaxrl_prefs.values.td3 import Td3


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's (table 3); but for alpha, those of the TD3 authors' later code."""

    alpha: float = 2.5  # weight of the value against imitation; 0 is behaviour cloning
    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = False  # layer normalisation in the critics (ours)
    actor_learning_rate: float = 3e-4  # Adam's rate for the policy
    actor_decays: bool = False  # cosine decay of the actor's rate to 0 over train_steps (ours)
    critic_learning_rate: float = 3e-4  # Adam's rate for the critics
    tau: float = 0.005  # rate of both target networks, which move with the policy
    # std of the noise on the target's next action, as a fraction of half the action range
    noise: float = 0.2
    noise_clip: float = 0.5  # bound of that noise, as a fraction of half the action range
    actor_interval: int = 2  # critic steps per policy step
    batch_size: int = 256  # rows per update
    train_steps: int = 1_000_000  # updates of the critics


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable  # with its target network
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


def init(key: Key, batch: Transition, *, parts: Td3) -> State:
    """The initial state; the batch is read for shapes only."""
    return State(*td3.init(key, batch, td3=parts))


def actor_loss(
    params: Params, critic_params: Params, *, batch: Transition, parts: Td3, alpha: float
) -> tuple[Array, Metrics]:
    """The policy's loss (5), given the critics' parameters."""
    return actor_losses.td3_bc_loss(
        params,
        policy=parts.policy.act,
        critic=parts.critic,
        critic_params=critic_params,
        batch=batch,
        alpha=alpha,
    )


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Td3, alpha: float
) -> tuple[State, Metrics]:
    """The critics at every step, policy and target networks at every `actor_interval`-th."""
    actor, critic, metrics = td3.update(
        state.actor,
        state.critic,
        batch,
        key,
        step,
        td3=parts,
        loss=partial(actor_loss, batch=batch, parts=parts, alpha=alpha),
        metric_names=("actor_loss", "bc_error"),
    )
    return State(actor, critic), metrics


def critic_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Td3
) -> Array:
    """The critics' loss, by which an encoder of images is trained (DrQ+BC of V-D4RL)."""
    del step
    return td3.critic_encoder_loss(state.critic, state.actor, batch, key, td3=parts)


def actor_encoder_loss(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Td3, alpha: float
) -> Array:
    """The policy's loss, by which an encoder of its own is trained."""
    del step
    loss = partial(actor_loss, batch=batch, parts=parts, alpha=alpha)
    return td3.actor_encoder_loss(state.critic, state.actor, batch, key, td3=parts, loss=loss)


def act(state: State, observation: Array, key: Key, *, parts: Td3) -> Array:
    """The policy's action, without noise."""
    del key
    return parts.policy.act(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Td3) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the cloning error."""
    uniform = uniform_in(parts.box, key, batch.action.shape, batch.action.dtype)
    policy_action = parts.policy.act(state.actor.params, batch.observation)
    q = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy_action, uniform)
    bc_error = actor_losses.squared_distance(policy_action, batch.action)
    return q | learner.measured(bc_error=bc_error)


def make(config: Config, spec: Spec) -> Method:
    """Binds TD3+BC to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size", "actor_interval")
    validation.require_nonnegative(config, "alpha", "noise", "noise_clip", "train_steps")
    parts = td3.from_config(config, spec)
    of_actor = partial(actor_encoder_loss, parts=parts, alpha=config.alpha)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts, alpha=config.alpha),
                config.batch_size,
                encoder_losses=(
                    EncoderLoss("critic", partial(critic_encoder_loss, parts=parts)),
                    EncoderLoss("actor", of_actor, config.actor_interval),
                ),
                period=config.actor_interval,
            ),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
        encoders=(Encoder("critic"), Encoder("actor", shared_with="critic")),
    )
