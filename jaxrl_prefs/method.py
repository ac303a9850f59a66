"""The contract: a method is a value made of pure functions, and training is a tuple of phases.

The runner (train.py) owns keys, steps, batches and columns; a method owns its mathematics:

    method = make(config, spec)
    state = method.init(key, batch)
    state, metrics = method.phases[0].update(state, batch, key, step)
    action = method.policies["greedy"].act(state, observation, key)

State holds arrays only. `step` counts the updates of the phase and is never batched over seeds,
so that `lax.cond` on it stays a branch when the update is mapped over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrl_prefs.ops.permutation import permuted
from jaxrl_prefs.types import Array, Key, Metrics, Transition

State = Any
Update = Callable[..., tuple]  # (state, batch, key, step) -> (state, metrics[, columns])


class Sampler(Protocol):
    """Chooses the rows of one batch; pure, so that a resumed run draws the same batches."""

    def __call__(self, key: Key, step: Array, size: int, batch_size: int) -> Array:
        """Returns [batch_size] int32 row numbers below `size`. `key` is the phase's own."""
        ...


def uniform(key: Key, step: Array, size: int, batch_size: int) -> Array:
    """Draws rows independently, with replacement."""
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, size)


def epoch(key: Key, step: Array, size: int, batch_size: int) -> Array:
    """Passes over all rows in a new random order each time; a batch may straddle two passes.

    Exact for as long as step * batch_size stays below 2^32.
    """
    position = jnp.uint32(step) * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    return permuted(key, position % jnp.uint32(size), position // jnp.uint32(size), size)


def sequential(key: Key, step: Array, size: int, batch_size: int) -> Array:
    """Takes the rows in order, slice by slice; past the end it stays on the last row."""
    del key
    return jnp.minimum(step * batch_size + jnp.arange(batch_size), size - 1)


def identity(state: State, key: Key) -> State:
    """Enters a phase without changing the state."""
    del key
    return state


class Phase(NamedTuple):
    """One stretch of training with one update function.

    A phase that fills columns returns `(state, metrics, {name: [batch_size, ...]})`, takes its rows
    by `sequential`, and receives the phase's key unchanged at every step: it draws per row with
    `fold_in(key, batch.index)`, so an interrupted fill continues to the same set.
    """

    name: str
    steps: int  # 0 is legal: a phase that only enters
    update: Update
    batch_size: int
    enter: Callable[[State, Key], State] = identity  # once, before step 0 of the phase
    sampler: Sampler = uniform
    columns: Mapping[str, jax.ShapeDtypeStruct] = {}  # shape and dtype per row
    shared: tuple[str, ...] = ()  # state fields trained once for all seeds; () is per seed
    alike: tuple[str, ...] = ()  # state fields in which members of one seed leave it alike
    period: int = 1  # updates in which a branch of `learner.every` is taken once


class Policy(NamedTuple):
    """A way to act. `act(state, observation [B, O], key) -> action [B, A]` inside the bounds."""

    act: Callable[[State, Array, Key], Array]
    candidates: int  # actions drawn per decision
    rule: str  # how one is chosen; printed beside every score
    last_only: bool = False  # costly to play: only after the last update of a run


def no_diagnosis(state: State, batch: Transition, key: Key) -> Metrics:
    """Measures nothing."""
    del state, batch, key
    return {}


class Method(NamedTuple):
    """A method bound to its config and to the data's sizes."""

    init: Callable[[Key, Transition], State]  # the batch is read for shapes only
    phases: tuple[Phase, ...]
    policies: Mapping[str, Policy]  # the first is the headline
    diagnose: Callable[[State, Transition, Key], Metrics] = no_diagnosis  # at each evaluation
