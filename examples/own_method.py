"""ReBRAC: TD3+BC whose critic is penalised too, by a weight of its own.

An example of a method written outside of the package, from its public parts.

Tarasov, Kurenkov, Nikulin and Kolesnikov, NeurIPS 2023, arXiv 2305.09836.

    a'   =  clip(pi(s') + noise)
    Q_k  <- r + discount * ( min_k Q_k(s', a') - beta_2 |a' - a'_data|^2 )
    pi   -> maximise  mean  min_k Q_k(s, pi(s)) / mean|min_k Q_k|  -  beta_1 |pi(s) - a_data|^2

    symbol      name in code              shape
    pi          actor                     policy network [B, A], tanh onto the action box
    Q_k         critic                    [2, B], with layer normalisation
    beta_1      config.actor_penalty      scalar; weight of imitation in the policy's loss
    beta_2      config.critic_penalty     scalar; taken off the next state's value
    a'_data     batch.next_action         [B, A]; the action that the data hold for s'

Squared distances are sums over the action's dimensions. Networks have three hidden layers.

Phases: `train` only. Rewards are the paper's raw ones, and antmaze's times 100 (`reward_scale`).

Deviations:
 1. Layers normalise before their ReLU, the authors' after it.
 2. Kernels start as plain Flax draws them (LeCun normal, zero biases); the authors draw hidden
    layers uniformly with biases of 0.1, and the last layer uniformly within 0.001 (policy) and
    0.003 (critics).
 3. The moving average of the policy takes its parameters after the step, the authors' code those
    before it. Both averages move with the policy, at every second update, as there.
 4. The last step of an episode that was cut has no next action: it is trained on without the
    critic's penalty, where the authors leave it out.

From the folder above, on the command line:

    jaxrl-prefs run --algo=examples.own_method --dataset=pendulum-mixed --seeds=3

in Python:

    import jaxrl_prefs as jp
    from examples import own_method

    run = jp.train(own_method, "pendulum-mixed", seeds=3, workdir="runs/rebrac")
    run = jp.load_run("runs/rebrac", method=own_method)

and in a test:

    from jaxrl_prefs import testing

    testing.check_method(own_method)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import learner, validation
from jaxrl_prefs.learner import Trainable
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.ops import values
from jaxrl_prefs.ops.shapes import clip_to_box, expand_rank, uniform_in
from jaxrl_prefs.policies import deterministic
from jaxrl_prefs.types import Array, Box, Key, Metrics, Net, Params, Spec, Transition
from jaxrl_prefs.values import critics
from jaxrl_prefs.values.actor_losses import ActFn, squared_distance


@dataclasses.dataclass(frozen=True)
class Config:
    """Defaults are the paper's for D4RL locomotion, the penalties those of hopper-medium.

    The paper chooses both penalties anew for every dataset.
    """

    actor_penalty: float = 0.01  # beta_1
    critic_penalty: float = 0.001  # beta_2
    actor_hidden: tuple[int, ...] = (256, 256, 256)
    critic_hidden: tuple[int, ...] = (256, 256, 256)
    critic_layer_norm: bool = True
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    tau: float = 0.005  # rate of both moving averages, which move with the policy
    noise: float = 0.2  # of the target's next action, as a fraction of half the action range
    noise_clip: float = 0.5
    actor_interval: int = 2  # critic steps per policy step
    batch_size: int = 1024
    train_steps: int = 1_000_000


@flax.struct.dataclass
class State:
    """Everything that training changes; arrays only."""

    actor: Trainable  # with its target network
    critic: Trainable  # twin Q, leaves [2, ...], with its target network


# -------------------------------------------------------------------------------- networks


class Parts(NamedTuple):
    """Networks, optimisers and the action box; no arrays that training changes."""

    policy: deterministic.Deterministic
    critic: Net  # (observation, action) -> [2, B]
    box: Box  # of the actions
    actor_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def parts_of(config: Config, spec: Spec) -> Parts:
    """Builds the networks and their optimisers."""
    return Parts(
        policy=deterministic.relu_policy(config.actor_hidden, spec),
        critic=critics.twin(config.critic_hidden, layer_norm=config.critic_layer_norm),
        box=spec.action_box,
        actor_optimizer=learner.optimizer(config.actor_learning_rate),
        critic_optimizer=learner.optimizer(config.critic_learning_rate),
    )


def init(key: Key, batch: Transition, *, parts: Parts) -> State:
    """The initial state; the batch is read for shapes only."""
    actor_key, critic_key = jax.random.split(key)
    actor = parts.policy.init(actor_key, batch.observation)
    critic = parts.critic.init(critic_key, batch.observation, batch.action)
    return State(
        actor=learner.init(actor, parts.actor_optimizer, target=True),
        critic=learner.init(critic, parts.critic_optimizer, target=True),
    )


# ---------------------------------------------------------------------------------- losses


def critic_target(
    critic_params: Params, batch: Transition, next_action: Array, *, critic: Net, penalty: float
) -> Array:
    """r + discount * (min_k Q_k(s', a') - penalty |a' - a'_data|^2): [B], not differentiated.

    Args:
        critic_params: of the target network.
        next_action: a' [B, A].
        penalty: beta_2; without effect where the data have no next action.
    """
    q = critic.apply(critic_params, batch.next_observation, next_action).min(0)
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

    `penalty` is beta_1. The divisor and `critic_params` are held fixed.
    """
    action = policy(params, batch.observation)
    q = critic.apply(critic_params, batch.observation, action).min(0)
    gap = squared_distance(action, batch.action, "sum")
    loss = jnp.mean(penalty * gap - values.normalised(q))
    return loss, learner.measured(actor_loss=loss, bc_error=gap)


# --------------------------------------------------------------------------------- updates


def smoothed(action: Array, key: Key, *, box: Box, noise: float, clip: float) -> Array:
    """An action [B, A] plus clipped normal noise, clipped to the box.

    `noise` and `clip` are fractions of half the action range.
    """
    drawn = noise * jax.random.normal(key, action.shape, action.dtype)
    radius = expand_rank(jnp.asarray(box.radius, action.dtype), action.ndim)
    return clip_to_box(action + radius * jnp.clip(drawn, -clip, clip), box)


def update_critic(
    state: State, batch: Transition, key: Key, *, parts: Parts, config: Config
) -> tuple[Trainable, Metrics]:
    """One gradient step of both critics towards the penalised target."""
    action = parts.policy.act(state.actor.target, batch.next_observation)
    action = smoothed(action, key, box=parts.box, noise=config.noise, clip=config.noise_clip)
    target = critic_target(
        state.critic.target, batch, action, critic=parts.critic, penalty=config.critic_penalty
    )
    critic, metrics = critics.regress(
        state.critic, parts.critic_optimizer, parts.critic, batch, target
    )
    return critic, metrics | learner.measured(critic_target=target)


def update_actor(
    state: State, batch: Transition, *, parts: Parts, config: Config
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
    actor, metrics = learner.gradient_step(state.actor, parts.actor_optimizer, loss)
    critic = learner.polyak(state.critic, config.tau)
    return State(learner.polyak(actor, config.tau), critic), metrics


def update(
    state: State, batch: Transition, key: Key, step: Array, *, parts: Parts, config: Config
) -> tuple[State, Metrics]:
    """The critics at every step; policy and target networks at every `actor_interval`-th."""
    critic, metrics = update_critic(state, batch, key, parts=parts, config=config)

    def improve(operand: tuple[State, Metrics]) -> tuple[State, Metrics]:
        return update_actor(operand[0], batch, parts=parts, config=config)

    operand = State(state.actor, critic), learner.unmeasured("actor_loss", "bc_error")
    state, more = learner.every(config.actor_interval, step, improve, operand)
    return state, metrics | more


def act(state: State, observation: Array, key: Key, *, parts: Parts) -> Array:
    """The policy's action; nothing is drawn."""
    del key
    return parts.policy.act(state.actor.params, observation)


def diagnose(state: State, batch: Transition, key: Key, *, parts: Parts) -> Metrics:
    """Mean Q on data, policy and uniform actions, and how far the policy is from the data."""
    uniform = uniform_in(parts.box, key, batch.action.shape, batch.action.dtype)
    policy = parts.policy.act(state.actor.params, batch.observation)
    found = critics.q_diagnostics(parts.critic, state.critic.params, batch, policy, uniform)
    gap = squared_distance(policy, batch.action, "sum")
    return found | learner.measured(bc_error=gap)


# ------------------------------------------------------------------------------------ make


def make(config: Config, spec: Spec) -> Method:
    """Binds ReBRAC to a config and to the data's sizes. Raises ValueError for a bad config."""
    validation.require_positive(config, "batch_size", "actor_interval")
    validation.require_nonnegative(
        config, "actor_penalty", "critic_penalty", "noise", "noise_clip", "train_steps"
    )
    parts = parts_of(config, spec)
    return Method(
        init=partial(init, parts=parts),
        phases=(
            Phase(
                "train",
                config.train_steps,
                partial(update, parts=parts, config=config),
                config.batch_size,
            ),
        ),
        policies={"actor": Policy(partial(act, parts=parts), 1, "deterministic")},
        diagnose=partial(diagnose, parts=parts),
    )
