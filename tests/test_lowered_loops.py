"""Loops that keep the host waiting, in the programs that are lowered for CUDA.

On a GPU a loop whose number of turns is not a constant asks the host after each turn whether to go
on, and a host callback stops the device. The numbers below are a ceiling: a change that raises one
slows every update down; one that lowers it lowers the number here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.training import chunk, loop
from jaxrl_prefs.types import Spec, Transition
from tests.test_contract import TINY

# (loops without a constant number of turns, host callbacks) of each phase
CEILING = {
    "td3_bc": {"train": (1, 0)},
    "bdpo": {"behavior": (1, 0), "critic": (1, 0), "train": (1, 0)},
}


def operations(block: Any) -> Iterator[Any]:
    """All operations of an MLIR block or region, those inside others too."""
    for operation in block:
        yield operation
        for region in operation.regions:
            for inner in region.blocks:
                yield from operations(inner.operations)


def is_constant(value: Any) -> bool:
    owner = value.owner
    return getattr(owner, "name", "") == "stablehlo.constant"


def counts(function: Any, *arguments: Any) -> tuple[int, int]:
    """Loops without a constant number of turns, and host callbacks, in the program for CUDA."""
    lowered = function.trace(*arguments).lower(lowering_platforms=("cuda",))
    module = lowered.compiler_ir("stablehlo")
    found: Counter[str] = Counter()
    for operation in operations(module.body.operations):
        name = operation.operation.name
        if name == "stablehlo.while":
            found["loops"] += not _turns_are_constant(operation.operation)
        if name == "stablehlo.custom_call":
            found["callbacks"] += "callback" in str(operation.attributes["call_target_name"])
    return found["loops"], found["callbacks"]


def _turns_are_constant(loop_: Any) -> bool:
    """Whether the condition compares a counter with a constant."""
    condition = loop_.regions[0].blocks[0]
    (decision,) = list(condition.operations)[-1].operands
    compare = decision.owner
    if getattr(compare, "name", "") != "stablehlo.compare":
        return False
    return any(_is_fixed(value, loop_) for value in compare.operands)
