"""Floating-point operations of matrix products in a function, read off its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

LONGEST_CYCLE = 100  # updates


def update_flops(update: Callable[..., Any], *args: Any, period: int = 1) -> tuple[float, int]:
    """Counts the products of `update(*args, step)`: the mean over a cycle, and its length.

    A method that trains its actor at every fifth update has a cycle of five: update 0 costs more
    than updates 1 to 4, and update 5 costs as much as update 0. A count traces the update, which
    takes a second or so. Two counts suffice if the period is known, and one if the cost does not
    depend on the step; otherwise updates are counted until the cost of update 0 comes again.

    Args:
        update: of a phase.
        args: its arguments but for the step.
        period: `Phase.period`. Above 1, only updates at multiples of it differ from the others; 1
            says nothing of how the cost depends on the step.

    Raises:
        ValueError: if no cycle of at most 100 updates is found.
    """

    def at(step: int) -> float:
        return matmul_flops(lambda *inputs: update(*inputs, step), *args)

    if period > 1:
        return math.fsum([at(0), *[at(1)] * (period - 1)]) / period, period
    any_step = jax.make_jaxpr(update)(*args, jax.ShapeDtypeStruct((), "int32")).jaxpr
    if _is_fixed(any_step):
        return _count(any_step), 1
    costs = [at(0)]
    for step in range(1, LONGEST_CYCLE + 1):
        costs.append(at(step))
        if costs[-1] == costs[0]:
            return math.fsum(costs[:-1]) / step, step
    raise ValueError(f"the update's cost does not repeat within {LONGEST_CYCLE} updates")


def matmul_flops(fn: Callable[..., Any], *args: Any) -> float:
    """Counts 2 m n k for every dot product that `fn(*args)` runs, loops counted by their length.

    A `cond` counts its most expensive branch. Loops of unknown length count once; ours hold no
    products.
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_cost(equation) for equation in jaxpr.eqns)


def _cost(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    inside = sum(_count(_open(value)) for value in params.values() if _open(value))
    return params["length"] * inside if name == "scan" else inside


def _is_fixed(jaxpr: Any) -> bool:
    """Whether no branch of a `cond` costs more than another, so that no value decides the cost."""
    for equation in jaxpr.eqns:
        branches = [branch.jaxpr for branch in equation.params.get("branches", ())]
        inside = [*branches, *filter(None, map(_open, equation.params.values()))]
        if len({_count(each) for each in branches}) > 1 or not all(map(_is_fixed, inside)):
            return False
    return True


def _open(value: Any) -> Any:
    """The jaxpr behind a parameter of an equation, closed or not; None if it is none."""
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None
