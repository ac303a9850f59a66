"""TD3+BC: TD3 whose policy also imitates the data, by one constant weight.

Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860; equation numbers are the paper's.

    Q_k  <- r + discount * min_k Q_k(s', clip(pi(s') + noise))                 TD3
    pi   -> maximise  alpha Q_1(s, pi(s)) / mean|Q_1|  -  mean (pi(s) - a)^2    (3, 5)

    symbol      name in code     shape
    pi          actor            policy network [B, A], tanh onto the action box
    Q_k         critic           [2, B]
    alpha       config.alpha     scalar; the divisor mean|Q_1| makes it free of the reward's scale

Phases: `train` alone. The paper normalises observations (eps 1e-3): a field of the run, not of the
method. Rewards are the paper's raw ones.

Deviations:
 1. Kernels start as plain Flax draws them (LeCun normal, zero biases), not as PyTorch does (uniform
    with a third of that variance, biases too).
 2. The policy moves at steps 0, 2, 4, ..., one step before the author's code.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import flax.struct

from jaxrl_prefs import learner, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.types import Array, Key, Metrics, Params, Spec, Transition
from jaxrl_prefs.values import critics, td3
from jaxrl_prefs.values.td3 import Td3


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's (table 3), which are those of TD3 but for alpha."""

    alpha: float = 2.5  # weight of the value against imitation; 0 is behaviour cloning
    actor_hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256)
    critic_layer_norm: bool = False  # ours, for antmaze, adroit and kitchen
    actor_learning_rate: float = 3e-4
    actor_decays: bool = False  # ours: cosine over train_steps of the actor's own updates
    critic_learning_rate: float = 3e-4
    tau: float = 0.005  # rate of both moving averages, which move with the policy
    noise: float = 0.2  # of the target's next action, in halves of the action box
    noise_clip: float = 0.5
    actor_interval: int = 2  # critic steps per policy step
    batch_size: int = 256
    train_steps: int = 1_000_000


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable  # with its moving average
    critic: Trainable  # twin Q, leaves [2, ...], with its moving average


def init(key: Key, batch: Transition, *, parts: Td3) -> State:
    """A fresh state; the batch is read for shapes only."""
    return State(*td3.init(key, batch, td3=parts))


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Td3, alpha: float
) -> tuple[State, Metrics]:
    """The critics at every step, the policy and the averages at every `actor_interval`-th."""

    def loss(params: Params, critic_params: Params) -> tuple[Array, Metrics]:
        return deterministic.bc_loss(
            params,
            policy=parts.policy,
            critic=parts.critic,
            critic_params=critic_params,
            batch=batch,
            alpha=alpha,
        )

    actor, critic, metrics = td3.update(
        state.actor,
        state.critic,
        batch,
        key,
        step,
        td3=parts,
        loss=loss,
        measures=("actor_loss", "bc_error"),
    )
    return State(actor, critic), metrics


def act(state: State, observation: Array, key: Key, *, parts: Td3) -> Array:
    """The policy's action; nothing is drawn."""
    del key
    return parts.policy.apply(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Td3) -> Metrics:
    """Mean Q on data, policy and uniform actions, the twins' spread, and how far imitation is."""
    uniform = uniform_in(parts.low, parts.high, key, batch.action.shape, batch.action.dtype)
    policy = parts.policy.apply(state.actor.params, batch.observation)
    found = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    return found | learner.measured(bc_error=deterministic.distance(policy, batch.action))


def make(config: Config, spec: Spec) -> Method:
    """Binds TD3+BC to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size", "actor_interval")
    validation.require_nonnegative(config, "alpha", "noise", "noise_clip", "train_steps")
    parts = td3.of(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts, alpha=config.alpha),
                config.batch_size,
            ),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
    )
