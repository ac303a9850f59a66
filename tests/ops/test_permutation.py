"""Shuffles are bijections, differ from pass to pass, and favour no position."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.ops.permutation import permuted, reapplications


def shuffle(seed, draw, size):
    position = jnp.arange(size, dtype=jnp.uint32)
    run = jax.jit(permuted, static_argnums=3)
    return np.asarray(run(jax.random.key(seed), position, jnp.full_like(position, draw), size))


def test_sizes_up_to_seventy_are_exact_bijections():
    passes = 3
    draw = jnp.repeat(jnp.arange(passes, dtype=jnp.uint32), 70)
    with jax.disable_jit():  # 70 sizes share their operations, but no two share a program
        for size in range(1, 71):
            # the same shape for every size: what is beyond the size starts again from 0
            position = jnp.asarray(np.tile(np.arange(70, dtype=np.uint32) % size, passes))
            found = np.asarray(permuted(jax.random.key(3), position, draw, size))
            found = found.reshape(passes, 70)[:, :size]
            np.testing.assert_array_equal(np.sort(found, 1), np.tile(np.arange(size), (passes, 1)))


@pytest.mark.parametrize("size", [65_536, 65_537, 1_000_003])
def test_large_sizes_are_exact_bijections(size):
    found = shuffle(0, 3, size)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_a_fixed_number_of_rounds_gives_the_same_orders(monkeypatch):
    """As on an accelerator. Bounds by hand: 16 fills its square, 24 and 5 lack 1 and 4 numbers."""
    sizes = [1, 2, 5, 17, 101]
    with jax.disable_jit():
        searched = [shuffle(3, 1, size) for size in sizes]
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda x, cpu, default: default(x))
        fixed = [shuffle(3, 1, size) for size in sizes]
    for one, other in zip(searched, fixed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [reapplications(size) for size in (16, 24, 5)] == [0, 1, 4]
    assert reapplications(1_000_003) == 8  # 1,998 of 1,002,001 are outside: 8.97 bits each time


def test_a_size_near_the_limit_of_int32_stays_in_range():
    size = 2**31 - 1
    position = jnp.array([0, 1, 12_345, 2**31 - 2], jnp.uint32)
    found = np.asarray(permuted(jax.random.key(0), position, jnp.zeros_like(position), size))
    assert (found >= 0).all() and (found < size).all() and len(set(found.tolist())) == 4


def test_passes_and_keys_give_different_orders():
    orders = [shuffle(seed, draw, 1000) for seed, draw in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # two random orders of many rows agree in about one place
            assert (one == other).sum() < 10


def test_entries_do_not_depend_on_their_company():
    whole = shuffle(2, 5, 333)
    some = jnp.array([7, 300, 41], jnp.uint32)
    found = permuted(jax.random.key(2), some, jnp.full_like(some, 5), 333)
    np.testing.assert_array_equal(found, whole[[7, 300, 41]])


def shuffles(size, *, over_keys, count=20_000):
    """[count, size] orders, over the draws of one key or over keys at draw 0."""
    position = jnp.arange(size, dtype=jnp.uint32)
    index = jnp.arange(count, dtype=jnp.uint32)

    def one(i):
        key = jax.random.fold_in(jax.random.key(7), i if over_keys else 0)
        draw = jnp.full_like(position, 0 if over_keys else i)
        return permuted(key, position, draw, size)

    return np.asarray(jax.jit(jax.vmap(one))(index))


@pytest.mark.parametrize("over_keys", [False, True], ids=["draws", "keys"])
@pytest.mark.parametrize("size", [2, 3, 4, 10])
def test_no_entry_and_no_pair_of_neighbours_is_favoured(size, over_keys):
    orders = shuffles(size, over_keys=over_keys)
    places = np.stack([(orders == entry).mean(0) for entry in range(size)])
    allowed = 5 * np.sqrt((1 / size) * (1 - 1 / size) / len(orders))
    assert np.abs(places - 1 / size).max() < allowed

    share = 1 / (size * (size - 1))
    allowed = 5 * np.sqrt(share * (1 - share) / len(orders))
    for place in range(size - 1):
        pairs = np.zeros((size, size))
        np.add.at(pairs, (orders[:, place], orders[:, place + 1]), 1 / len(orders))
        assert np.abs(pairs[~np.eye(size, dtype=bool)] - share).max() <= allowed


def test_an_empty_range_is_refused():
    position = jnp.zeros(1, jnp.uint32)
    with pytest.raises(ValueError, match="0 rows"):
        permuted(jax.random.key(0), position, position, 0)
