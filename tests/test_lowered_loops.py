"""Loops that keep the host waiting, in the programs that are lowered for CUDA.

On a GPU a loop whose number of turns is not a constant asks the host after each turn whether to go
on, and a host callback stops the device. The numbers below are a ceiling: a change that raises one
slows every update down; one that lowers it lowers the number here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import testing
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk
from jaxrl_prefs.types import Spec
from tests.test_contract import TINY

# (loops without a constant number of turns, branches, host callbacks) of a method's last phase: the
# loop over rounds of updates.
CEILING = {"td3_bc": (1, 0, 0), "bdpo": (1, 0, 0)}


def operations(block: Any) -> Iterator[Any]:
    """All operations of an MLIR block or region, those inside others too."""
    for operation in block:
        yield operation
        for region in operation.regions:
            for inner in region.blocks:
                yield from operations(inner.operations)


def counts(function: Any, *arguments: Any) -> tuple[int, int, int]:
    """Loops without a constant number of turns, branches, and host callbacks, in the program for
    CUDA."""
    module = function.trace(*arguments).lower(lowering_platforms=("cuda",)).compiler_ir()
    return counts_of(module)


def counts_of(module: Any) -> tuple[int, int, int]:
    """The same in an MLIR module."""
    loops = branches = callbacks = 0
    for operation in operations(module.body.operations):
        operation = operation.operation
        if operation.name == "stablehlo.while":
            loops += not turns_are_constant(operation)
        if operation.name in {"stablehlo.case", "stablehlo.if"}:  # of a platform: constant
            branches += not follows_from_constants(operation.operands[0])
        if operation.name == "stablehlo.custom_call":
            callbacks += "callback" in str(operation.attributes["call_target_name"])
    return loops, branches, callbacks


def turns_are_constant(loop: Any) -> bool:
    """Whether a counter goes from a constant to a constant in constant steps."""
    condition, body = (region.blocks[0] for region in loop.regions)
    decision = list(condition.operations)[-1].operands[0].owner
    if getattr(decision, "name", "") != "stablehlo.compare":
        return False
    counters = [x for x in decision.operands if not is_constant(x)]
    if len(counters) != 1 or counters[0] not in list(condition.arguments):
        return False
    place = list(condition.arguments).index(counters[0])
    step = list(body.operations)[-1].operands[place].owner
    if getattr(step, "name", "") != "stablehlo.add" or not is_constant(loop.operands[place]):
        return False
    return [x == body.arguments[place] or is_constant(x) for x in step.operands] == [True, True]


def is_constant(value: Any) -> bool:
    """Whether a constant operation made the value; arguments of a block belong to the block."""
    return getattr(value.owner, "name", "") == "stablehlo.constant"


def follows_from_constants(value: Any) -> bool:
    """Whether the compiler knows the value."""
    if is_constant(value):
        return True
    operands = getattr(value.owner, "operands", ())
    return len(operands) > 0 and all(follows_from_constants(each) for each in operands)


def repeated(turns: Any, x: Any) -> Any:
    """A loop of so many turns around a scan of five."""

    def turn(_: Any, y: Any) -> Any:
        return jax.lax.scan(lambda carry, _: (jnp.sin(carry), None), y, None, length=5)[0]

    return jax.lax.fori_loop(0, turns, turn, x)


def test_loops_of_unknown_length_are_counted() -> None:
    assert counts(jax.jit(repeated), 3, 1.0) == (1, 0, 0)
    assert counts(jax.jit(partial(repeated, 3)), 1.0) == (0, 0, 0)
    halving = jax.jit(lambda x: jax.lax.while_loop(lambda y: y > 1, lambda y: y / 2, x))
    assert counts(jax.jit(jax.vmap(halving)), jnp.ones(2)) == (1, 0, 0)
    assert counts(jax.jit(lambda x: repeated(2, halving(x))), 1.0) == (1, 0, 0)
    doubling = jax.jit(lambda n: jax.lax.while_loop(lambda m: m < 9, lambda m: m + m, n))
    assert counts(doubling, 1) == (1, 0, 0)


def test_branches_are_counted() -> None:
    either = jax.jit(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x))
    assert counts(either, 1.0) == (0, 1, 0)
    here = jax.jit(lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos))
    assert counts(here, 1.0) == (0, 0, 0)


def test_host_callbacks_are_counted() -> None:
    """For the platform of this machine: JAX lowers a callback for no other."""
    called = jax.jit(lambda x: jax.pure_callback(np.sin, x, x))
    assert counts_of(called.lower(1.0).compiler_ir()) == (0, 0, 1)


def chunk_in_rounds(name: str, rounds: bool, seeds: tuple[int, ...]) -> tuple[Any, Any]:
    """The last phase of a tiny method, and the shapes of a first state [S, ...]."""
    data = testing.episodes(size=24, length=6, observation_dim=3, action_dim=2)
    fields = TINY[name] | {"train_steps": 19}
    method = METHODS[name].make(METHODS[name].Config(**fields), Spec.of(data))
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    placement = chunk.SeedPlacement(seeds, mesh, "vmap")
    example = jax.tree.map(lambda leaf: leaf[:1], data)
    first = jax.jit(jax.vmap(method.init, (0, None)))
    keys = jax.random.split(jax.random.key(0), len(seeds))
    last = len(method.phases) - 1
    return chunk.build_chunk(method, last, data, placement, rounds=rounds), (first, keys, example)


@pytest.mark.parametrize("name", CEILING)
def test_the_last_phase_keeps_below_the_ceiling(name: str) -> None:
    built, (first, *given) = chunk_in_rounds(name, rounds=True, seeds=(0, 1))
    state = jax.eval_shape(first, *given)
    assert counts(built.function, *built.arguments(state, 0, 1)) == CEILING[name]


def test_rounds_end_where_single_steps_do() -> None:
    """Bit for bit however they are cut, as without rounds; and beside those to rounding."""
    ends = []
    for rounds, cuts in ((True, (1, 6, 19)), (True, (19,)), (False, (19,))):
        built, (first, *given) = chunk_in_rounds("td3_bc", rounds, seeds=(0,))
        state, at, totals = first(*given), 0, None
        for stop in cuts:
            state, report = built(state, at, stop, totals)
            parts = np.asarray(report.totals)
            totals = {key: parts[:, place] for place, key in enumerate(report.names)}
            at = stop
        ends.append((state, totals))
    chex.assert_trees_all_equal(ends[0], ends[1])
    chex.assert_trees_all_close(ends[1], ends[2], rtol=1e-4, atol=1e-6)
