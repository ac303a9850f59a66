"""A traced function with its random draws written out as arithmetic on integers.

Formats for inference have no random keys. JAX's own generator, Threefry (Salmon et al., 2011), is
additions, rotations and exclusive ors of 32-bit integers, which every format has: written out, a
policy draws the same numbers there as in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxrl_prefs.types import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
NOTHING: Mapping[Any, Any] = MappingProxyType({})
ONE, MANTISSA = 0x3F800000, 23  # the bits of 1.0, and the length of a float's fraction


class NotArithmetic(Exception):
    """A function that draws in a way that is not written out here; the message says which."""


def threefry(key: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Twenty rounds of Threefry: two words of noise for each pair of counters.

    Args:
        key: two words, uint32 [..., 2].
        first: uint32, of a shape that `key[..., 0]` broadcasts against.
        second: of the same shape.
    """
    low, high = key[..., 0], key[..., 1]
    words = (low, high, low ^ high ^ PARITY)
    x, y = first + words[0], second + words[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << np.uint32(turn) | y >> np.uint32(32 - turn))
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def plain(
    function: Callable[..., Array], *shapes: jax.ShapeDtypeStruct, fold: bool = False
) -> Callable[..., Array]:
    """Traces a function of arrays, and returns it without any operation on random keys.

    A key is an argument of two words, uint32 [2]. The function returns one array. With `fold`, what
    depends on no argument, such as the norm of a kernel, is computed here and now.

    Raises:
        NotArithmetic: if the function has a draw that is not known here.
    """
    with jax.threefry_partitionable(True):
        traced = jax.make_jaxpr(function)(*shapes)
    known = _folded(traced.jaxpr, traced.consts) if fold else {}
    return lambda *arguments: _evaluate(traced.jaxpr, traced.consts, arguments, known)[0]


def _folded(jaxpr: Any, consts: Sequence[Any]) -> dict[Any, Any]:
    """The values of a jaxpr that depend on none of its arguments."""
    known, equations = set(jaxpr.constvars), []
    for equation in jaxpr.eqns:
        if all(isinstance(place, core.Literal) or place in known for place in equation.invars):
            known.update(equation.outvars)
            equations.append(equation)
    outputs = [place for equation in equations for place in equation.outvars]

    def values(consts: Sequence[Any]) -> list[Any]:
        return _values(equations, dict(zip(jaxpr.constvars, consts, strict=True)), outputs)

    return dict(zip(outputs, jax.jit(values)(list(consts)), strict=True))


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], known: Mapping[Any, Any] = NOTHING
) -> list[Any]:
    """Runs a jaxpr on arrays or tracers, with the rules below for what the formats lack."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    equations = [x for x in jaxpr.eqns if not known or any(o not in known for o in x.outvars)]
    return _values(equations, {**values, **known}, jaxpr.outvars)


def _values(equations: Sequence[Any], values: dict[Any, Any], outputs: Sequence[Any]) -> list[Any]:
    """The outputs of equations, given the values that they begin with."""

    def read(place: Any) -> Any:
        return place.val if isinstance(place, core.Literal) else values[place]

    for equation in equations:
        found = _apply(equation, [read(place) for place in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(place) for place in outputs]


def _apply(equation: Any, inputs: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in RULES:
        return [RULES[name](*inputs, **params)]
    if name in LOOPS:
        return list(LOOPS[name](inputs, **params))
    for inner in (params.get(key) for key in ("jaxpr", "call_jaxpr", "fun_jaxpr")):
        if inner is not None:  # a call: inlined
            consts = getattr(inner, "consts", ())
            return _evaluate(getattr(inner, "jaxpr", inner), consts, inputs)
    if name.startswith("random_") or _has_keys(equation):
        raise NotArithmetic(f"the operation {name} on random keys")
    found = equation.primitive.bind(*inputs, **params)
    return list(found) if equation.primitive.multiple_results else [found]


def _has_keys(equation: Any) -> bool:
    places = (*equation.invars, *equation.outvars)
    return any(jnp.issubdtype(place.aval.dtype, jax.dtypes.prng_key) for place in places)


# --- Random keys: Threefry in its partitionable form, of two words [..., 2] -----------------------


def fold_in(keys: Array, number: Array) -> Array:
    """Keys [..., 2] of keys and numbers, as `jax.random.fold_in`."""
    number = jnp.asarray(number).astype(jnp.uint32)
    return jnp.stack(threefry(keys, jnp.zeros_like(number), number), -1)


def _counters(keys: Array, shape: tuple[int, ...]) -> tuple[Array, Any, Any]:
    """Keys [..., 1s, 2] and the places of an array [shape] as pairs of words."""
    if np.prod(shape, dtype=float) >= 2**32:
        raise NotArithmetic(f"a draw of {shape} numbers")
    places = np.arange(np.prod(shape, dtype=int), dtype=np.uint32)
    places = places.reshape((1,) * (keys.ndim - 1) + shape)
    keys = keys.reshape(*keys.shape[:-1], *(1,) * len(shape), 2)
    return keys, np.zeros_like(places), places


def _split(keys: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(threefry(*_counters(keys, shape)), -1)


def _bits(keys: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    if bit_width != 32:
        raise NotArithmetic(f"random numbers of {bit_width} bits")
    x, y = threefry(*_counters(keys, shape))
    return x ^ y


def _seed(seed: Any, impl: Any) -> Array:
    words = jnp.stack([jnp.uint32(0), jnp.asarray(seed).astype(jnp.uint32)])
    return _wrap(words, impl)


def _wrap(words: Array, impl: Any) -> Array:
    if impl.name != "threefry2x32":
        raise NotArithmetic(f"the generator {impl.name}")
    return words


# --- What inference formats lack beside -----------------------------------------------------------


def _bitcast(bits: Array, new_dtype: Any) -> Array:
    """The floats in [1, 2) that JAX makes of random bits; no other float is read from its bits."""
    if bits.dtype != np.uint32 or new_dtype != np.float32:
        raise NotArithmetic(f"{bits.dtype} read as {new_dtype}")
    fraction = (bits - np.uint32(ONE)).astype(np.float32)
    return 1 + fraction * np.float32(2.0**-MANTISSA)


# Giles (2010), "Approximating the erfinv function": as XLA's, for floats.
CENTRE = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
TAILS = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def _erf_inv(x: Array) -> Array:
    w = -jnp.log1p(-x * x)
    central = w < 5
    w = jnp.where(central, w - 2.5, jnp.sqrt(jnp.maximum(w, 5)) - 3)
    value = jnp.where(central, np.float32(CENTRE[0]), np.float32(TAILS[0]))
    for centre, tail in zip(CENTRE[1:], TAILS[1:], strict=True):
        value = jnp.where(central, np.float32(centre), np.float32(tail)) + value * w
    return value * x


RULES: dict[str, Callable[..., Array]] = {
    "random_seed": _seed,
    "random_wrap": _wrap,
    "random_unwrap": lambda keys: keys,
    "random_fold_in": fold_in,
    "random_split": _split,
    "random_bits": _bits,
    "bitcast_convert_type": _bitcast,
    "erf_inv": _erf_inv,
}


# --- Loops and branches ---------------------------------------------------------------------------


def _closed(inner: Any) -> Callable[..., list[Any]]:
    return lambda *arguments: _evaluate(inner.jaxpr, inner.consts, arguments)


def _scan(inputs: list[Any], **params: Any) -> list[Any]:
    consts, carry = params["num_consts"], params["num_consts"] + params["num_carry"]
    body = _closed(params["jaxpr"])

    def step(state: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        found = body(*inputs[:consts], *state, *row)
        return found[: carry - consts], found[carry - consts :]

    lengths = {"length": params["length"], "reverse": params["reverse"]}
    last, rows = jax.lax.scan(step, inputs[consts:carry], inputs[carry:], **lengths)
    return [*last, *rows]


def _while(inputs: list[Any], **params: Any) -> list[Any]:
    first, both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    condition, body = _closed(params["cond_jaxpr"]), _closed(params["body_jaxpr"])
    return jax.lax.while_loop(
        lambda state: condition(*inputs[:first], *state)[0],
        lambda state: body(*inputs[first:both], *state),
        inputs[both:],
    )


def _cond(inputs: list[Any], **params: Any) -> list[Any]:
    index, *operands = inputs
    return jax.lax.switch(index, [_closed(branch) for branch in params["branches"]], *operands)


LOOPS: dict[str, Callable[..., list[Any]]] = {"scan": _scan, "while": _while, "cond": _cond}
