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
    entry is computed by itself. Raises ValueError if `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"cannot shuffle {size} rows")
    base = jnp.uint32(max(math.isqrt(size - 1) + 1, 1))
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

    first = network(position.astype(jnp.uint32))
    return jax.lax.while_loop(outside, again, first).astype(jnp.int32)
