"""The rows on which policies of action chunks are estimated, against values that are known."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrl_prefs.data import Dataset
from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.runs.evaluation_data import evaluation_data

GAMMA = 0.9
LENGTHS = (6, 2, 7, 9)


def chain() -> Dataset:
    """Episodes that end by themselves; row i has observation (i,), and every state is its own."""
    ends = np.cumsum(LENGTHS) - 1
    size = sum(LENGTHS)
    return Dataset.from_arrays(
        np.arange(size)[:, None],
        np.linspace(-0.9, 0.9, size)[:, None],
        np.random.default_rng(0).normal(size=size),
        np.isin(np.arange(size), ends),
        name="chain",
    )


@pytest.mark.parametrize("played", [1, 3])
def test_values_of_the_data_solve_the_equation_that_is_fitted(played: int) -> None:
    """In the units of q, and with the values of the states that single steps give."""
    data = chain()
    found = evaluation_data(data, False, GAMMA, 0.25, fqe.Config(), played=played)
    value = np.zeros(data.size + 1)
    for row in range(data.size - 1, -1, -1):
        value[row] = data.reward[row] + GAMMA * (0 if data.terminal[row] else value[row + 1])
    q = (value - found.unit.centre) / found.unit.scale
    raw = found.dataset.observation.invert(found.data.observation)[:, 0].round().astype(int)
    after = found.dataset.observation.invert(found.data.next_observation)[:, 0].round().astype(int)
    np.testing.assert_array_equal(raw, found.starts)
    goal = found.data.reward + found.data.discount * q[after]
    np.testing.assert_allclose(goal, q[raw], atol=1e-5)
    # Episodes of fewer actions than are played at a time are left out.
    first = [0, 6, 8, 15] if played == 1 else [0, 8, 15]
    assert raw[found.data.first].tolist() == first
    np.testing.assert_allclose(found.returns, value[first], atol=1e-5)
    assert found.data.action.shape[1] == played
    assert q.min() >= found.unit.low and q.max() <= found.unit.high
    apart = set(found.data.episode[found.held_out])
    assert len(apart) == 1 and not apart & set(found.data.episode[~found.held_out])
