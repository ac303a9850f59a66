"""Two codes in lockstep: the first update, and parameters after many, on rows that both draw alike.

What the comparisons of IQL and TD3+BC share. Every row is a largest relative difference, as in
`benchmarks/parity/fql.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parity.fql import GAMMA, batches, largest
from jaxrl_prefs.types import Array, Params, Transition

TARGET = "target network"
CHUNK = 4  # updates in one call of the other code; even, as TD3+BC's policy moves at every second


class Start(NamedTuple):
    """Where a comparison starts: two states with equal parameters."""

    theirs: Any
    ours: Any
    update: Callable[..., Any]  # ours: (state, batch, key, step) -> state, metrics


class Pair(Protocol):
    """Another code and ours, with the same settings."""

    losses: Mapping[str, tuple[str, float]]  # our metric -> theirs, and their multiple of ours

    def start(self, rows: Any, descent: optax.GradientTransformation | None) -> Start:
        """Equal parameters for these rows; `descent` replaces the optimisers of both codes."""

    def params(self, theirs: Any) -> dict[str, Params]:
        """Their parameters under the names of ours, target networks as "target network, ..."."""

    def draws(self, key: Any, count: int, size: int) -> Iterator[tuple[Array, Any]]:
        """Row numbers of each of their updates, and the key of what else it draws."""

    def advance(self, theirs: Any, rows: Any, key: Any, count: int) -> tuple[Any, dict[str, Any]]:
        """`count` of their updates, with the losses of the last."""


def transitions(rows: Any) -> Transition:
    """Rows of JAX-CORL in our form."""
    index, going = np.arange(len(rows.actions), dtype=np.int32), 1 - rows.dones
    return Transition(
        rows.observations, rows.actions, rows.rewards, GAMMA * going, rows.next_observations,
        rows.actions, going, index, index,
    )  # fmt: skip


def random_rows(kind: Any, dtype: Any) -> Any:
    """About 2,000 random rows in JAX-CORL's form, its class `kind`."""
    found = [ours for _, ours in batches(8, dtype)]
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
    ended = (rows.discount == 0).astype(dtype)
    names = {
        "observations": rows.observation,
        "actions": rows.action,
        "rewards": rows.reward,
        "next_observations": rows.next_observation,
        "dones": ended,
        "dones_float": ended,
    }
    return kind(**{name: names[name] for name in kind._fields})


def own_params(ours: Any) -> dict[str, Params]:
    """The parameters of our state, by the names of `Pair.params`."""
    found = {}
    for name in ours.__dataclass_fields__:
        trainable = getattr(ours, name)
        found[name] = trainable.params
        if trainable.target is not None:
            found[f"{TARGET}, {name}"] = trainable.target
    return found


def first_update(pair: Pair, rows: Any) -> dict[str, float]:
    """Relative differences of losses and of gradients."""
    start = pair.start(rows, optax.sgd(1.0))  # moves parameters by their gradient
    key, batch = jax.random.key(7), transitions(rows)
    after, losses = pair.advance(start.theirs, rows, key, 1)
    [(index, own_key)] = pair.draws(key, 1, len(rows.actions))
    state, metrics = start.update(start.ours, _taken(batch, index), own_key, 0)
    found = {}
    for name, (other, factor) in pair.losses.items():
        total, count = metrics[name]
        found[f"loss, {name}"] = abs(float(factor * total / count / losses[other]) - 1)
    before, expected = own_params(start.ours), pair.params(after)
    for name, params in own_params(state).items():
        if not name.startswith(TARGET):
            own, other = _moved(before[name], params), _moved(before[name], expected[name])
            found[f"gradient, {name}"] = largest(own, other, other)
    return found


def many_updates(pair: Pair, rows: Any, count: int) -> dict[str, float]:
    """Relative differences of parameters after `count` updates with the optimisers of both codes.

    `count` is rounded up to a multiple of CHUNK.
    """
    start = pair.start(rows, None)
    theirs, state, _ = start
    batch = transitions(rows)
    for chunk in range(-(-count // CHUNK)):
        key = jax.random.fold_in(jax.random.key(7), chunk)
        theirs, _ = pair.advance(theirs, rows, key, CHUNK)
        for step, (index, own_key) in enumerate(pair.draws(key, CHUNK, len(rows.actions))):
            state, _ = start.update(state, _taken(batch, index), own_key, step)
    before, expected = own_params(start.ours), pair.params(theirs)
    return {
        name if name.startswith(TARGET) else f"parameters, {name}": largest(
            params, expected[name], _moved(before[name], expected[name])
        )
        for name, params in own_params(state).items()
    }


def _moved(before: Params, after: Params) -> Params:
    return jax.tree.map(lambda a, b: a - b, after, before)


def _taken(rows: Transition, index: Array) -> Transition:
    return jax.tree.map(lambda leaf: leaf[index], rows)


def report(title: str, found: Mapping[str, float]) -> None:
    """Prints one column of the table."""
    print(f"\n{title}")
    for name, difference in found.items():
        print(f"  {name:52s} {difference:.1e}")
