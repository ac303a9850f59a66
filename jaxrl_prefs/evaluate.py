"""Plays the policies of all seeds at once, and asks a method how its values look.

One vector environment holds S * E copies: E episodes for each of S training seeds. Episode e starts
from environment seed `eval_seed + e` whatever the training seed, so that seeds are compared on the
same starts. Results depend on the state and on the global step alone: keys are derived from
(seed, step, time), and an evaluation leaves nothing behind in the environments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs import ensemble
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.method import Method, State
from jaxrl_prefs.types import Array, Key, Transition

PLAY, DIAGNOSE = 1_000_000, 1_000_001  # key streams; the runner's are 0 and the phases' numbers
DIAGNOSED_ROWS = 1024


class Score(NamedTuple):
    """How one policy did, and how it chose its actions."""

    policy: str
    candidates: int  # actions drawn per decision
    rule: str  # how one was chosen
    returns: np.ndarray  # [S, E] raw
    scores: np.ndarray  # [S, E] 0 to 100 by the dataset's references; raw without them
    lengths: np.ndarray  # [S, E] steps


class Evaluator:
    """Plays every policy of a method for S seeds and E episodes each.

    Built once for a run: it owns the environments and the compiled policies.

    Raises:
        DataError: if the dataset names no environment, or its environment cannot be made.
    """

    def __init__(
        self,
        method: Method,
        dataset: Dataset,
        seeds: Sequence[int],
        mesh: Mesh,
        *,
        episodes: int,
        eval_seed: int,
        mapping: str = "auto",
    ) -> None:
        self._policies = method.policies
        self._dataset = dataset
        self._seeds, self._mesh = tuple(seeds), mesh
        self._starts = [eval_seed + episode for episode in range(episodes)] * len(seeds)
        self._envs, self._horizon = _copies(dataset, len(self._starts))
        self._acts = {
            name: ensemble.over_seeds(_at_time(policy.act), mesh, (0, 0, 0, None), mapping=mapping)
            for name, policy in method.policies.items()
        }

    def __call__(self, state: State, step: int, *, last: bool = True) -> dict[str, Score]:
        """Plays every policy from the same starts.

        Args:
            state: the runner's, [P, ...] on the mesh.
            step: global step, from which keys are derived.
            last: whether training is over; before, policies of `last_only` are left out.
        """
        chosen = [name for name, policy in self._policies.items() if last or not policy.last_only]
        return {name: self._score(name, state, step) for name in chosen}

    def estimate(self, state: State, steps: int = 5, *, last_only: bool = False) -> float:
        """Seconds that one evaluation takes if every episode lasts its full time, measured.

        Of the policies that every evaluation plays, or of those of `last_only`.
        """
        total = 0.0
        for name in (n for n, policy in self._policies.items() if policy.last_only == last_only):
            self._play(name, state, 0, 1)  # compiles
            start = time.perf_counter()
            self._play(name, state, 0, steps)
            total += (time.perf_counter() - start) / steps * self._horizon
        return total

    def close(self) -> None:
        """Frees the environments."""
        self._envs.close()

    def _score(self, name: str, state: State, step: int) -> Score:
        policy = self._policies[name]
        returns, lengths = self._play(name, state, step, self._horizon)
        scores = self._dataset.score(returns)
        return Score(name, policy.candidates, policy.rule, returns, scores, lengths)

    def _play(self, name: str, state: State, step: int, horizon: int) -> tuple[np.ndarray, ...]:
        """Plays one episode in every copy; returns (returns, lengths), each [S, E]."""
        keys = stream(self._seeds, self._mesh, PLAY, step)
        live = np.ones(len(self._starts), bool)
        returns, lengths = np.zeros(live.shape), np.zeros(live.shape, int)
        observation, _ = self._envs.reset(seed=self._starts)
        for now in range(horizon):
            action = self._act(name, state, observation, keys, now)
            observation, reward, terminated, truncated, _ = self._envs.step(action)
            returns += np.where(live, reward, 0.0)
            lengths += live
            live &= ~(terminated | truncated)
            if not live.any():
                break
        shape = (len(self._seeds), -1)
        return returns.reshape(shape), lengths.reshape(shape)

    def _act(
        self, name: str, state: State, observation: np.ndarray, keys: Key, now: int
    ) -> np.ndarray:
        """Raw observations [S * E, O] to raw actions [S * E, A], in one compiled call."""
        seeds, (copies, width) = len(self._seeds), observation.shape
        seen = np.float32(self._dataset.observation.apply(observation))
        batch = ensemble.pad(seen.reshape(seeds, copies // seeds, width), self._mesh)
        action = ensemble.trim(self._acts[name](state, batch, keys, np.int32(now)), seeds)
        return self._dataset.action.invert(action.reshape(copies, -1))


class Diagnosis:
    """Asks a method for its warning signs (`Method.diagnose`) on the same rows at every evaluation.

    The batch holds at most `DIAGNOSED_ROWS` rows of the dataset, drawn from `eval_seed`.
    """

    def __init__(
        self,
        method: Method,
        data: Transition,
        seeds: Sequence[int],
        mesh: Mesh,
        *,
        eval_seed: int,
        mapping: str = "auto",
    ) -> None:
        self._seeds, self._mesh = tuple(seeds), mesh
        size = len(data.reward)
        random = np.random.default_rng(eval_seed)
        rows = np.sort(random.choice(size, min(size, DIAGNOSED_ROWS), replace=False))
        self._batch = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], data)
        self._measure = ensemble.over_seeds(method.diagnose, mesh, (0, None, 0), mapping=mapping)

    def __call__(self, state: State, step: int) -> dict[str, np.ndarray]:
        """Returns {name: [S]}, means over the batch; `state` and `step` as for an Evaluator."""
        keys = stream(self._seeds, self._mesh, DIAGNOSE, step)
        metrics = ensemble.trim(self._measure(state, self._batch, keys), len(self._seeds))
        return {name: total / count for name, (total, count) in metrics.items() if count.all()}


def stream(seeds: Sequence[int], mesh: Mesh, number: int, step: int) -> Key:
    """Keys [P] of one purpose at one global step."""
    fold = jax.vmap(jax.random.fold_in, (0, None))
    keys = fold(fold(ensemble.seed_keys(seeds), number), step)
    return ensemble.pad(keys, mesh)


def _at_time(act: Callable[[State, Array, Key], Array]) -> Callable[..., Array]:
    return lambda state, observation, key, now: act(
        state, observation, jax.random.fold_in(key, now)
    )


def _copies(dataset: Dataset, count: int) -> tuple[Any, int]:
    """Makes a vector environment of `count` copies; returns it with its time limit."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    from jaxrl_prefs.data import DataError

    task = dataset.recording.task
    if task is None:
        raise DataError(f"{dataset.recording.name} names no environment to evaluate in")
    envs = SyncVectorEnv(
        [lambda: OneEpisode(task.make())] * count,  # type: ignore[list-item,return-value]
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    expected = (dataset.spec.observation_dim, dataset.spec.action_dim)
    spaces = (envs.single_observation_space, envs.single_action_space)
    found = tuple(space.shape[0] for space in spaces if space.shape)
    if found != expected:
        envs.close()
        raise DataError(
            f"{task.env_id} has {found[0]} observations and {found[1]} actions, but the dataset "
            f"{dataset.recording.name} has {expected[0]} and {expected[1]}"
        )
    return envs, task.max_episode_steps


class OneEpisode:
    """An environment that plays one episode after each seeded reset, and then rests at no cost.

    A vector environment resets a copy whose episode is over and plays on; the others still need
    their time, but only first episodes count.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._last: Any = None  # observation at which the copy rests
        self._over = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Starts an episode if a seed is given; else stays at rest."""
        if seed is None and self._over:
            return self._last, {}
        self._over = False
        self._last, _ = self.env.reset(seed=seed, options=options)
        return self._last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Plays on; at rest, says again that the episode is over."""
        if self._over:
            return self._last, 0.0, True, False, {}
        self._last, reward, terminated, truncated, _ = self.env.step(action)
        self._over = bool(terminated or truncated)
        return self._last, float(reward), bool(terminated), bool(truncated), {}
