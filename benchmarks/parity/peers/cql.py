"""CQL of young-geng/JaxCQL, with ml_collections and distrax.

It has no layer normalisation; a config with it is refused. Its policy has a factor and an offset of
the log standard deviation, both of which it trains.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.parity.cql import GlobalKeys, bounds_renamed, import_peer, settings
from benchmarks.parity.peers import named, with_optimizers
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
    hidden, critic_hidden = (
        "-".join(map(str, widths)) for widths in (config.actor_hidden, config.critic_hidden)
    )
    policy = model.TanhGaussianPolicy(*sizes, hidden)
    critic = model.FullyConnectedQFunction(*sizes, critic_hidden)

    def agent_of(key: Key) -> Any:
        GlobalKeys.start(key)
        return code.ConservativeSAC(settings(config, spec.action_dim, 1.0), policy, critic)

    def start(agent: Any) -> State:
        return State(agent.train_states, agent._target_qf_params)

    agent = agent_of(jax.random.key(0))

    def init(key: Key, rows: Transition) -> State:
        del rows
        state = with_optimizers(start(agent), start(agent_of(key)))
        # Their scalars are numbers of Python, which would change their type in an update.
        return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x)), state)

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        del step
        with bounds_renamed():
            *trained, found = agent._train_step(*state, key, named(rows))
        one = jnp.ones(())
        return State(*trained), {
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
