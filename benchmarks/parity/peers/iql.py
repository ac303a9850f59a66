"""IQL of JAX-CORL, which normalises the layers of V alone and does not squash the policy's mean."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from benchmarks.parity import jax_corl
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.iql import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition

State = tuple  # their IQLTrainState without its key


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    del spec
    module = jax_corl.imported("iql")
    settings = module.IQLConfig(
        hidden_dims=config.actor_hidden,
        actor_lr=config.actor_learning_rate,
        value_lr=config.critic_learning_rate,
        critic_lr=config.critic_learning_rate,
        expectile=config.expectile,
        beta=config.temperature,
        tau=config.tau,
        discount=1.0,
        max_steps=config.train_steps,
    )

    def init(key: Key, rows: Transition) -> State:
        state = module.create_iql_train_state(key, rows.observation[0], rows.action[0], settings)
        return state._replace(rng=jnp.zeros(()))

    def update(state: Any, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        del key, step
        batch = module.Transition(
            rows.observation, rows.action, rows.reward, rows.next_observation,
            1 - rows.discount, 1 - rows.discount,
        )  # fmt: skip
        method = module.IQL()
        state, value_loss = method.update_value(state, batch, settings)
        state, _ = method.update_actor(state, batch, settings)
        state, _ = method.update_critic(state, batch, settings)
        target = module.target_update(state.critic, state.target_critic, settings.tau)
        return state._replace(target_critic=target), {"value_loss": (value_loss, jnp.ones(()))}

    def act(state: Any, observation: Array, key: Key) -> Array:
        return module.IQL().get_action(state, observation, key, temperature=0.0)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, 1, "mean")})
