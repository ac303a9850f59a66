"""Plays trained policies in an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data.recording import SUCCESS_RATE, Environment, scaled
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError, restated
from jaxrl_prefs.runs.actor import Actor, OpenLoop
from jaxrl_prefs.runs.run import Point, Run

EVAL_SEED = 10_000  # of the first episode, as RunConfig.eval_seed

# Observations [B, O] to actions [B, A], or to the next k actions [B, k, A].
Policy = Callable[[np.ndarray], np.ndarray]


class Evaluation(NamedTuple):
    """What some policies reached, {policy: {training seed: value}}."""

    returns: dict[str, dict[int, np.ndarray]]  # [episodes], raw
    # Means over episodes: raw returns without references; on OGBench, the success rate in per cent.
    scores: dict[str, dict[int, float]]
    lengths: dict[str, dict[int, np.ndarray]]  # [episodes], steps
    env: str  # the environment's id
    # [episodes] bool; empty where the environment reports no success
    successes: Mapping[str, Mapping[int, np.ndarray]] = MappingProxyType({})

    def __repr__(self) -> str:
        means = {name: np.mean(list(each.values())) for name, each in self.scores.items()}
        parts = ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())
        return f"Evaluation in {self.env}: {parts}"


def evaluate(
    run_or_policy: Run | Policy,
    env: Environment = None,
    episodes: int = 10,
    seed: int = EVAL_SEED,
) -> Evaluation:
    """Plays every policy of a run, or one policy, and returns what each reached.

    >>> import jaxrl_prefs as jp
    >>> def push(observation):  # [B, O] to [B, A]
    ...     return observation[:, :1] * 0 + 2.0
    >>> jp.evaluate(push, env="Pendulum-v1", episodes=2).lengths["push"][0].tolist()
    [200, 200]

    Args:
        run_or_policy: a `Run`, whose policies are played for all of its seeds, what `Run.policy`
            returned, or any function from observations [B, O] to actions [B, A], or to [B, k, A] if
            it chooses the next k at a time.
        env: an id of Gymnasium's or a function that makes an environment; None takes the one that
            the run was evaluated in.
        episodes: for each policy and training seed.
        seed: of the first episode's environment; the others count on from it.

    Raises:
        DataError: if there is no environment, it cannot be made, or it has other sizes.
        LoadError: if the run has several points (choose one by `run.at`).
    """
    if episodes < 1:
        raise DataError(f"episodes must be at least 1, got {episodes}")
    players, point = _players(run_or_policy)
    with restated():
        task, references = where(env, point)
    copies = [task.make() for _ in range(episodes)]
    try:
        played = [
            (name, training_seed, *_play(policy, copies, seed, task.max_episode_steps))
            for name, training_seed, policy in players
        ]
    finally:
        for copy in copies:
            copy.close()
    return _scored(played, task, references, task.by_success or is_by_success(point, task))


def _scored(
    played: Sequence[tuple[str, int, np.ndarray, np.ndarray, list[bool | None]]],
    task: Task,
    references: tuple[float, float] | None,
    by_success: bool,
) -> Evaluation:
    """Makes scores of returns or successes; success is decided over all seeds of a policy."""
    found, reports = Evaluation({}, {}, {}, task.env_id), dict[str, dict[int, list[bool | None]]]()
    for name, seed, returns, lengths, reported in played:
        scores = returns if references is None else scaled(returns, references)
        found.returns.setdefault(name, {})[seed] = returns
        found.lengths.setdefault(name, {})[seed] = lengths
        found.scores.setdefault(name, {})[seed] = float(scores.mean())
        reports.setdefault(name, {})[seed] = reported
    successes = dict[str, dict[int, np.ndarray]]()
    for name, by_seed in reports.items():
        whole = tasks.successes(list(by_seed.values()))
        if whole is None and by_success:
            raise DataError(f"{task.env_id} reports no info['success'], which is what is scored")
        if whole is not None:
            successes[name] = dict(zip(by_seed, whole, strict=True))
            if by_success:
                for seed, episodes in successes[name].items():
                    found.scores[name][seed] = float(100.0 * episodes.mean())
    return found._replace(successes=successes)


def is_by_success(point: Point | None, task: Task) -> bool:
    """Whether a run's policies were scored in this environment by the episodes that succeed."""
    about: Mapping[str, Any] = point.about.get("data", {}) if point else {}
    return about.get("score_kind") == SUCCESS_RATE and about.get("env") == task.env_id


def _players(subject: Run | Policy) -> tuple[list[tuple[str, int, Policy]], Point | None]:
    if isinstance(subject, Run):
        (point,) = subject.at()._points
        players: list[tuple[str, int, Policy]] = [
            (name, seed, Actor(point, seed, name, 0))
            for name in point.method.policies
            for seed in point.seeds
        ]
        return players, point
    if isinstance(subject, Actor):
        return [(subject.name, subject.seed, subject)], subject.point
    return [(getattr(subject, "__name__", "policy"), 0, subject)], None


def where(env: Environment, point: Point | None) -> tuple[Task, tuple[float, float] | None]:
    """The environment, and the references of its scores if it is the run's own.

    Raises:
        DataError: if there is no environment, or it is not registered.
    """
    about: Mapping[str, Any] = point.about.get("data", {}) if point else {}
    own, known = str(about.get("env") or ""), about.get("references")
    if env is not None:
        task = tasks.named(env) if isinstance(env, str) else tasks.made_by(env)
    elif point is not None and point.task is not None:
        task = point.task
    elif own and ":" not in own:  # a folder chooses no module to import
        task = tasks.named(own)
    else:
        raise DataError("the run names no environment: pass env=, an id or a function")
    references = (float(known[0]), float(known[1])) if known and task.env_id == own else None
    return task, references


def open_loop(policy: Policy) -> OpenLoop:
    """A policy at the start of its episodes, one action for each step.

    A policy that remembers, such as one of images, has a `reset`, which is called here, and may
    have an `observe`, which is called at the steps between two choices of several actions.
    """
    begin = getattr(policy, "reset", None)
    if callable(begin):
        begin()
    plan = policy.plan if isinstance(policy, Actor) else policy
    return OpenLoop(plan, getattr(policy, "observe", None))


def as_seen(observations: Sequence[Any]) -> Any:
    """Observations of `Task.make` side by side: float32 [B, O], or a dict with images."""
    if not isinstance(observations[0], Mapping):
        return np.asarray(observations, np.float32)
    return {name: np.stack([each[name] for each in observations]) for name in observations[0]}


def _play(
    policy: Policy, copies: list[Any], seed: int, limit: int
) -> tuple[np.ndarray, np.ndarray, list[bool | None]]:
    """Returns, lengths and reports of success [E] of one episode in every copy, side by side.

    A report is None where the environment made none.
    """
    starts = [copy.reset(seed=seed + place)[0] for place, copy in enumerate(copies)]
    seen = list[Any](starts)
    returns, lengths = np.zeros(len(copies)), np.zeros(len(copies), int)
    live, reported = np.ones(len(copies), bool), list[bool | None]([None] * len(copies))
    follow = open_loop(policy)
    for _ in range(limit):
        try:
            actions = follow(as_seen(seen))
        except ValueError as error:
            raise DataError(f"the policy cannot act in this environment: {error}") from error
        for place in np.flatnonzero(live):
            after, reward, terminated, truncated, info = copies[place].step(actions[place])
            seen[place] = after
            reported[place] = tasks.succeeded(info, reported[place])
            returns[place] += reward
            lengths[place] += 1
            live[place] = not (terminated or truncated)
        if not live.any():
            break
    return returns, lengths, reported
