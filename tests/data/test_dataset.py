from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrl_prefs.data import Processing, dataset, prepare
from jaxrl_prefs.data.recording import Dataset, References, Steps, record
from jaxrl_prefs.errors import DataError

RAW = Processing(gamma=0.9)


def recording(rewards: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)) -> Dataset:
    """Episodes of two steps (terminated) and three (cut off); actions in [-2, 2]."""
    observation = np.array([[0, 1], [2, 3], [10, 11], [12, 13], [14, 15]], np.float64)
    following = np.array([[2, 3], [4, 5], [12, 13], [14, 15], [16, 17]], np.float64)
    steps = Steps(
        observation=observation,
        action=np.array([[-2.0], [1.0], [0.0], [2.0], [-1.0]]),
        reward=np.array(rewards),
        terminal=np.array([False, True, False, False, False]),
        next_observation=following,
        lengths=np.array([2, 3]),
        successor=np.ones(5, bool),
    )
    box = (np.array([-2.0]), np.array([2.0]))
    return record("a-v0", steps, box, None, References(None, "none"))


def test_transitions() -> None:
    t = prepare(recording(), RAW).transitions
    assert t.observation.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13], [14, 15]]
    assert t.next_observation.tolist() == [[2, 3], [4, 5], [12, 13], [14, 15], [16, 17]]
    limit = np.float32(1 - 1e-5)
    np.testing.assert_array_equal(t.action[:, 0], np.float32([-limit, 0.5, 0, limit, -0.5]))
    np.testing.assert_array_equal(t.next_action[:, 0], np.float32([0.5, 0, limit, -0.5, 0]))
    assert t.has_next_action.tolist() == [1, 0, 1, 1, 0]
    assert t.reward.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(t.discount, np.float32([0.9, 0, 0.9, 0.9, 0.9]))
    assert t.index.tolist() == [0, 1, 2, 3, 4]
    assert t.next_index.tolist() == [1, 1, 3, 4, 4]
    assert t.columns == {}


def test_leaves_are_single_precision() -> None:
    dataset = prepare(recording(), Processing(normalize_observations=True, reward="range"))
    leaves = jax.tree.leaves(dataset.transitions)
    assert [leaf.dtype.name for leaf in leaves] == ["float32"] * 7 + ["int32"] * 2


def test_spec() -> None:
    spec = prepare(recording(), RAW).spec
    assert (spec.observation_dim, spec.action_dim, spec.size) == (2, 1, 5)
    assert (spec.action_low, spec.action_high) == (-1.0, 1.0)
    np.testing.assert_allclose(spec.observation_mean, [7.6, 8.6], rtol=1e-6)


def test_range_makes_the_returns_span_the_scale() -> None:
    dataset = prepare(recording(), Processing(reward="range", reward_scale=1000.0))
    returns = dataset.transitions.reward[:2].sum(), dataset.transitions.reward[2:].sum()
    assert returns[1] - returns[0] == pytest.approx(1000.0)
    assert dataset.reward.apply(np.float32(9.0)) == pytest.approx(1000.0)  # 12 - 3 = 9 raw


def test_affine_rewards() -> None:
    dataset = prepare(recording(), Processing(reward_scale=100.0, reward_shift=-50.0))
    np.testing.assert_allclose(dataset.transitions.reward, [50, 150, 250, 350, 450], rtol=1e-6)
    np.testing.assert_allclose(
        dataset.reward.invert(dataset.transitions.reward), [1, 2, 3, 4, 5], rtol=1e-5
    )


def test_evaluation_normalises_as_the_data() -> None:
    raw = recording()
    dataset = prepare(raw, Processing(normalize_observations=True))
    assert dataset.transitions.observation.mean(0) == pytest.approx([0, 0], abs=1e-6)
    np.testing.assert_array_equal(
        dataset.observation.apply(raw.next_observation), dataset.transitions.next_observation
    )


def test_the_environment_gets_the_recorded_action_back() -> None:
    raw = recording()
    dataset = prepare(raw, RAW)
    np.testing.assert_allclose(
        dataset.action.invert(dataset.transitions.action), raw.action, atol=2.1e-5
    )


@pytest.mark.parametrize(
    ("processing", "message"),
    [
        (Processing(gamma=1.5), "gamma must lie between 0 and 1, not 1.5"),
        (Processing(gamma=float("nan")), "gamma"),
        (Processing(reward="rang"), "reward must be 'affine', 'range' or 'sparse', not 'rang'"),
        (Processing(reward_scale=0.0), "reward_scale must be finite and not 0"),
        (Processing(reward_shift=float("inf")), "reward_shift must be finite"),
        (Processing(reward_scale=1e38), "reward overflows 32-bit floats"),
    ],
)
def test_bad_processing_is_refused(processing: Processing, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(recording(), processing)


def test_more_rows_than_row_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MOST_ROWS", 5)
    prepare(recording(), RAW)
    monkeypatch.setattr(dataset, "MOST_ROWS", 4)
    with pytest.raises(DataError, match="a-v0 has 5 rows, more than 4: row numbers are 32-bit"):
        prepare(recording(), RAW)


def test_range_of_equal_returns_is_refused() -> None:
    with pytest.raises(DataError, match="all 2 episodes have the same return"):
        prepare(recording((3.0, 3.0, 2.0, 2.0, 2.0)), Processing(reward="range"))


def test_rounding_makes_no_range() -> None:
    """100.00001 - 100 is no return to scale by: rewards would come out as 6e16."""
    differing = recording((3.0, 3.0, 2.0, 2.0, 2.0000002))
    assert np.ptp(differing.returns) > 0
    with pytest.raises(DataError, match=r"up to rounding.*reward='affine' with reward_scale=1"):
        prepare(differing, Processing(reward="range"))
    cancelling = recording((1e6, -1e6 + 0.0625, 1.0, 1.0, -2.0))  # .0625 of a sum of a million
    with pytest.raises(DataError, match="up to rounding"):
        prepare(cancelling, Processing(reward="range"))
    sparse = recording((0.0, 0.0, 0.0, 0.0, 1e-3))
    assert prepare(sparse, Processing(reward="range")).transitions.reward[4] == pytest.approx(1.0)
