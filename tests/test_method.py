"""The ways to choose rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.method import (
    PRECISIONS,
    Method,
    Phase,
    epoch,
    identity,
    no_diagnosis,
    sequential,
    uniform,
    with_precision,
)
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.types import Spec, Transition

KEY = jax.random.key(0)


def test_uniform_draws_below_size_and_anew_at_each_step() -> None:
    first = np.asarray(uniform(KEY, jnp.int32(0), 10, 1000))
    again = np.asarray(uniform(KEY, jnp.int32(0), 10, 1000))
    other = np.asarray(uniform(KEY, jnp.int32(1), 10, 1000))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    counts = np.bincount(first, minlength=10)
    assert len(counts) == 10
    # Each count is binomial(1000, .1): five standard deviations are 47.
    assert np.abs(counts - 100).max() < 47


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (7, 7), (5, 12)])
def test_epoch_passes_over_all_rows_before_it_repeats_one(size: int, batch_size: int) -> None:
    steps = -(-3 * size // batch_size)
    rows = np.concatenate([epoch(KEY, jnp.int32(t), size, batch_size) for t in range(steps)])
    passes = rows[: 3 * size].reshape(3, size)
    np.testing.assert_array_equal(np.sort(passes, -1), np.tile(np.arange(size), (3, 1)))
    assert len({tuple(order) for order in passes}) == 3  # a new order each time


def test_walk_takes_slices_and_stays_on_the_last_row() -> None:
    rows = [sequential(KEY, jnp.int32(t), 5, 2).tolist() for t in range(4)]
    assert rows == [[0, 1], [2, 3], [4, 4], [4, 4]]


def test_defaults_do_nothing() -> None:
    state = {"w": jnp.ones(3)}
    assert identity(state, KEY) is state
    phase = Phase("any", 1, lambda *_: (state, {}), 4)
    method = Method(lambda key, batch: state, (phase,), {})
    assert method.diagnose is no_diagnosis
    assert phase.enter is identity
    assert phase.sampler is uniform
    assert not phase.columns
    assert not phase.shared


# --- Precision ------------------------------------------------------------------------------------


def products_of(jaxpr: Any) -> Iterator[tuple[str, Any]]:
    """(type of the factors, precision) of every product in a program, loops and calls included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield str(equation.invars[0].aval.dtype), equation.params["precision"]
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from products_of(getattr(inner.jaxpr, "jaxpr", inner.jaxpr))
            elif hasattr(inner, "eqns"):
                yield from products_of(inner)


@pytest.mark.parametrize("name", PRECISIONS)
def test_hidden_layers_alone_follow_the_precision(name: str, tiny: Transition) -> None:
    """Of three layers the middle one; in two critics that are a loop, and the policy."""
    wide = td3_bc.Config(actor_hidden=(8, 8), critic_hidden=(8, 8))
    method = with_precision(td3_bc.make(wide, Spec.of(tiny)), name)
    state = jax.eval_shape(method.init, KEY, tiny)
    act = jax.make_jaxpr(method.policies["actor"].act)(state, tiny.observation, KEY)
    exact = jax.lax.Precision.HIGHEST
    middle = {
        "float32": ("float32", (exact, exact)),
        "tf32": ("float32", (jax.lax.Precision.HIGH,) * 2),
        "bfloat16": ("bfloat16", (jax.lax.Precision.DEFAULT,) * 2),
    }[name]
    edge = ("float32", (exact, exact))
    assert list(products_of(act.jaxpr)) == [edge, middle, edge]
    update = jax.make_jaxpr(method.phases[0].update)(state, tiny, KEY, jnp.int32(0))
    found = list(products_of(update.jaxpr))
    low = [each for each in found if each[0] == "bfloat16"]
    assert bool(low) == (name == "bfloat16")
    after, _ = jax.eval_shape(method.phases[0].update, state, tiny, KEY, jnp.int32(0))
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(after))


def test_what_is_not_computed_is_not_wrapped(tiny: Transition) -> None:
    method = with_precision(td3_bc.make(td3_bc.Config(), Spec.of(tiny)), "bfloat16")
    assert method.phases[0].enter is identity
    with pytest.raises(ValueError, match="no precision 'half'; there are float32, tf32, bfloat16"):
        with_precision(method, "half")
