"""Subjects for tests: datasets whose answers are known, and a method small enough to follow.

The five probes are offline versions of Andy Jones' probe environments ("Debugging RL, Without the
Agonizing Pain"): each adds one thing that an agent must get right to the one before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_prefs import learner
from jaxrl_prefs.learner import Trainable, every, polyak
from jaxrl_prefs.method import Method, Phase, Policy, sequential
from jaxrl_prefs.testing import episodes, transitions
from jaxrl_prefs.types import Array, Key, Metrics, Spec, Transition

__all__ = ["PROBES", "Config", "Probe", "State", "episodes", "make", "transitions"]

# --- Datasets -------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A dataset with one observation and one action dimension, and what is to be learnt from it."""

    data: Transition
    q: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (observation [B, 1], action [B, 1]) -> [B]
    best: Callable[[np.ndarray], np.ndarray] | None  # observation -> action; None: all are equal


def constant_reward(size: int = 256) -> Probe:
    """One step, reward 1 whatever happens: Q = 1."""
    observation, action = np.zeros((size, 1)), _actions(size)
    data = transitions(observation, action, np.ones(size), np.zeros(size))
    return Probe(data, lambda s, a: np.ones(len(s)), None)


def observation_reward(size: int = 256) -> Probe:
    """One step, the reward is the observation, -1 or 1: Q(s, a) = s."""
    observation, action = _signs(size), _actions(size)
    data = transitions(observation, action, observation[:, 0], np.zeros(size))
    return Probe(data, lambda s, a: s[:, 0], None)


def two_steps(size: int = 256, gamma: float = 0.9) -> Probe:
    """From 0 to 1 without a reward, then reward 1 and the end: Q(0, a) = gamma, Q(1, a) = 1."""
    second = np.arange(size) % 2
    data = transitions(second[:, None], _actions(size), second, gamma * (1 - second))
    return Probe(data, lambda s, a: np.where(s[:, 0] > 0.5, 1.0, gamma), None)


def action_reward(size: int = 256) -> Probe:
    """One step, reward 1 - (a - .5)^2: the best action is .5."""
    observation, action = np.zeros((size, 1)), _actions(size)

    def q(s: np.ndarray, a: np.ndarray) -> np.ndarray:
        return 1 - (a[:, 0] - 0.5) ** 2

    data = transitions(observation, action, q(observation, action), np.zeros(size))
    return Probe(data, q, lambda s: np.full((len(s), 1), 0.5))


def joint_reward(size: int = 256) -> Probe:
    """One step, reward 1 - (a - s / 2)^2 with s -1 or 1: the best action is s / 2."""
    observation, action = _signs(size), _actions(size)

    def q(s: np.ndarray, a: np.ndarray) -> np.ndarray:
        return 1 - (a[:, 0] - s[:, 0] / 2) ** 2

    data = transitions(observation, action, q(observation, action), np.zeros(size))
    return Probe(data, q, lambda s: s / 2)


PROBES = (constant_reward, observation_reward, two_steps, action_reward, joint_reward)


def _actions(size: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.99, 0.99, size=(size, 1))


def _signs(size: int) -> np.ndarray:
    return np.random.default_rng(2).choice([-1.0, 1.0], size=(size, 1))


# --- A method -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    """Steps of the probe's phases; the filling phase takes what it needs to reach the last row."""

    model_steps: int = 12
    train_steps: int = 20
    batch_size: int = 16
    interval: int = 3  # actor updates: every third
    learning_rate: float = 0.05
    exploration: float = 0.1  # of the policy
    shared: bool = False  # the model is trained, and the column filled, once for all seeds


@flax.struct.dataclass
class State:
    model: Trainable  # predicts the reward from the observation
    critic: Trainable  # predicts reward plus the successor's guess
    actor: Trainable  # linear, under tanh


def make(config: Config, spec: Spec) -> Method:
    """Linear regression in three phases: `model`, `guess` (fills a column), `train`."""
    if config.interval < 1:
        raise ValueError(f"interval must be at least 1, not {config.interval}")
    opt = optax.sgd(config.learning_rate)  # compiles faster than Adam
    shared = ("model",) if config.shared else ()

    def init(key: Key, batch: Transition) -> State:
        model, critic, actor = jax.random.split(key, 3)
        size, width = batch.observation.shape[-1], batch.action.shape[-1]
        return State(
            model=learner.init({"w": jax.random.normal(model, (size,))}, opt),
            critic=learner.init({"w": jax.random.normal(critic, (size,))}, opt, target=True),
            actor=learner.init({"w": jax.random.normal(actor, (size, width))}, opt),
        )

    def fit(part: Trainable, batch: Transition, goal: Array) -> tuple[Trainable, Array]:
        def loss(params: dict[str, Array]) -> tuple[Array, Array]:
            error = jnp.square(batch.observation @ params["w"] - goal).mean()
            return error, error

        return learner.gradient_step(part, opt, loss)

    def model(state: State, batch: Transition, key: Key, step: Array) -> tuple[State, Metrics]:
        del step
        noise = jax.random.uniform(key, batch.reward.shape)
        part, loss = fit(state.model, batch, batch.reward + noise)
        return state.replace(model=part), {"model_loss": (loss, jnp.ones(()))}

    def guess(state: State, batch: Transition, key: Key, step: Array) -> tuple:
        del step
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
        noise = jax.vmap(jax.random.uniform)(keys)
        filled = batch.observation @ state.model.params["w"] + noise
        pair = jnp.stack([filled, noise], -1)
        return state, {"guess": (filled.sum(), jnp.float32(filled.size))}, {"guess": pair}

    def enter_train(state: State, key: Key) -> State:
        nudge = 0.01 * jax.random.uniform(key, state.model.params["w"].shape)
        return state.replace(
            critic=learner.init({"w": state.model.params["w"] + nudge}, opt, target=True)
        )

    def train(state: State, batch: Transition, key: Key, step: Array) -> tuple[State, Metrics]:
        goal = batch.reward + batch.discount * batch.columns["next_guess"][:, 0]
        critic, loss = fit(state.critic, batch, goal - 0.1 * batch.columns["guess"][:, 1])

        def step_actor(operand: tuple) -> tuple:
            part, _ = operand

            def actor_loss(params: dict[str, Array]) -> tuple[Array, Array]:
                noise = jax.random.uniform(key, batch.action.shape)
                error = jnp.tanh(batch.observation @ params["w"]) - batch.action + noise
                value = jnp.square(error).sum(-1).mean()
                return value, value

            part, value = learner.gradient_step(part, opt, actor_loss)
            return part, (value, jnp.ones(()))

        nothing = (state.actor, (jnp.zeros(()), jnp.zeros(())))
        actor, actor_loss = every(config.interval, step, step_actor, nothing)
        state = state.replace(critic=polyak(critic, 0.1), actor=actor)
        return state, {"critic_loss": (loss, jnp.ones(())), "actor_loss": actor_loss}

    def act(state: State, observation: Array, key: Key) -> Array:
        noise = config.exploration * jax.random.normal(
            key, (*observation.shape[:-1], spec.action_dim)
        )
        return jnp.tanh(observation @ state.actor.params["w"] + noise)

    column = {"guess": jax.ShapeDtypeStruct((2,), np.dtype(np.float32))}
    fill_steps = -(-spec.size // config.batch_size)
    phases = (
        Phase("model", config.model_steps, model, config.batch_size, shared=shared),
        Phase(
            "guess", fill_steps, guess, config.batch_size, sampler=sequential, columns=column
        )._replace(shared=shared),
        Phase("train", config.train_steps, train, config.batch_size, enter=enter_train),
    )
    return Method(init, phases, {"noisy": Policy(act, 1, "one sample")})
