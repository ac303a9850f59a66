"""The ways to choose rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.method import Method, Phase, epoch, identity, no_diagnosis, sequential, uniform

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
