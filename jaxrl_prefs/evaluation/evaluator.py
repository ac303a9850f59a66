"""Plays the policies of all seeds at once, and asks a method how its values look.

E episodes are played for each of S training seeds in an arena (rollout.py), Gymnasium's
environments on the host or their copies on the device. Episode e starts from environment seed
`eval_seed + e` whatever the training seed, so that seeds are compared on the same starts. Results
depend only on the state and on the global step: keys are derived from (seed, step, time), and an
evaluation leaves nothing behind in the environments.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxrl_prefs.data import PreparedDataset
from jaxrl_prefs.errors import EvaluationError
from jaxrl_prefs.evaluation import rollout
from jaxrl_prefs.evaluation.rollout import Played
from jaxrl_prefs.keys import DIAGNOSE, PLAY, evaluation_keys
from jaxrl_prefs.method import Method, Policy, State
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.rows import gathered, on_host
from jaxrl_prefs.types import Transition

DIAGNOSED_ROWS = 1024


class Score(NamedTuple):
    """How one policy did, and how it chose its actions."""

    policy: str
    candidates: int  # actions drawn per decision
    rule: str  # how one was chosen
    returns: np.ndarray  # [S, E] raw
    scores: np.ndarray  # [S, E], by the dataset's `score_kind`
    lengths: np.ndarray  # [S, E] steps
    successes: np.ndarray | None = None  # [S, E] bool; None where the environment reports none


def played(policies: Mapping[str, Policy], last: bool) -> list[str]:
    """The policies of an evaluation; those of `last_only` are played when training is over."""
    return [name for name, policy in policies.items() if last or not policy.last_only]


class Evaluator:
    """Plays every policy of a method for S seeds and E episodes each.

    Built once for a run: it owns the environments and the compiled policies. `backend` is one of
    `arenas.BACKENDS`; what it came to is in the attribute of that name.

    Raises:
        DataError: if the dataset names no environment, or its environment cannot be made.
    """

    def __init__(
        self,
        method: Method,
        dataset: PreparedDataset,
        seeds: Sequence[int],
        mesh: Mesh,
        *,
        episodes: int,
        eval_seed: int,
        mapping: str = "auto",
        backend: str = "auto",
    ) -> None:
        self._policies = method.policies
        self._dataset = dataset
        self._seeds, self._mesh = tuple(seeds), mesh
        self.backend = rollout.chosen_backend(backend, dataset, mesh)
        self._arena = rollout.make(
            self.backend,
            method.policies,
            dataset,
            seeds,
            mesh,
            episodes=episodes,
            eval_seed=eval_seed,
            mapping=mapping,
        )

    def __call__(self, state: State, step: int, *, last: bool = True) -> dict[str, Score]:
        """Plays every policy from the same starts.

        Args:
            state: the runner's, [P, ...] on the mesh.
            step: global step, from which keys are derived.
            last: whether training is over; before, policies of `last_only` are left out.
        """
        return {name: self.score(name, state, step) for name in played(self._policies, last)}

    def estimate(self, state: State, steps: int = 5, *, last_only: bool = False) -> float:
        """Seconds that one evaluation takes if every episode lasts its full time, measured.

        Of the policies that every evaluation plays, or of those of `last_only`.
        """
        total = 0.0
        for name in (n for n, policy in self._policies.items() if policy.last_only == last_only):
            self._play(name, state, 0, 1)  # compiles
            start = time.perf_counter()
            self._play(name, state, 0, steps)
            total += (time.perf_counter() - start) / steps * self._arena.horizon
        return total

    def close(self) -> None:
        """Frees the environments."""
        self._arena.close()

    def score(self, name: str, state: State, step: int) -> Score:
        """Plays one policy; arguments as for a call.

        Raises:
            EvaluationError: if an environment fails, or does not report the success that is scored.
        """
        policy = self._policies[name]
        found = self._play(name, state, step, self._arena.horizon)
        scores = self._scores(name, found)
        about = (name, policy.candidates, policy.rule)
        return Score(*about, found.returns, scores, found.lengths, found.successes)

    def _scores(self, name: str, found: Played) -> np.ndarray:
        if not self._dataset.by_success:
            return self._dataset.score(found.returns)
        if found.successes is None:
            raise EvaluationError(f"policy {name!r}: the environment reported no success")
        return 100.0 * found.successes

    def _play(self, name: str, state: State, step: int, horizon: int) -> Played:
        keys = seed_axis.pad(evaluation_keys(self._seeds, PLAY, step), self._mesh)
        return self._arena.play(name, state, keys, horizon)


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
        self._batch = gathered(data, rows, on_host)
        self._measure = seed_axis.over_seeds(method.diagnose, mesh, (0, None, 0), mapping=mapping)

    def __call__(self, state: State, step: int) -> dict[str, np.ndarray]:
        """Returns {name: [S]}, means over the batch; `state` and `step` as for an Evaluator."""
        keys = seed_axis.pad(evaluation_keys(self._seeds, DIAGNOSE, step), self._mesh)
        metrics = seed_axis.trim(self._measure(state, self._batch, keys), len(self._seeds))
        return {name: total / count for name, (total, count) in metrics.items() if count.all()}
