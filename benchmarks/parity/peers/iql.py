"""IQL of nissymori/JAX-CORL, with distrax, pydantic and tqdm.

The layers of V are normalised, those of Q are not; the policy's mean is not squashed, and its log
standard deviation reaches up to 2. Advantages use V after its step.
"""

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
    same = config.actor_hidden == config.critic_hidden
    if not same or config.max_weight != 100 or config.critic_layer_norm:
        raise ValueError(
            "their code has actor_hidden=critic_hidden, max_weight=100 and no critic_layer_norm"
        )
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
        max_steps=max(config.train_steps, 1),
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
