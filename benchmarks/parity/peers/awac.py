"""AWAC of ikostrikov/jaxrl, with distrax and tfp-nightly.

It has only weights=softmax and critics without layer normalisation. Its log standard deviation
reaches from -10 to 2. Its samples are not clipped; recorded actions are clipped to 1 - 1e-5 in the
policy's loss.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.parity.awac import Peer
from benchmarks.parity.peers import named
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.awac import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition


class State(NamedTuple):
    """Of their models by name: policy, critics, and target network."""

    params: dict[str, Any]
    opt_state: dict[str, Any]


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    if config.weights != "softmax" or config.critic_layer_norm:
        raise ValueError("their code has weights=softmax only, and no critic_layer_norm")
    peer = Peer(config, spec.action_dim)
    optimizers = {
        "actor": optax.adamw(config.actor_learning_rate, weight_decay=config.actor_weight_decay),
        "critic": optax.adam(config.critic_learning_rate),
    }

    def create(key: Key, rows: Transition) -> dict[str, Any]:
        return peer.models(peer.params(key, rows.observation, rows.action), optimizers)

    shapes = jax.eval_shape(create, jax.random.key(0), spec.example())

    def state_of(models: dict[str, Any]) -> State:
        return State(
            {name: model.params for name, model in models.items()},
            {name: model.opt_state for name, model in models.items()},
        )

    def init(key: Key, rows: Transition) -> State:
        return state_of(create(key, rows))

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        models = {
            name: shapes[name].replace(step=step, params=params, opt_state=state.opt_state[name])
            for name, params in state.params.items()
        }
        batch = SimpleNamespace(**named(rows))
        models, losses = peer.update(models, batch, jax.random.split(key), 1.0)
        once = jnp.ones(())
        metrics = {
            "critic_loss": (losses["critic_loss"] / 2, once),  # theirs is the sum over critics
            "actor_loss": (losses["actor_loss"], once),
        }
        return state_of(models), metrics

    def act(state: State, observation: Array, key: Key) -> Array:
        _, action = peer.code.policies.sample_actions(
            key, shapes["actor"].apply_fn, state.params["actor"], observation, temperature=0.0
        )
        return jnp.clip(action, -1, 1)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, 1, "mean")})
