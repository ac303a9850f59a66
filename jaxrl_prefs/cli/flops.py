"""Floating-point operations of matrix products in a function, read off its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def matmul_flops(fn: Callable[..., Any], *args: Any, share: float = 1.0) -> float:
    """Counts 2 m n k for every dot product that `fn(*args)` runs, loops counted by their length.

    A `cond` counts `share` of its most expensive branch: the rate at which it is taken. Loops of
    unknown length count once; ours hold no products.
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr, share)


def _count(jaxpr: Any, share: float) -> float:
    return sum(_cost(equation, share) for equation in jaxpr.eqns)


def _cost(equation: Any, share: float) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "cond":
        return share * max(_count(branch.jaxpr, share) for branch in params["branches"])
    inside = sum(_count(_open(value), share) for value in params.values() if _open(value))
    return params["length"] * inside if name == "scan" else inside


def _open(value: Any) -> Any:
    """The jaxpr behind a parameter of an equation, closed or not; None if it is none."""
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None
