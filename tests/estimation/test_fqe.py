"""Fitted Q evaluation against exact values."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import jax
import numpy as np
import pytest

from jaxrl_prefs.estimation import fqe, ranking
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.testing import fitted_data
from jaxrl_prefs.types import Array, Key, Net
from tests import probes

STATES, ACTIONS, GAMMA = 5, 3, 0.9


def table_net(members: int) -> Net:
    """Q as a table: state and action are their numbers."""

    def init(key: Key, observation: Array, action: Array) -> Array:
        del observation, action
        return jax.random.normal(key, (members, STATES, ACTIONS))

    def apply(table: Array, observation: Array, action: Array) -> Array:
        return table[:, observation[:, 0].astype(int), action[:, 0].astype(int)]

    return Net(init, apply)


def one_device() -> jax.sharding.Mesh:
    return seed_axis.seed_mesh(jax.devices()[:1])


def test_a_table_is_fitted_to_the_exact_value() -> None:
    """Two policies of an MDP with 5 states, 3 actions and a terminal state, side by side."""
    rng = np.random.default_rng(0)
    after = rng.integers(0, STATES, (STATES, ACTIONS))
    reward = (1 - GAMMA) * rng.normal(size=(STATES, ACTIONS))  # so that values are of order 1
    last = rng.random((STATES, ACTIONS)) < 0.2
    policies = rng.integers(0, ACTIONS, (2, STATES))
    s, a = (x.ravel() for x in np.meshgrid(range(STATES), range(ACTIONS), indexing="ij"))
    unit = fqe.units(reward, np.array([-1.0, 1.0]), GAMMA)
    discount = (GAMMA * ~last[s, a]).astype(np.float32)
    data = fqe.Data(
        observation=s[:, None].astype(np.float32),
        action=a[:, None].astype(np.float32),
        reward=fqe.scaled_reward(reward[s, a], discount, unit),
        discount=discount,
        next_observation=after[s, a][:, None].astype(np.float32),
        episode=np.arange(len(s), dtype=np.int32),
        first=np.arange(len(s), dtype=np.int32),  # the value is the mean over all pairs (s, pi(s))
    )
    taken = policies[:, :, None].astype(np.float32)  # [P, S, 1]
    actions = fqe.Actions(taken[:, after[s, a]][:, :, None], taken[:, s][:, :, None])
    config = fqe.Config(
        critics=2, learning_rate=0.1, tau=1.0, batch_size=16, updates=8_000, bootstrap=False
    )
    found = fqe.fit(data, actions, config, unit, one_device(), net=table_net(2), chunk=8_000)
    for policy, members in zip(policies, found.members, strict=True):
        at = np.arange(STATES)
        step = np.zeros((STATES, STATES))
        step[at, after[at, policy]] = GAMMA * ~last[at, policy]
        exact = np.linalg.solve(np.eye(STATES) - step, reward[at, policy])
        assert members == pytest.approx(exact.mean(), abs=1e-6)
    assert found.bellman.max() < 1e-5
    assert found.clipped.max() == 0


PROBE = fqe.Config(
    critics=3,
    hidden=(16,),
    layer_norm=False,  # compiles faster
    learning_rate=0.01,
    tau=0.1,
    batch_size=64,
    updates=600,
)


@pytest.mark.parametrize("make", probes.PROBES, ids=lambda make: make.__name__)
def test_the_probes(make: Callable[[], probes.Probe]) -> None:
    """Policies that take .5 and -.5 have their exact values; the behaviour has the data's return.

    The behaviour's actions are drawn as those of the data were. All lie in their intervals.
    """
    probe = make()
    data, unit = fitted_data(probe.data, GAMMA)
    taken = np.full((3, len(data.reward), 4, 1), 0.5, np.float32)
    taken[1] = -0.5
    taken[2] = np.random.default_rng(3).uniform(-0.99, 0.99, taken.shape[1:])
    actions = fqe.Actions(taken, taken[:, data.first])
    found = fqe.fit(data, actions, PROBE, unit, one_device(), chunk=600)
    starts = data.observation[data.first]
    returns = fqe.to_go(probe.data.reward, probe.data.discount, probe.data.has_next_action)
    exact = [probe.q(starts, np.full_like(starts, action)).mean() for action in (0.5, -0.5)]
    for members, value in zip(found.members, [*exact, returns[data.first].mean()], strict=True):
        low, high = ranking.interval(ranking.draws([members[None]])[:, 0])
        assert low - 0.02 < value < high + 0.02
        assert high - low < 0.8
        assert abs(members.mean() - value) < 0.12
    assert found.bellman.max() < 0.3


def test_examples() -> None:
    assert doctest.testmod(fqe).failed == 0
