from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.data import transforms
from jaxrl_prefs.environments import spaces


def test_box_to_unit_maps_the_corners() -> None:
    box = transforms.box_to_unit(np.array([-2.0, 0.0]), np.array([2.0, 10.0]))
    raw = np.array([[-2.0, 0.0], [2.0, 10.0], [0.0, 7.5]])
    np.testing.assert_allclose(box.apply(raw), [[-1, -1], [1, 1], [0, 0.5]])
    np.testing.assert_allclose(box.invert(box.apply(raw)), raw)


def test_the_identity_copies_no_array():
    x = np.array([[-0.0, 1.5]], np.float32)
    assert transforms.identity(2).apply(x) is x
    assert transforms.identity(2).apply(np.array([[1, 2]])).dtype.kind == "f"


def test_an_action_inside_the_limit_comes_back_inside_the_box() -> None:
    low, high = np.array([-0.4, 1.1, -3.3], np.float32), np.array([0.4, 1.7, 9.9], np.float32)
    box = transforms.box_to_unit(low, high)
    limit = np.full(3, transforms.ACTION_LIMIT, np.float32)
    assert (box.invert(limit) <= high).all()
    assert (box.invert(-limit) >= low).all()


def test_standardise_gives_mean_0_and_deviation_1() -> None:
    x = np.random.default_rng(0).normal([5.0, -2.0], [3.0, 40.0], (1000, 2)).astype(np.float32)
    y = transforms.standardise(x, floor=0.0).apply(x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-5)


def test_standardise_leaves_a_constant_column_finite() -> None:
    x = np.full((10, 1), 7.0, np.float32)
    np.testing.assert_array_equal(transforms.standardise(x).apply(x), 0)


def test_line() -> None:
    np.testing.assert_allclose(transforms.line(4.0, -2.0).apply(np.array([0.5, 1.0])), [0, 2])
    np.testing.assert_allclose(transforms.line(4.0, -2.0).invert(np.array([0.0, 2.0])), [0.5, 1])


def test_single_precision_is_kept() -> None:
    box = transforms.box_to_unit(np.array([-1.0]), np.array([3.0]))
    assert box.apply(np.zeros((2, 1), np.float32)).dtype == np.float32
    assert transforms.line(0.3, 0.1).apply(np.zeros(2, np.float32)).dtype == np.float32


def test_maps_take_jax_arrays_where_the_promotion_of_ranks_is_an_error() -> None:
    box = transforms.box_to_unit(np.array([-2.0, 0.0]), np.array([2.0, 10.0]))
    np.testing.assert_allclose(box.apply(jnp.ones((4, 5, 2)))[3, 4], [0.5, -0.8], rtol=1e-6)


def test_flatten_orders_mappings_by_key_and_tuples_as_they_are() -> None:
    observation = {"b": np.array([[3, 4], [5, 6]]), "a": (np.array(9.0), {"z": 2.0, "y": 1.0})}
    np.testing.assert_array_equal(spaces.flatten(observation), [9, 1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("rows", [1, 3])
def test_flatten_of_a_stack_is_the_stack_of_flattened(rows: int) -> None:
    rng = np.random.default_rng(0)
    stack = {
        "b": rng.normal(size=(rows, 2, 2)),
        "a": (rng.normal(size=rows), rng.normal(size=rows)),
    }
    singles = [
        spaces.flatten({"b": stack["b"][i], "a": (stack["a"][0][i], stack["a"][1][i])})
        for i in range(rows)
    ]
    np.testing.assert_array_equal(spaces.flatten(stack, lead=1), np.stack(singles))
