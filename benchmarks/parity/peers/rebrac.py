"""ReBRAC of tinkoff-ai/ReBRAC, with distrax.

All its networks have layers of one width and one number of them, ReLU and one learning rate here.
Where an episode was cut there is no next action, and its critics are penalised for the distance to
zeros; the authors leave such rows out, and ours are not penalised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.parity.rebrac import Losses, imported
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.rebrac import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition


class State(NamedTuple):
    """Their train states."""

    actor: Any
    critic: Any


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    same_rate = config.actor_learning_rate == config.critic_learning_rate
    same_layers = config.actor_hidden == config.critic_hidden
    if config.activation != "relu" or not (same_rate and same_layers):
        raise ValueError("policy and critics must have the same layers and rate, with relu")
    (width, *others), hidden = config.actor_hidden, len(config.actor_hidden)
    if any(other != width for other in others):
        raise ValueError("their code has layers of one width")
    code, networks = imported()
    actor = networks.DetActor(spec.action_dim, width, layernorm=False, n_hiddens=hidden)
    critic = networks.EnsembleCritic(width, 2, config.critic_layer_norm, hidden)
    adam = optax.adam(config.actor_learning_rate)

    def init(key: Key, rows: Transition) -> State:
        policy_key, critic_key = jax.random.split(key)
        policy = actor.init(policy_key, rows.observation)
        values = critic.init(critic_key, rows.observation, rows.action)
        return State(
            code.ActorTrainState.create(
                apply_fn=actor.apply, params=policy, target_params=policy, tx=adam
            ),
            code.CriticTrainState.create(
                apply_fn=critic.apply, params=values, target_params=values, tx=adam
            ),
        )

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        batch = {
            "states": rows.observation,
            "actions": rows.action,
            "rewards": rows.reward,
            "next_states": rows.next_observation,
            "next_actions": rows.next_action,
            "dones": 1 - rows.discount,
        }
        key, critic, losses = code.update_critic(
            key, *state, batch, 1.0, config.critic_penalty, config.tau, config.noise,
            config.noise_clip, Losses(),
        )  # fmt: skip

        def improve(state: State) -> State:
            return State(
                *code.update_actor(
                    key, *state, batch, config.actor_penalty, config.tau, True, Losses()
                )[1:3]
            )

        state = State(state.actor, critic)
        due = step % config.actor_interval == 0
        state = jax.lax.cond(due, improve, lambda state: state, state)
        loss = losses["critic_loss"] / 2  # theirs is the sum over critics
        return state, {"critic_loss": (loss, jnp.ones(()))}

    def act(state: State, observation: Array, key: Key) -> Array:
        del key
        return jnp.clip(actor.apply(state.actor.params, observation), -1, 1)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, 1, "deterministic")})
