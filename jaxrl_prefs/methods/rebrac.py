"""ReBRAC: TD3+BC whose critic is penalised too, by a weight of its own.

Tarasov, Kurenkov, Nikulin and Kolesnikov, NeurIPS 2023, arXiv 2305.09836.

    a'   =  clip(pi(s') + noise)
    Q_k  <- r + discount * ( min_k Q_k(s', a') - beta_2 |a' - a'_data|^2 )
    pi   -> maximise  mean  min_k Q_k(s, pi(s)) / mean|min_k Q_k|  -  beta_1 |pi(s) - a_data|^2

    symbol      name in code              shape
    pi          actor                     policy network [B, A], tanh onto the action box
    Q_k         critic                    [2, B], with layer normalisation
    beta_1      config.actor_penalty      scalar; weight of imitation in the policy's loss
    beta_2      config.critic_penalty     scalar; weight of what is taken off the next state's value
    a'_data     batch.next_action         [B, A]; the action that the data hold for s'

Squared distances are sums over the action's dimensions.

Phases: `train` only. Rewards are raw, those of antmaze times 100 (the run's `reward_scale`).

Deviations; "(code)" marks what only the authors' code has:
 1. Layers are normalised after their ReLU. Kernels are uniform: hidden ones as PyTorch draws them,
    the last within 0.001 (policy) or 0.003 (critics); hidden biases start at 0.1 (code). The last
    layer's bias starts at 0, the authors' like its kernel.
 2. Both target networks move at the policy's steps, the policy's towards its parameters before the
    step, the critics' towards theirs after it (code).
 3. The last step of an episode that was cut has no next action: it is trained on without the
    critic's penalty. The authors leave it out.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, Literal

import chex
import flax.struct
import jax
import jax.numpy as jnp

from jaxrl_prefs import learner, nets, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import uniform_in
from jaxrl_prefs.policies.deterministic import Deterministic
from jaxrl_prefs.types import Array, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics, td3
from jaxrl_prefs.values.actor_losses import ActFn, squared_distance
from jaxrl_prefs.values.td3 import Td3


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the published ones of D4RL locomotion, the penalties those of hopper-medium.

    The paper chooses both penalties anew for every dataset.
    """

    actor_penalty: float = 0.01  # beta_1; 0.001 to 0.1 in the published runs on D4RL
    critic_penalty: float = 0.01  # beta_2; 0 to 0.5 in the published runs on D4RL
    actor_hidden: tuple[int, ...] = (256, 256, 256)  # widths of the policy's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of each critic's hidden layers
    critic_layer_norm: bool = True  # layer normalisation in the critics
    activation: Literal["relu", "gelu"] = "relu"  # of all hidden layers; gelu in FQL's code
    actor_learning_rate: float = 1e-3  # Adam's rate for the policy
    critic_learning_rate: float = 1e-3  # Adam's rate for the critics
    tau: float = 0.005  # rate of both target networks
    # std of the noise on the target's next action, as a fraction of half the action range
    noise: float = 0.2
    noise_clip: float = 0.5  # bound of that noise, as a fraction of half the action range
    actor_interval: int = 2  # critic steps per policy step
    batch_size: int = 1024  # rows per update
    train_steps: int = 1_000_000  # updates of the critics


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable  # with its target network
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


def build(config: Config, spec: Spec) -> Td3:
    """Makes the networks and optimisers."""
    options: dict[str, Any] = {
        "activation": config.activation,
        "norm_after": True,
        "initialiser": "torch",
        "hidden_bias": 0.1,
    }
    # PyTorch's kernels lie within 1 / sqrt(inputs).
    actor_gain = 0.001 * math.sqrt(config.actor_hidden[-1])
    critic_gain = 0.003 * math.sqrt(config.critic_hidden[-1])
    actor = nets.mlp(config.actor_hidden, spec.action_dim, last_gain=actor_gain, **options)
    critic = nets.scalar_mlp(
        config.critic_hidden, layer_norm=config.critic_layer_norm, last_gain=critic_gain, **options
    )
    return Td3(
        policy=Deterministic(actor, spec.action_box),
        critic=nets.ensemble(critic, 2),
        box=spec.action_box,
        actor_optimizer=learner.optimizer(config.actor_learning_rate),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
        tau=config.tau,
        noise=config.noise,
        noise_clip=config.noise_clip,
        actor_interval=config.actor_interval,
    )


def init(key: Key, batch: Transition, *, parts: Td3) -> State:
    """The initial state; the batch is read for shapes only."""
    return State(*td3.init(key, batch, td3=parts))


# ---------------------------------------------------------------------------------- losses


def critic_target(
    critic_params: Params, batch: Transition, next_action: Array, *, critic: Net, penalty: float
) -> Array:
    """r + discount * (min_k Q_k(s', a') - penalty |a' - a'_data|^2): [B], not differentiated.

    Args:
        critic_params: of the target network.
        batch: [B] transitions.
        next_action: a' [B, A].
        critic: an ensemble.
        penalty: beta_2; without effect where the data have no next action.
    """
    chex.assert_equal_shape([next_action, batch.next_action])
    q = critic.apply(critic_params, batch.next_observation, next_action).min(0)
    chex.assert_equal_shape([q, batch.reward, batch.discount])
    gap = squared_distance(next_action, batch.next_action, "sum")
    next_value = q - penalty * batch.has_next_action * gap
    return jax.lax.stop_gradient(batch.reward + batch.discount * next_value)


def actor_loss(
    params: Params,
    *,
    policy: ActFn,
    critic: Net,
    critic_params: Params,
    batch: Transition,
    penalty: float,
) -> tuple[Array, Metrics]:
    """mean[ penalty |pi(s) - a|^2 ] - mean[ min_k Q_k(s, pi(s)) ] / mean|min_k Q_k|.

    `penalty` is beta_1. No gradient reaches `critic_params` or the divisor.
    """
    action = policy(params, batch.observation)
    chex.assert_equal_shape([action, batch.action])
    q = nets.with_action_gradient(critic, critic_params, batch.observation, action).min(0)
    chex.assert_shape(q, batch.action.shape[:1])
    gap = squared_distance(action, batch.action, "sum")
    loss = jnp.mean(penalty * gap - values.normalised(q))
    return loss, learner.measured(actor_loss=loss, bc_error=gap)


# --------------------------------------------------------------------------------- updates


def update_critic(
    state: State, batch: Transition, key: Key, *, parts: Td3, config: Config
) -> tuple[Trainable, Metrics]:
    """One gradient step of both critics towards the penalised target."""
    action = td3.smoothed_action(state.actor.target, batch.next_observation, key, td3=parts)
    target = critic_target(
        state.critic.target, batch, action, critic=parts.critic, penalty=config.critic_penalty
    )
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, target
    )
    return critic, metrics | learner.measured(critic_target=target)


def update_actor(
    state: State, batch: Transition, *, parts: Td3, config: Config
) -> tuple[State, Metrics]:
    """One gradient step of the policy, and one of both target networks."""
    loss = partial(
        actor_loss,
        policy=parts.policy.act,
        critic=parts.critic,
        critic_params=state.critic.params,
        batch=batch,
        penalty=config.actor_penalty,
    )
    actor = learner.polyak(state.actor, parts.tau)
    actor, metrics = learner.gradient_step(actor, parts.actor_optimizer, loss)
    return State(actor, learner.polyak(state.critic, parts.tau)), metrics


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Td3, config: Config
) -> tuple[State, Metrics]:
    """The critics at every step; policy and target networks at every `actor_interval`-th."""
    critic, metrics = update_critic(state, batch, key, parts=parts, config=config)

    def improve(operand: tuple[State, Metrics]) -> tuple[State, Metrics]:
        return update_actor(operand[0], batch, parts=parts, config=config)

    operand = State(state.actor, critic), learner.unmeasured("actor_loss", "bc_error")
    state, more = learner.every(parts.actor_interval, step, improve, operand)
    return state, metrics | more


# ------------------------------------------------------------------------ acting, measuring


def act(state: State, observation: Array, key: Key, *, parts: Td3) -> Array:
    """The policy's action, without noise."""
    del key
    return parts.policy.act(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Td3) -> Metrics:
    """Mean Q on data, policy and uniform actions, the critics' spread, and the cloning error."""
    uniform = uniform_in(parts.box, key, batch.action.shape, batch.action.dtype)
    policy = parts.policy.act(state.actor.params, batch.observation)
    metrics = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    return metrics | learner.measured(bc_error=squared_distance(policy, batch.action, "sum"))


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds ReBRAC to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_choices(config)
    validation.require_positive(config, "batch_size", "actor_interval")
    validation.require_nonnegative(
        config, "actor_penalty", "critic_penalty", "noise", "noise_clip", "train_steps"
    )
    parts = build(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts, config=config),
                config.batch_size,
                period=config.actor_interval,
            ),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
    )
