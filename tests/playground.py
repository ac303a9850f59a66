"""An environment whose returns can be worked out by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

ENV_ID = "tests/Corridor-v0"
LIMIT = 5  # steps, by the environment's time limit


def length(seed: int) -> int:
    """Steps of the episode that a seed starts: 3, 4, 5, 5 (cut from 6), 3, ..."""
    return min(3 + seed % 4, LIMIT)


class Corridor(gymnasium.Env):
    """Pays the action, in [0, 10]; an episode takes 3 + seed % 4 steps. Observes (seed, step)."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(0.0, 10.0, (1,))
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    steps_taken = 0  # by all copies together

    def __init__(self) -> None:
        self.start, self.now = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.start, self.now = 10_000 if seed is None else seed, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        Corridor.steps_taken += 1
        self.now += 1
        return self._observe(), float(action[0]), self.now >= 3 + self.start % 4, False, {}

    def _observe(self) -> np.ndarray:
        return np.asarray([self.start, self.now], np.float32)


class Limited(gymnasium.wrappers.TimeLimit):
    """The corridor with its time limit, as a class that makes it."""

    def __init__(self) -> None:
        super().__init__(Corridor(), LIMIT)


class Faulty(Corridor):
    """A corridor with one fault, which shows in episodes of an odd start only."""

    def __init__(self, fault: str, render_mode: str | None = None) -> None:
        super().__init__()
        assert render_mode is None, "a window would be opened"
        self.fault = fault

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, reward, *rest = super().step(action)
        struck = self.start % 2 == 1 and self.now == 2
        if self.fault == "raises" and struck:
            raise RuntimeError("unstable\nsimulation")
        if self.fault == "nan" and struck:
            observation = observation * np.nan
        paid = {"nan reward": np.nan if struck else reward, "array": np.array([reward])}
        return observation, paid.get(self.fault, reward), *rest


class Reaching(Corridor):
    """A corridor that reports success at its second step alone: at an even start, by actions above
    6."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        *rest, info = super().step(action)
        reached = self.now == 2 and self.start % 2 == 0 and action[0] > 6
        return *rest, info | {"success": np.float32(reached)}  # type: ignore[return-value]


class Cube(Corridor):
    """Stands for a task of OGBench's: two observations, one action in [-1, 1]."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    made: ClassVar[list[float]] = []  # the goals of all that were made
    closed: ClassVar[list[float]] = []

    def __init__(self, goal: float) -> None:
        super().__init__()
        self.goal = goal
        Cube.made.append(goal)

    def close(self) -> None:
        Cube.closed.append(self.goal)


class OldStep(Corridor):
    """The interface of old Gym: step() gives four values."""

    def step(self, action: np.ndarray) -> Any:
        observation, reward, over, _, info = super().step(action)
        return observation, reward, over, info


class OldReset(Corridor):
    """The interface of old Gym: reset() takes no seed."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class BareReset(Corridor):
    """The interface of old Gym: reset() gives the observation alone, here of two numbers."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


FAULTS = ("raises", "nan", "nan reward", "array")
OLD = ("OldStep", "OldReset", "BareReset")
REACHING_ID = "tests/Reaching-v0"
PIXELS_ID = "tests/SmallPixels-v0"


def register() -> None:
    """Makes the environments known to Gymnasium by their ids."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(ENV_ID, "tests.playground:Corridor", max_episode_steps=LIMIT)
        gymnasium.register(REACHING_ID, "tests.playground:Reaching", max_episode_steps=LIMIT)
        small = {"max_episode_steps": LIMIT, "kwargs": {"size": 16}}
        pixels = "jaxrl_prefs.environments.pendulum_pixels:PendulumPixels"
        gymnasium.register(PIXELS_ID, pixels, **small)
        for name in OLD:
            place = f"tests.playground:{name}"
            gymnasium.register(f"tests/{name}-v0", place, max_episode_steps=LIMIT)
        for fault in FAULTS:
            gymnasium.register(
                faulty(fault),
                "tests.playground:Faulty",
                max_episode_steps=LIMIT,
                kwargs={"fault": fault, "render_mode": "human"},
            )


def faulty(fault: str) -> str:
    """The id of the environment with a fault."""
    return f"tests/Faulty{fault.title().replace(' ', '')}-v0"
