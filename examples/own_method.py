"""ReBRAC as a method of your own: this file is all that it takes, and nothing here is ours.

    jaxrl-prefs run --algo=examples.own_method --dataset=pendulum-mixed --seeds=3

or, in Python, with a module or its name:

    import jaxrl_prefs as jp
    from examples import own_method

    run = jp.train(own_method, "pendulum-mixed", seeds=3, workdir="runs/rebrac")
    run = jp.load_run("runs/rebrac", method=own_method)

A method is a module with `Config` (a frozen dataclass), `State` (a pytree of arrays) and
`make(config, spec)`, which returns a `Method` made of pure functions.

ReBRAC (Tarasov et al. 2023, arXiv 2305.09836) is TD3 whose actor and whose critic both pay for
actions that are far from the data's, each with a weight of its own:

    Q  <- r + discount * (min_k Q_k(s', a') - critic_bc |a' - data's a'|^2),  a' = pi(s') + noise
    pi -> maximise  Q_1(s, pi(s)) / mean|Q_1| - actor_bc |pi(s) - a|^2
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrl_prefs import Method, Phase, Policy, Spec, Transition


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields that `--set` and `train(...)` take."""

    actor_bc: float = 0.01
    critic_bc: float = 0.01
    hidden: tuple[int, ...] = (256, 256, 256)
    learning_rate: float = 1e-3
    tau: float = 0.005  # rate at which the target networks follow
    noise: float = 0.2  # of the target's action
    noise_clip: float = 0.5
    batch_size: int = 256
    train_steps: int = 1_000_000


@flax.struct.dataclass
class State:
    """What training changes; arrays only. A target network starts as a copy."""

    actor: Any
    critic: Any  # leaves [2, ...]
    actor_target: Any
    critic_target: Any
    actor_optimizer: Any
    critic_optimizer: Any


class Mlp(nn.Module):
    hidden: tuple[int, ...]
    outputs: int
    normalize: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
            x = nn.LayerNorm()(x) if self.normalize else x
        return nn.Dense(self.outputs)(x)


def make(config: Config, spec: Spec) -> Method:
    """Binds the method to a config and to the data's sizes."""
    if config.batch_size < 1:
        raise ValueError("field 'batch_size' must be at least 1")
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)
    policy_net = Mlp(config.hidden, spec.action_dim, normalize=False)
    critic_net = Mlp(config.hidden, 1, normalize=True)
    optimizer = optax.adam(config.learning_rate)

    def act(params: Any, observation: jax.Array) -> jax.Array:  # [B, O] -> [B, A]
        return low + (high - low) * (jnp.tanh(policy_net.apply(params, observation)) + 1) / 2

    def value(params: Any, observation: jax.Array, action: jax.Array) -> jax.Array:  # -> [2, B]
        inputs = jnp.concatenate([observation, action], axis=-1)
        return jax.vmap(lambda each: critic_net.apply(each, inputs)[..., 0])(params)

    def init(key: jax.Array, batch: Transition) -> State:
        actor_key, critic_key = jax.random.split(key)
        actor = policy_net.init(actor_key, batch.observation)
        inputs = jnp.concatenate([batch.observation, batch.action], axis=-1)
        critic = jax.vmap(lambda k: critic_net.init(k, inputs))(jax.random.split(critic_key))
        return State(actor, critic, actor, critic, optimizer.init(actor), optimizer.init(critic))

    def target(state: State, batch: Transition, key: jax.Array) -> jax.Array:  # [B]
        drawn = config.noise * jax.random.normal(key, batch.action.shape)
        noise = jnp.clip(drawn, -config.noise_clip, config.noise_clip) * (high - low) / 2
        action = jnp.clip(act(state.actor_target, batch.next_observation) + noise, low, high)
        q = value(state.critic_target, batch.next_observation, action).min(0)
        far = jnp.square(action - batch.next_action).sum(-1) * batch.has_next_action
        return batch.reward + batch.discount * (q - config.critic_bc * far)

    def update(
        state: State, batch: Transition, key: jax.Array, step: jax.Array
    ) -> tuple[State, dict[str, tuple[jax.Array, jax.Array]]]:
        del step
        wanted = target(state, batch, key)

        def critic_loss(params: Any) -> jax.Array:
            return jnp.square(value(params, batch.observation, batch.action) - wanted).mean()

        def actor_loss(params: Any) -> jax.Array:
            action = act(params, batch.observation)
            q = value(state.critic, batch.observation, action)[0]
            scale = jax.lax.stop_gradient(jnp.abs(q).mean()) + 1e-8
            far = jnp.square(action - batch.action).sum(-1)
            return (config.actor_bc * far - q / scale).mean()

        critic_error, gradient = jax.value_and_grad(critic_loss)(state.critic)
        moves, critic_optimizer = optimizer.update(gradient, state.critic_optimizer)
        critic = optax.apply_updates(state.critic, moves)
        actor_error, gradient = jax.value_and_grad(actor_loss)(state.actor)
        moves, actor_optimizer = optimizer.update(gradient, state.actor_optimizer)
        actor = optax.apply_updates(state.actor, moves)
        after = State(
            actor,
            critic,
            optax.incremental_update(actor, state.actor_target, config.tau),
            optax.incremental_update(critic, state.critic_target, config.tau),
            actor_optimizer,
            critic_optimizer,
        )
        one = jnp.ones(())  # metrics are (sum, count)
        return after, {"critic_loss": (critic_error, one), "actor_loss": (actor_error, one)}

    def play(state: State, observation: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return act(state.actor, observation)

    return Method(
        init=init,
        phases=(Phase("train", config.train_steps, update, config.batch_size),),
        policies={"actor": Policy(play, 1, "deterministic")},
    )
