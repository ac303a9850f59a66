"""Shuffles that are computed entry by entry, so that no permutation is stored or carried."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl_prefs.types import Array, Key

ROUNDS = 8  # Luby and Rackoff need 4 for random round functions; twice that for our plain mixer


def _mixed(x: Array) -> Array:
    """A bijection of 32-bit integers in which every input bit reaches every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


def permuted(key: Key, position: Array, number: Array, size: int) -> Array:
    """Entry `position` of random permutation `number` of 0..size-1 under `key`.

    A Feistel network over pairs of digits in base ceil(sqrt(size)), applied again until the result
    is inside the range (cycle walking). `position` and `number` are uint32 of one shape, and each
    entry is computed by itself. Accelerators, which would ask the host after each time whether to
    go on, apply it a fixed number of times (`reapplications`).

    Raises:
        ValueError: if `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"cannot shuffle {size} rows")
    base = jnp.uint32(_base(size))
    salts = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    stream = _mixed(number.astype(jnp.uint32) + jnp.uint32(0x9E3779B9))

    def network(x: Array) -> Array:
        left, right = x // base, x % base
        for salt in salts:
            left, right = right, (left + _mixed(_mixed(right ^ salt) ^ stream) % base) % base
        return left * base + right

    def outside(x: Array) -> Array:
        return jnp.any(x >= size)

    def again(x: Array) -> Array:
        return jnp.where(x >= size, network(x), x)

    def until_inside(x: Array) -> Array:
        return jax.lax.while_loop(outside, again, x)

    def fixed(x: Array) -> Array:
        return jax.lax.fori_loop(0, reapplications(size), lambda _, y: again(y), x)

    first = network(position.astype(jnp.uint32))
    inside = jax.lax.platform_dependent(first, cpu=until_inside, default=fixed)
    return inside.astype(jnp.int32)


def reapplications(size: int) -> int:
    """How often the network is applied again until an entry of `permuted` is inside the range.

    No entry needs more times than there are numbers outside. Where these are many, it is the number
    after which an entry of a random permutation is still outside with a probability below 2^-64.
    """
    numbers = _base(size) ** 2
    outside = numbers - size
    return min(outside, math.ceil(64 / math.log2(numbers / outside))) if outside else 0


def _base(size: int) -> int:
    return max(math.isqrt(size - 1) + 1, 1)
