"""One member's program: many updates of one phase, as a loop that never returns to the host.

The number of steps is an argument of the program. One compilation serves chunks of every length,
and the same instructions run however the steps are cut: results agree bit for bit.

An accelerator asks the host whether to go on after every turn of a loop whose number of turns is
not a constant, and at every branch. There steps come in rounds of a constant number, of which those
outside the chunk leave everything as it was, and the branch of `learner.every` is decided while
tracing (`Phase.period`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_prefs.method import Sampler, State
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.rows import gathered
from jaxrl_prefs.training.host_stream import Block
from jaxrl_prefs.types import Array, Key, Metrics, Transition


class Report(NamedTuple):
    """What a chunk returns besides the state, per member [P]."""

    names: dict[str, None]  # of the M metrics, sorted; as a dict's keys they pass through jit
    totals: Array  # [P, M, 2], sums and counts, on top of those that the chunk was given
    bad_step: Array  # the first step with a metric that is not finite, or -1
    bad_metric: Array  # its place in `names`
    columns: dict[str, Array]  # [P, slots, batch_size, ...]
    bad_state: Any = None  # whether the state is not finite at the end; `Chunk` looks


def take(data: Transition, rows: Array, columns: Mapping[str, Array]) -> Transition:
    """Gathers one batch: `rows` [B] of the data and of the columns, and the successors' columns."""
    return with_columns(gathered(data, rows, _gather), rows, columns)


def with_columns(batch: Transition, rows: Array, columns: Mapping[str, Array]) -> Transition:
    here = {name: _gather(column, rows) for name, column in columns.items()}
    after = {f"next_{name}": _gather(c, batch.next_index) for name, c in columns.items()}
    return batch._replace(columns={**here, **after})


def _gather(leaf: Array, rows: Array) -> Array:
    return jnp.take(leaf, rows, axis=0, mode="clip")


class Recipe(NamedTuple):
    """What a member's program depends on: of a phase, what is the same however long it runs."""

    name: str
    update: Callable[..., tuple]
    sampler: Sampler
    batch_size: int
    fills: bool
    slots: int
    stride: int
    period: int = 1  # of the phase
    round_length: int = 1  # steps of a round, a multiple of the period; 1 for no rounds


@functools.lru_cache(seed_axis.PROGRAMS)
def member_program(recipe: Recipe) -> Callable[..., Any]:
    """Builds `(state, keys, bounds, data, own, common, totals) -> (state, Report)` for one member.

    Bounds are (first, stop), and of a Block also the slot that holds the first step. Steps first,
    first + stride, ... below stop are run. Where they are the same for all members
    they are not batched, so that `lax.cond` on a step stays a branch. Columns have room for `slots`
    batches. `data` is the dataset, or a Block with the batch of every step. `totals` [M, 2] are the
    sums and counts of earlier calls, to which this one adds step by step. They come out the same
    however steps are divided into calls. None starts at 0.
    """
    # Under jit the update is traced once, though both eval_shape and the loop call it. A filling
    # update is left bare, so that an unchanged state can be recognised.
    update = recipe.update if recipe.fills else jax.jit(recipe.update)
    known = {due: jax.jit(functools.partial(_at, due, recipe.update)) for due in (0, 1)}

    def draw(
        rows_key: Key, data: Transition | Block, columns: Any, step: Array, slot: Array
    ) -> Any:
        if isinstance(data, Block):
            block: Block = jax.tree.map(lambda leaf: leaf[slot], data)
            return with_columns(block.batches, block.rows, columns)
        rows = recipe.sampler(rows_key, step, data.reward.shape[0], recipe.batch_size)
        return take(data, rows, columns)

    def one_step(
        state: State,
        keys: Any,
        data: Any,
        columns: Any,
        step: Array,
        slot: Array,
        due: int | None = None,
    ) -> tuple:
        rows_key, update_key = keys
        batch = draw(rows_key, data, columns, step, slot)
        if not recipe.fills:
            key = jax.random.fold_in(update_key, step)
            if due is not None:
                return (*known[due](state, batch, key), {})
            return (*update(state, batch, key, step), {})
        after, metrics, filled = update(state, batch, update_key, step)
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
        if not all(old is new for old, new in pairs):
            raise ValueError(f"phase {recipe.name!r} fills columns: its state must stay as it is")
        return after, metrics, filled

    # One function for all calls of eval_shape, which keeps what it has traced.
    first_step = functools.partial(one_step, due=0 if recipe.period > 1 else None)

    def program(
        state: State,
        keys: Any,
        bounds: Any,
        data: Any,
        own: dict,
        common: dict,
        totals: Array | None,
    ) -> tuple:
        first, stop, *first_slot = bounds
        columns = {**own, **common}

        def body(slot: Array, carry: tuple, due: int | None = None) -> tuple:
            state, report = carry
            step = first + slot * recipe.stride
            place = slot + first_slot[0] if first_slot else slot
            state, metrics, filled = one_step(state, keys, data, columns, step, place, due)
            filled = jax.tree.map(lambda to, x: to.at[slot].set(x), report.columns, filled)
            return state, _observed(report, metrics, step)._replace(columns=filled)

        _, metrics, filled = jax.eval_shape(first_step, state, keys, data, columns, first, first)
        report = Report(
            names=dict.fromkeys(sorted(metrics)),
            totals=jnp.zeros((len(metrics), 2)) if totals is None else totals,
            bad_step=jnp.int32(-1),
            bad_metric=jnp.int32(-1),
            columns=jax.tree.map(lambda x: jnp.zeros((recipe.slots, *x.shape), x.dtype), filled),
        )
        if recipe.round_length > 1:
            return _in_rounds(recipe, body, first, stop, (state, report))
        count = (stop - first + recipe.stride - 1) // recipe.stride
        return jax.lax.fori_loop(0, count, body, (state, report))

    return program


def _at(step: int, update: Callable[..., tuple], *arguments: Any) -> tuple:
    return update(*arguments, step)


def _in_rounds(
    recipe: Recipe, body: Callable[..., tuple], first: Array, stop: Array, carry: tuple
) -> tuple:
    """Runs `body` at steps first ... stop - 1, in rounds that begin at multiples of their length.

    The steps of a round outside first ... stop - 1 are computed and dropped.
    """
    length, period = recipe.round_length, recipe.period

    def at(step: Array, due: int | None, carry: tuple) -> tuple:
        after = body(step - first, carry, due)
        live = (first <= step) & (step < stop)
        return jax.tree.map(functools.partial(jnp.where, live), after, carry)

    def period_from(step: Array, carry: tuple) -> tuple:
        if period == 1:
            return at(step, None, carry)
        carry = at(step, 0, carry)
        return jax.lax.fori_loop(1, period, lambda i, carry: at(step + i, 1, carry), carry)

    def round_at(number: Array, carry: tuple) -> tuple:
        begin = number * length
        return jax.lax.fori_loop(
            0, length // period, lambda i, carry: period_from(begin + i * period, carry), carry
        )

    end = jnp.where(first < stop, (stop + length - 1) // length, 0)
    return jax.lax.fori_loop(first // length, end, round_at, carry)


def _observed(report: Report, metrics: Metrics, step: Array) -> Report:
    """Adds one step's metrics, and notes the step if it is the first that is not finite."""
    if not metrics:
        return report
    now = jnp.array([metrics[name] for name in report.names], jnp.float32)  # [M, 2]
    bad = jnp.logical_not(jnp.isfinite(now).all(-1))
    new = (report.bad_step < 0) & bad.any()
    return report._replace(
        totals=report.totals + now,
        bad_step=jnp.where(new, step, report.bad_step),
        bad_metric=jnp.where(new, jnp.argmax(bad).astype(jnp.int32), report.bad_metric),
    )


def is_broken(state: State) -> Array:
    """Whether any number in a member's state is NaN or infinite.

    One reduction for each shape, since parameters, moments and averages have the same few. Copying
    all leaves into one takes six times as long at D4RL's size.
    """
    by_shape: dict[tuple[int, ...], list[Array]] = {}
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            by_shape.setdefault(leaf.shape, []).append(jnp.isfinite(leaf))
    finite = [functools.reduce(jnp.logical_and, alike).all() for alike in by_shape.values()]
    return jnp.logical_not(jnp.array(finite, bool).all())
