"""XQL of Div99/XQL, with distrax and tfp-nightly; --peer is its folder `offline`.

Policy and critics have the same hidden layers there, the largest weight is 100, and Q has no layer
normalisation. Advantages use V after its step, and the log standard deviation reaches up to 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.parity import iql
from benchmarks.parity.xql import EXPECTILE, Options
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.xql import Config
from jaxrl_prefs.types import Array, Key, Spec, Transition

NAMES = ("actor", "critic", "value", "target_critic")


class State(NamedTuple):
    """Of their models, in the order of NAMES."""

    params: tuple[Any, ...]
    opt_state: tuple[Any, ...]


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    same = config.actor_hidden == config.critic_hidden
    if not same or config.max_weight != 100 or config.critic_layer_norm:
        raise ValueError(
            "their code has actor_hidden=critic_hidden, max_weight=100 and no critic_layer_norm"
        )
    code, options = iql.imported(), Options(config.max_exponent)

    def create(key: Key, rows: Transition) -> tuple[Any, ...]:
        with mock.patch.object(code.common.Model, "create", iql.created(code, jnp.float32)):
            learner = code.learner.Learner(
                jax.random.bits(key),
                rows.observation,
                rows.action,
                actor_lr=config.actor_learning_rate,
                value_lr=config.critic_learning_rate,
                critic_lr=config.critic_learning_rate,
                hidden_dims=config.critic_hidden,
                layernorm=config.value_layer_norm,
                max_steps=max(config.train_steps, 1),
            )
        return tuple(getattr(learner, name) for name in NAMES)

    shapes = jax.eval_shape(create, jax.random.key(0), spec.example())

    def state_of(models: tuple[Any, ...]) -> State:
        return State(tuple(x.params for x in models), tuple(x.opt_state for x in models))

    def init(key: Key, rows: Transition) -> State:
        return state_of(create(key, rows))

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        models = [
            model.replace(step=step, params=params, opt_state=opt_state)
            for model, params, opt_state in zip(shapes, *state, strict=True)
        ]
        batch = code.common.Batch(
            rows.observation, rows.action, rows.reward, rows.discount, rows.next_observation
        )
        with mock.patch.object(jax, "tree_multimap", jax.tree.map, create=True):
            _, actor, critic, value, target, losses = code.learner._update_jit(
                key, *models, batch, 1.0, config.tau, EXPECTILE, config.temperature,
                config.value_temperature, True, False, options,
            )  # fmt: skip
        factors = {"critic_loss": 0.5, "value_loss": 1.0, "actor_loss": 1.0}  # a sum over critics
        metrics = {name: (factor * losses[name], jnp.ones(())) for name, factor in factors.items()}
        return state_of((actor, critic, value, target)), metrics

    def act(state: State, observation: Array, key: Key) -> Array:
        _, action = code.policy.sample_actions(
            key, shapes[0].apply_fn, state.params[0], observation, temperature=0.0
        )
        return jnp.clip(action, -1, 1)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, 1, "mean")})
