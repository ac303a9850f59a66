"""Policies of action chunks in both arenas, against play that is worked out step by step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import ActionChunk, Dataset, PreparedDataset, Processing
from jaxrl_prefs.environments import mjx
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.evaluation import rollout
from jaxrl_prefs.keys import PLAY, evaluation_keys
from jaxrl_prefs.method import Policy
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.types import Array, Key
from tests import playground

EVAL_SEED = 8  # a multiple of 4: episodes of the corridor take 3, 4, 5, 5 steps
LENGTHS = (3, 4, 5, 5)


@pytest.fixture(autouse=True)
def corridor() -> None:
    playground.register()


def dataset(env: str, observations: int, high: float, chunk: ActionChunk) -> PreparedDataset:
    """Made-up data of one action, in chunks."""
    recording = Dataset.from_arrays(
        np.random.default_rng(0).normal(size=(12, observations)),
        np.full((12, 1), high / 2),
        np.zeros(12),
        np.arange(12) == 11,
        action_low=0 if env == playground.ENV_ID else -high,
        action_high=high,
        env=env,
    )
    return data.multi_step(data.prepare(recording, Processing()), 1, chunk)


def planned(state: dict, observation: Array, key: Key) -> Array:
    """Chunks of four actions: the last thing seen over 10, and a hundredth more at each place."""
    del state, key
    return observation[:, -1:] / 10 + jnp.arange(4)[None] / 100


def arena(backend: str, over: PreparedDataset, episodes: int) -> rollout.Arena:
    policies = {"planned": Policy(planned, 1, "the one there is")}
    options: dict[str, Any] = {"episodes": episodes, "eval_seed": EVAL_SEED, "mapping": "auto"}
    return rollout.make(backend, policies, over, (0, 1), seed_axis.seed_mesh(), **options)


def played(place: rollout.Arena, horizon: int) -> rollout.Played:
    mesh = seed_axis.seed_mesh()
    keys = seed_axis.pad(evaluation_keys((0, 1), PLAY, 0), mesh)
    found = place.play("planned", seed_axis.pad({"x": np.zeros(2)}, mesh), keys, horizon)
    place.close()
    return found


@pytest.mark.parametrize("executed", [1, 3, 4])
def test_gymnasium_gets_the_actions_of_a_chunk_one_after_the_other(executed: int) -> None:
    over = dataset(playground.ENV_ID, 2, 10.0, ActionChunk(4, executed))
    found = played(arena("gymnasium", over, 4), 5)
    # The corridor shows (seed, step) and pays the action; -1 to 1 stand for 0 to 10.
    chosen = [(now - now % executed) / 10 + now % executed / 100 for now in range(5)]
    expected = [5 * sum(1 + x for x in chosen[:steps]) for steps in LENGTHS]
    np.testing.assert_array_equal(found.lengths, [LENGTHS] * 2)
    np.testing.assert_allclose(found.returns, [expected] * 2, rtol=1e-6)


@pytest.mark.parametrize("executed", [1, 3])
def test_the_device_plays_the_actions_of_a_chunk_one_after_the_other(executed: int) -> None:
    over = dataset("Pendulum-v1", 3, 2.0, ActionChunk(4, executed))
    found = played(arena("mjx", over, 2), 7)  # the horizon cuts the last chunk
    assert over.recording.task is not None
    simulator = mjx.build(over.recording.task)
    step, observe = jax.jit(simulator.step), jax.jit(simulator.observe)
    for episode in range(2):
        world, total = simulator.reset(jax.random.key(EVAL_SEED + episode)), 0.0
        for now in range(7):
            if now % executed == 0:
                speed = float(observe(world)[2])
            action = 2 * (speed / 10 + now % executed / 100)
            world, reward, _ = step(world, jnp.float32([action]))
            total += float(reward)
        np.testing.assert_allclose(found.returns[:, episode], total, rtol=1e-4)
    np.testing.assert_array_equal(found.lengths, 7)


def test_an_environment_of_another_size_is_refused() -> None:
    over = dataset(playground.ENV_ID, 3, 10.0, ActionChunk(4))
    with pytest.raises(DataError, match=r"2 observations and 1 actions.*has 3 and 1"):
        arena("gymnasium", over, 1)
