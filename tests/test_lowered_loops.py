"""Loops that keep the host waiting, in the programs that are lowered for CUDA.

On a GPU a loop whose number of turns is not a constant asks the host after each turn whether to go
on, and a host callback stops the device. The numbers below are a ceiling: a change that raises one
slows every update down; one that lowers it lowers the number here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import testing
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk, loop
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


def example(name: str, **fields: Any) -> tuple[Any, Any]:
    """A tiny method of 19 updates, and data for it."""
    data = testing.episodes(size=24, length=6, observation_dim=3, action_dim=2)
    config = METHODS[name].Config(**(TINY[name] | {"train_steps": 19} | fields))
    return METHODS[name].make(config, Spec.of(data)), data


@pytest.mark.parametrize("name", CEILING)
def test_the_last_phase_keeps_below_the_ceiling(name: str) -> None:
    method, data = example(name)
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    placement = chunk.SeedPlacement((0, 1), mesh, "vmap")
    row = jax.tree.map(lambda leaf: leaf[:1], data)
    keys = jax.random.split(jax.random.key(0), 2)
    state = jax.eval_shape(jax.vmap(method.init, (0, None)), keys, row)
    built = chunk.build_chunk(method, len(method.phases) - 1, data, placement, rounds=True)
    assert counts(built.function, *built.arguments(state, 0, 1)) == CEILING[name]


def test_rounds_end_where_single_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit however they are cut, with seeds beside and after each other; and to rounding
    where no rounds do. The policy moves at every third update, so a round has nine."""
    method, data = example("td3_bc", actor_interval=3)

    def end(every: int, mapping: str) -> Any:
        mesh = seed_axis.seed_mesh(jax.devices()[:2])
        run = loop.run(method, data, (0, 1, 2), mesh, every=every, mapping=mapping)
        state, metrics = [(x.state, x.metrics) for x in run][-1]
        return seed_axis.trim(state, 3), metrics if every == 19 else {}

    plain = end(19, "loop")
    monkeypatch.setattr(chunk, "rounds_of", lambda phase, *_, **__: chunk.in_rounds(phase))
    whole = end(19, "loop")
    chex.assert_trees_all_equal(end(4, "loop")[0], whole[0])
    chex.assert_trees_all_close(whole, plain, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(end(19, "vmap"), plain, rtol=1e-4, atol=1e-6)


def test_calls_are_of_whole_rounds() -> None:
    """Even if a round takes longer than a call should."""
    built = SimpleNamespace(
        longest=10**6, stride=1, round_length=10, phase=SimpleNamespace(columns={})
    )
    length = loop.CallLength(built)  # type: ignore[arg-type]
    assert length.steps() == 10
    length.record(10, 60.0)
    assert length.steps() == 10
    length.record(10, 1e-3)
    assert length.steps() == 80
