"""Diffusion-QL of typoverflow/flow-rl, with hydra-core, omegaconf and tqdm.

Its critics have the policy's learning rate; a config in which the two differ is refused. Their
loss is the mean of both critics', where ours is the sum, so that a gradient must be twice as large
before `clip_norm` acts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.parity.diffusion import averaged, batch_of, dql_agent
from benchmarks.parity.peers import with_optimizers
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.dql import Config
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.types import Array, Key, Spec, Transition


class State(NamedTuple):
    """Their models."""

    actor: Any
    actor_target: Any
    critic: Any
    critic_target: Any


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    from flowrl.agent.offline import dql as code

    if config.actor_learning_rate != config.critic_learning_rate:
        raise ValueError("flow-rl's Diffusion-QL has one learning rate for policy and critics")
    sizes = spec.observation_dim, spec.action_dim

    def models(seed: Any) -> State:
        agent = dql_agent(config, sizes, seed)
        return State(*(getattr(agent, name) for name in State._fields))

    first = models(0)

    def init(key: Key, rows: Transition) -> State:
        del rows
        return with_optimizers(first, models(jax.random.bits(key)))

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        batch = batch_of(rows)
        actor, actor_target, critic, critic_target = state
        key, critic, critic_target, losses = code.jit_update_critic(
            key, critic, critic_target, actor_target, batch,
            1.0, config.max_backup, "ddpm", config.tau,
        )  # fmt: skip
        _, actor, _, more = code.jit_update_actor(
            key, actor, actor_target, critic, batch, config.eta, "ddpm", config.tau, False
        )
        actor_target = averaged(actor, actor_target, config, step)
        one = jnp.ones(())
        return State(actor, actor_target, critic, critic_target), {
            "critic_loss": (losses["loss/critic_loss"], one),
            "q": (losses["misc/q_mean"], one),
            "bc_error": (more["loss/bc_loss"], one),
        }

    def act(state: State, observation: Array, key: Key) -> Array:
        _, action = code.jit_sample_and_select(
            key, state.actor, state.critic_target, observation,
            False, config.candidates, "ddpm", config.temperature,
        )  # fmt: skip
        return jnp.clip(action, -1, 1)

    phase = Phase("train", config.train_steps, update, config.batch_size)
    rule = candidates.rule("min Q", config.candidates, config.temperature)
    return Method(init, (phase,), {"actor": Policy(act, config.candidates, rule)})
