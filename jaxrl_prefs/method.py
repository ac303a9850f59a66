"""The contract: a method is a record of pure functions, and training is a sequence of phases.

Training (training/loop.py) owns keys, steps, batches and columns; a method owns its mathematics:

    method = make(config, spec)
    state = method.init(key, batch)
    state, metrics = method.phases[0].update(state, batch, key, step)
    action = method.policies["actor"].act(state, observation, key)

State holds arrays only. `step` counts the updates of the phase and is never batched over seeds,
so that `lax.cond` on it stays a branch when the update is mapped over seeds. The functions are
hashable, because compiled programs are cached by them.

`with_precision` says how precisely a method's networks multiply matrices, on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrl_prefs.ops.permutation import permuted
from jaxrl_prefs.types import Array, Key, Metrics, Transition

State = Any  # a pytree of arrays, the method's own dataclass


class Init(Hashable, Protocol):
    """Makes a first state."""

    def __call__(self, key: Key, batch: Transition, /) -> State:
        """Returns a state. `batch` is read for its shapes only."""
        ...


class Enter(Hashable, Protocol):
    """Prepares a state for a phase."""

    def __call__(self, state: State, key: Key, /) -> State:
        """Returns the state with which the phase's first update begins."""
        ...


class Update(Hashable, Protocol):
    """One update of a phase; pure."""

    def __call__(self, state: State, batch: Transition, key: Key, step: Array, /) -> tuple:
        """Returns `(state, metrics)`, or `(state, metrics, columns)` in a phase that fills columns.

        `step` counts the updates of the phase from 0. `metrics` has the same names at every step.
        """
        ...


class Act(Hashable, Protocol):
    """A policy."""

    def __call__(self, state: State, observation: Array, key: Key, /) -> Array:
        """Takes observations [B, O]; returns actions [B, A] inside the action box."""
        ...


class LogDensity(Hashable, Protocol):
    """The density of a policy that draws."""

    def __call__(self, state: State, observation: Array, action: Array, /) -> Array:
        """Takes observations [B, O] and actions [B, A]; returns log pi(a | s), [B]."""
        ...


class Diagnose(Hashable, Protocol):
    """Measures diagnostics that reveal problems, such as Q on uniform actions."""

    def __call__(self, state: State, batch: Transition, key: Key, /) -> Metrics:
        """Returns {name: (sum, count)} over the rows of the batch."""
        ...


class Warn(Protocol):
    """Reads warning signs off what `Diagnose` measured."""

    def __call__(self, metrics: Mapping[str, float], /) -> Sequence[str]:
        """Takes one seed's means; returns a sentence for each sign, with the remedy."""
        ...


class Sampler(Protocol):
    """Chooses the rows of one batch; pure, so that a resumed run samples the same batches."""

    def __call__(self, key: Key, step: Array, size: int, batch_size: int) -> Array:
        """Returns [batch_size] int32 row numbers below `size`. `key` is the phase's own."""
        ...


def uniform(key: Key, step: Array, size: int, batch_size: int) -> Array:
    """Samples rows independently, with replacement."""
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, size)


def epoch(key: Key, step: Array, size: int, batch_size: int) -> Array:
    """Passes over all rows in a new random order each time; a batch may straddle two passes.

    Exact for as long as step * batch_size stays below 2^32.
    """
    position = jnp.uint32(step) * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    return permuted(key, position % jnp.uint32(size), position // jnp.uint32(size), size)


def sequential(key: Key, step: Array, size: int, batch_size: int) -> Array:
    """Takes the rows in order, batch by batch; past the end it repeats the last row."""
    del key
    return jnp.minimum(step * batch_size + jnp.arange(batch_size), size - 1)


def identity(state: State, key: Key) -> State:
    """Enters a phase without changing the state."""
    del key
    return state


class FeatureLoss(Hashable, Protocol):
    """A loss as a function of features of images."""

    def __call__(self, state: State, batch: Transition, key: Key, step: Array, /) -> Array:
        """Returns a scalar with the gradient in `batch.observation` that `update` follows.

        Arguments are those of the phase's `update`, before that update. Where the update moves
        other networks first, such as TD3 its critics before the policy, so does this loss.
        """
        ...


class EncoderLoss(NamedTuple):
    """How a phase trains an encoder of images (encoded.py)."""

    encoder: str  # its name
    loss: FeatureLoss  # only the gradient in the encoder's own features is followed
    interval: int = 1  # the encoder takes a step at updates 0, interval, 2 * interval, ...


class Encoder(NamedTuple):
    """An encoder of images that a method needs."""

    name: str
    spectral: bool = False  # its layers have an operator norm of at most 1
    # Another encoder that may serve in its place. A run that shares encoders does not make this
    # one: its networks read the other's features, and its losses train nothing.
    shared_with: str = ""


class Phase(NamedTuple):
    """One stretch of training with one update function.

    A phase may fill columns: results per row of the dataset, which later phases find in their
    batches. Its update returns `(state, metrics, {name: [batch_size, ...]})` and leaves the state
    as it is, its rows come from `sequential`, and it gets the same key at every step. Random
    numbers of a row come from `fold_in(key, batch.index)`, so that an interrupted fill continues
    with the same numbers.
    """

    name: str
    steps: int  # 0 is legal: the phase is entered, and nothing is updated
    update: Update
    batch_size: int
    enter: Enter = identity  # called once, before step 0
    sampler: Sampler = uniform
    columns: Mapping[str, jax.ShapeDtypeStruct] = {}  # shape and dtype per row
    # state fields trained, and columns filled, once for all seeds; () does so per seed
    shared: tuple[str, ...] = ()
    # State fields that are kept at the end of this phase, for other runs to start after it: all
    # that this phase and those before it change. () keeps nothing, as a phase at or after one with
    # columns must.
    outputs: tuple[str, ...] = ()
    encoder_losses: tuple[EncoderLoss, ...] = ()  # of the method's encoders that it trains
    # The update, and the intervals of encoders' losses, depend on `step` only through
    # `learner.every(period, step, ...)`. On an accelerator the update is then called with 0 where
    # that is due and 1 where it is not, known while tracing, so that no branch keeps the host
    # waiting. 1: it may depend on `step` in any way.
    period: int = 1


class Policy(NamedTuple):
    """A way to act, and how a report describes it."""

    act: Act
    candidates: int  # actions sampled per decision
    rule: str  # how one of them is chosen
    last_only: bool = False  # costly to evaluate: only after the last update of a run
    log_density: LogDensity | None = None  # of what `act` draws; None where it is not known


def no_diagnosis(state: State, batch: Transition, key: Key) -> Metrics:
    """Measures nothing."""
    del state, batch, key
    return {}


def no_warning(metrics: Mapping[str, float]) -> Sequence[str]:
    """Finds no sign of trouble."""
    del metrics
    return ()


class Method(NamedTuple):
    """A method bound to its config and to the data's sizes."""

    init: Init
    phases: tuple[Phase, ...]
    policies: Mapping[str, Policy]  # the first is the headline
    diagnose: Diagnose = no_diagnosis  # called at each evaluation
    warn: Warn = no_warning  # of what it measured; a run prints every sentence once
    uses_rewards: bool = True  # False: no update reads them, so data without rewards will do
    encoders: tuple[Encoder, ...] = ()  # of images; () takes observations without images alone


# name -> JAX's name: how precisely hidden layers are multiplied (ops/products.py)
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


def with_precision(method: Method, name: str) -> Method:
    """The same method, whose networks multiply their hidden layers at a precision.

    First and last layers, losses, optimisers and averages stay in float32, and so do parameters and
    what gives the density of an action, `Policy.log_density`.

    "tf32" is for NVIDIA's accelerators and is float32 elsewhere; "bfloat16" rounds the factors of
    a product and accumulates in float32. Without this, JAX's own default holds, which is TF32 or
    bfloat16 on some accelerators.

    Args:
        method: what is computed.
        name: one of PRECISIONS.

    Raises:
        ValueError: for another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"no precision {name!r}; there are {', '.join(PRECISIONS)}")
    at = partial(partial, _computed, PRECISIONS[name])

    def phase(each: Phase) -> Phase:
        enter = each.enter if each.enter is identity else at(each.enter)
        return each._replace(update=at(each.update), enter=enter)

    def policy(each: Policy) -> Policy:
        density = each.log_density and partial(_computed, "highest", each.log_density)
        return each._replace(act=at(each.act), log_density=density)

    return method._replace(
        phases=tuple(map(phase, method.phases)),
        policies={each: policy(value) for each, value in method.policies.items()},
        diagnose=at(method.diagnose),
    )


def _computed(level: str, function: Callable[..., Any], *arguments: Any) -> Any:
    with jax.default_matmul_precision(level):
        return function(*arguments)
