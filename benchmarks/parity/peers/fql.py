"""FQL of seohongpark/fql, with ml_collections and distrax.

All its networks have one learning rate, and its flow is integrated by Euler's method.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.parity.fql import FQL, Case
from benchmarks.parity.peers import named
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.fql import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition


class State(NamedTuple):
    """Of all their networks together."""

    params: Any
    opt_state: Any


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    settings = shared_settings(config, config.actor_learning_rate) | {
        "alpha": config.alpha,
        "q_agg": config.q_agg,
        "normalize_q_loss": config.normalize_q_loss,
    }
    return method_of(FQL, config, settings, spec)


def shared_settings(config: Any, *rates: float) -> dict[str, Any]:
    """What the configs of FQL and IFQL share; `rates` must equal those of flow and critics."""
    both = config.behavior_learning_rate, config.critic_learning_rate
    if config.flow_sampler != "euler" or len({*both, *rates}) > 1:
        raise ValueError("their code has one learning rate for all networks, and Euler's method")
    return {
        "lr": config.critic_learning_rate,
        "actor_hidden_dims": config.actor_hidden,
        "value_hidden_dims": config.critic_hidden,
        "actor_layer_norm": config.actor_layer_norm,
        "layer_norm": config.critic_layer_norm,
        "flow_steps": config.flow_steps,
        "tau": config.tau,
        "discount": 1.0,
    }


def method_of(
    case: Case,
    config: Any,
    settings: dict[str, Any],
    spec: Spec,
    candidates: int = 1,
    rule: str = "single sample",
) -> Method:
    """An agent of theirs with these settings."""
    module, name = case.peer.split(":")
    peer = importlib.import_module(module)

    def create(key: Key, rows: Transition) -> Any:
        own = peer.get_config()
        own.update(settings)
        seed = jax.random.bits(key)
        return getattr(peer, name).create(seed, rows.observation, rows.action, own)

    shapes = jax.eval_shape(create, jax.random.key(0), spec.example())

    def agent(state: State, key: Key) -> Any:
        return shapes.replace(rng=key, network=shapes.network.replace(step=1, **state._asdict()))

    def init(key: Key, rows: Transition) -> State:
        network = create(key, rows).network
        return State(network.params, network.opt_state)

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        del step
        after, info = agent(state, key).update(named(rows))
        metrics = {ours: (info[theirs], jnp.ones(())) for ours, theirs in case.losses.items()}
        return State(after.network.params, after.network.opt_state), metrics

    def act(state: State, observation: Array, key: Key) -> Array:
        def single(observation: Array, key: Key) -> Array:
            return agent(state, key).sample_actions(observation, seed=key)

        return jax.vmap(single)(observation, jax.random.split(key, len(observation)))

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, candidates, rule)})
