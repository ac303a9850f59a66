"""One policy of a run, played episode by episode, with every frame shown to whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.environments.task import Task, succeeded
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.runs import film
from jaxrl_prefs.runs.evaluate import Policy, open_loop

Watch = Callable[[Any, int], None]  # (environment, number of the episode), at every state


class Episode(NamedTuple):
    """What one episode came to."""

    seed: int  # of its environment
    total: float  # the return
    steps: int
    success: bool | None = None  # None where the environment reports none


def played(
    policy: Policy, task: Task, episodes: int, seed: int, watch: Watch | None = None
) -> Iterator[Episode]:
    """Plays episodes one after the other; episode e starts from environment seed `seed + e`.

    Args:
        policy: raw observations [O] to raw actions [A], or to the next k, [k, A].
        task: where.
        episodes: how many.
        seed: of the first.
        watch: called with the environment, made to be drawn, at the start and after every step.

    Raises:
        DataError: if the environment cannot be made or drawn, fails, or has other sizes.
    """
    env = _made(task) if watch else task.make()
    try:
        for episode in range(episodes):
            observation, _ = env.reset(seed=seed + episode)
            total, steps, over, success = 0.0, 0, False, None
            follow = open_loop(policy)
            while not over:
                if watch:
                    watch(env, episode)
                observation, reward, over, info = _step(env, task, follow, observation)
                total, steps, success = total + reward, steps + 1, succeeded(info, success)
            if watch:
                watch(env, episode)
            yield Episode(seed + episode, total, steps, success)
    finally:
        env.close()


def _made(task: Task) -> Any:
    """The environment, to be drawn."""
    try:
        env = task.make("rgb_array")
    except DataError as error:
        raise DataError(film.advice(error)) from error
    film.follow(env)
    return env


def _step(
    env: Any, task: Task, policy: Policy, observation: Any
) -> tuple[Any, float, bool, Mapping[str, Any]]:
    seen: Any = observation
    if not isinstance(observation, Mapping):
        seen = np.asarray(observation, np.float32)
    try:
        action = policy(seen)
    except ValueError as error:
        raise DataError(f"the policy cannot act in {task.env_id}: {error}") from error
    try:
        after, reward, terminated, truncated, info = env.step(action)
    except Exception as fault:  # an environment may fail in any way
        why = " ".join(str(fault).split()) or type(fault).__name__
        raise DataError(f"{task.env_id} failed: {why}") from fault
    return after, float(np.asarray(reward).reshape(())), bool(terminated or truncated), info
