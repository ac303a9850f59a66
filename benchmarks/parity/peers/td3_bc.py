"""TD3+BC of nissymori/JAX-CORL, with distrax, pydantic and tqdm.

Its critics are layer-normalised, whatever `critic_layer_norm` says.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.parity import jax_corl
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.td3_bc import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition

State = tuple  # their TD3BCTrainState


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    del spec
    if config.actor_hidden != config.critic_hidden or config.actor_decays:
        raise ValueError("their code has actor_hidden=critic_hidden and actor_decays=false")
    module = jax_corl.imported("td3bc")
    settings = module.TD3BCConfig(
        hidden_dims=config.actor_hidden,
        critic_lr=config.critic_learning_rate,
        actor_lr=config.actor_learning_rate,
        policy_freq=config.actor_interval,
        alpha=config.alpha,
        policy_noise_std=config.noise,
        policy_noise_clip=config.noise_clip,
        tau=config.tau,
        discount=1.0,
    )

    def init(key: Key, rows: Transition) -> State:
        state = module.create_td3bc_train_state(key, rows.observation[0], rows.action[0], settings)
        return state._replace(max_action=jnp.ones(()))

    def update(state: Any, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        batch = module.Transition(
            rows.observation, rows.action, rows.reward, rows.next_observation, 1 - rows.discount
        )
        method = module.TD3BC()
        # Their loss of the critics is the sum over both.
        state, critic_loss = method.update_critic(state, batch, key, settings)

        def improve(state: Any) -> Any:
            state, _ = method.update_actor(state, batch, key, settings)
            return state._replace(
                target_critic=module.target_update(state.critic, state.target_critic, settings.tau),
                target_actor=module.target_update(state.actor, state.target_actor, settings.tau),
            )

        due = step % settings.policy_freq == 0
        state = jax.lax.cond(due, improve, lambda state: state, state)
        return state, {"critic_loss": (critic_loss / 2, jnp.ones(()))}

    def act(state: Any, observation: Array, key: Key) -> Array:
        del key
        return module.TD3BC().get_action(state, observation)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, 1, "deterministic")})
