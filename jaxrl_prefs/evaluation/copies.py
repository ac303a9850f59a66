"""Copies of one of Gymnasium's environments that play side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil

from jaxrl_prefs.environments import task

SHARE = 0.5  # of the free memory, which copies may take


def side_by_side(make: Callable[[], Any], count: int) -> Any:
    """A vector environment of `count` copies, or of as many as fit into half of the free memory.

    A copy of OGBench's manipulation tasks takes 170 MB, so that 250 of them would take 42 GB. With
    too little memory there are as many copies as make the fewest rounds, of almost equal size.
    """
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    room, before = SHARE * psutil.virtual_memory().available, _used()
    made: list[Any] = []
    while len(made) < count and (not made or _used() - before < room):
        made.append(OneEpisode(make()))
    needed = len(rounds(count, len(made)))
    for copy in made[-(-count // needed) :]:
        copy.close()
    del made[-(-count // needed) :]
    waiting = iter(made)
    return SyncVectorEnv(
        [lambda: next(waiting)] * len(made),
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )


def rounds(episodes: int, copies: int) -> list[slice]:
    """Which episodes the copies play at a time; the last round may repeat some of the one before.

    >>> rounds(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(4, 7, None)]
    """
    starts = [min(first, episodes - copies) for first in range(0, episodes, copies)]
    return [slice(first, first + copies) for first in starts]


def _used() -> int:
    """Bytes that this process takes."""
    return psutil.Process().memory_info().rss


class OneEpisode:
    """An environment that plays one episode after each seeded reset, and then rests at no cost.

    A vector environment resets a copy whose episode is over and plays on; the others still need
    their time, but only first episodes count.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._last: Any = None  # observation at which the copy rests
        self._over = False
        self.failed = False  # whether the environment raised
        self.success: bool | None = None  # of the episode so far; None if it is not reported

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Starts an episode if a seed is given; else stays at rest."""
        if seed is None and self._over:
            return self._last, {}
        self._over, self.failed, self.success = False, True, None
        self._last, _ = self.env.reset(seed=seed, options=options)
        self.failed = False
        return self._last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Plays on; at rest, says again that the episode is over."""
        if self._over:
            return self._last, 0.0, True, False, {}
        self.failed = True
        self._last, reward, terminated, truncated, info = self.env.step(action)
        value = task.number(reward)
        self.success = task.succeeded(info, self.success)
        self.failed = False
        self._over = bool(terminated or truncated)
        return self._last, value, bool(terminated), bool(truncated), {}
