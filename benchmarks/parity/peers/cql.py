"""CQL of young-geng/JaxCQL.

It has no layer normalisation; a config with it is refused.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.parity.cql import bounds_renamed, import_peer, settings
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.cql import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition


class State(NamedTuple):
    """Their train states by name, and the critics' target networks."""

    states: dict[str, Any]
    target: dict[str, Any]


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    if config.critic_layer_norm:
        raise ValueError("JaxCQL has no layer normalisation")
    code, model = import_peer()
    sizes = spec.observation_dim, spec.action_dim
    arch = ("-".join(map(str, hidden)) for hidden in (config.actor_hidden, config.critic_hidden))
    policy = model.TanhGaussianPolicy(*sizes, next(arch))
    critic = model.FullyConnectedQFunction(*sizes, next(arch))

    def agent_of(key: Key) -> Any:
        importlib.import_module("JaxCQL.jax_utils").init_rng(key)
        return code.ConservativeSAC(settings(config, spec.action_dim, 1.0), policy, critic)

    def start(agent: Any) -> State:
        return State(agent.train_states, agent._target_qf_params)

    agent = agent_of(jax.random.key(0))
    # Every state has the optimisers of this one: others would be another structure.
    structure = jax.tree.structure(start(agent))

    def init(key: Key, rows: Transition) -> State:
        del rows
        leaves = jax.tree.leaves(start(agent_of(key)))
        # Their scalars are numbers of Python, which would change their type in an update.
        return jax.tree.unflatten(structure, [jnp.array(x, jnp.result_type(x)) for x in leaves])

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        del step
        batch = {
            "observations": rows.observation,
            "actions": rows.action,
            "rewards": rows.reward,
            "next_observations": rows.next_observation,
            "dones": 1 - rows.discount,
        }
        with bounds_renamed():
            *trained, found = agent._train_step(*state, key, batch)
        one = jnp.ones(())
        return State(*trained), {
            "critic_loss": ((found["qf1_loss"] + found["qf2_loss"]) / 2, one),
            "q": ((found["q1_pred"] + found["q2_pred"]) / 2, one),
            "actor_loss": (found["policy_loss"], one),
            "entropy": (-found["log_pi"], one),
            "entropy_weight": (found["alpha"], one),
        }

    def act(state: State, observation: Array, key: Key) -> Array:
        del key
        action, _ = policy.apply(state.states["policy"].params, observation, deterministic=True)
        return jnp.clip(action, -1, 1)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, 1, "mean")})
