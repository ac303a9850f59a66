"""Random draws as integer arithmetic: the same bits as JAX's own generator."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.runs import arithmetic
from jaxrl_prefs.types import Array

WORDS = jax.ShapeDtypeStruct((2,), np.uint32)


def streams(words: Array) -> Array:
    first, second = jax.random.split(jax.random.fold_in(words, 7))
    many = jax.vmap(lambda key: jax.random.bits(key, (2, 3)))(jax.random.split(second, 4))
    return jnp.concatenate([jax.random.bits(first, (3, 4)).ravel(), many.ravel()])


def normals(words: Array) -> Array:
    return jax.random.normal(words, (1000,))


def chosen(words: Array) -> Array:
    return jax.random.categorical(words, jnp.arange(4.0), shape=(50,))


def loop(words: Array) -> Array:
    def step(n: Array, x: Array) -> Array:
        return x + jax.random.uniform(jax.random.fold_in(words, n), (3,))

    return jax.lax.fori_loop(0, 4, step, jnp.zeros(3))


@pytest.mark.parametrize("draw", [streams, normals, chosen, loop])
def test_draws_are_those_of_jax(draw: Callable[[Array], Array]) -> None:
    key = jax.random.key_data(jax.random.key(5))
    plain = arithmetic.plain(draw, WORDS)
    # Integers are the same however they are computed. Of floats both sides are compiled, as XLA
    # rounds otherwise in a fused loop than operation by operation.
    run = (lambda function: function) if draw is streams else jax.jit
    np.testing.assert_array_equal(run(plain)(key), run(draw)(key))
    names = {each.primitive.name for each in jax.make_jaxpr(plain)(key).eqns}
    assert not {name for name in names if name.startswith("random_")}


def test_another_generator_is_refused() -> None:
    def draw(words: Array) -> Array:
        del words
        return jax.random.bits(jax.random.key(0, impl="rbg"), (2,))

    with pytest.raises(arithmetic.NotArithmetic, match=r"random_|generator"):
        arithmetic.plain(draw, WORDS)(jnp.zeros(2, jnp.uint32))
