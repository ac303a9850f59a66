"""IDQL of philippe-eecs/IDQL, without the dropout that our method does not have."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.parity.idql import created, peer_module
from benchmarks.parity.peers import named, with_optimizers
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods.idql import Config
from jaxrl_prefs.policies import candidates
from jaxrl_prefs.types import Array, Key, Spec, Transition


class State(NamedTuple):
    """Their train states."""

    score_model: Any
    target_score_model: Any
    critic: Any
    target_critic: Any
    value: Any


def make(config: Config, spec: Spec) -> Method:
    """Their method with our settings."""
    code = peer_module()
    sizes, count = (spec.observation_dim, spec.action_dim), config.candidates

    def agent_of(seed: Any) -> Any:
        return created(code, config, sizes, seed, discount=1.0)

    def states(agent: Any) -> State:
        return State(*(getattr(agent, name) for name in State._fields))

    agent = agent_of(0)  # its settings, and its optimisers

    def init(key: Key, rows: Transition) -> State:
        del rows
        return with_optimizers(states(agent), states(agent_of(jax.random.bits(key))))

    def update(state: State, rows: Transition, key: Key, step: Array) -> tuple[State, dict]:
        del step
        trained, losses = agent.replace(rng=key, **state._asdict()).update(named(rows))
        names = {"behavior_loss": "actor_loss", "value_loss": "value_loss"}
        names |= {"critic_loss": "critic_loss", "q": "q"}
        return states(trained), {name: (losses[x], jnp.ones(())) for name, x in names.items()}

    def act(state: State, observation: Array, key: Key) -> Array:
        # Their `eval_actions`, which takes one observation, on a batch.
        repeated = observation.repeat(count, 0)
        actions, _ = code.ddpm_sampler(
            state.score_model.apply_fn, state.target_score_model.params, agent.T, key,
            agent.act_dim, repeated, agent.alphas, agent.alpha_hats, agent.betas,
            agent.ddpm_temperature, agent.M, agent.clip_sampler,
        )  # fmt: skip
        critic = state.target_critic
        q = code.compute_q(critic.apply_fn, critic.params, repeated, actions)
        shape = len(observation), count
        return candidates.best(actions.reshape(*shape, -1), q.reshape(shape))

    phase = Phase("train", config.train_steps, update, config.batch_size)
    return Method(init, (phase,), {"actor": Policy(act, count, candidates.rule("min Q", count))})
