"""Whether a dataset's environment is the one that was recorded, found by replaying single steps.

The state of Gymnasium's MuJoCo robots can be rebuilt from an observation. A recorded action taken
from there must lead near the recorded successor. Another robot, other units of actions or another
order of observations gives other states, which their number does not show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

ROWS = 32
CLIPPED = 10.0  # Hopper and Walker2d show velocities clipped to it: such states cannot be rebuilt
# Of the squared change. Half-sized actions leave .1 to .2 on the robots that were tried.
WORST = 0.05

# Robots whose observation begins with all positions but the first few, and all velocities.
HIDDEN = {"Hopper": 1, "HalfCheetah": 1, "Walker2d": 1, "Swimmer": 2, "Ant": 2}
OURS = {"jaxrl_prefs/SafetyHalfCheetah-v0": 0}


class Parity(NamedTuple):
    """How far a replay of `rows` single steps lies from the recording."""

    rows: int
    observation: np.ndarray  # [rows] largest difference of an observation's entries
    reward: np.ndarray  # [rows] absolute difference
    unexplained: float  # squared error as a part of the squared change, entries by their spread


class Rebuilt:
    """The environment of a recording, which it can set to recorded states.

    Raises:
      DataError: if the environment cannot be made, or has other sizes than the recording.
    """

    def __init__(self, recording: Dataset, hidden: int) -> None:
        """Makes the environment; `hidden` positions are not among its observations."""
        assert recording.task is not None
        env: Any = recording.task.make()
        self._env, self._hidden, self.robot = env, hidden, env.unwrapped
        self._positions, self._velocities = self.robot.model.nq - hidden, self.robot.model.nv
        width = recording.observation.shape[1]
        sizes = env.observation_space.shape
        if sizes != (width,) or width < self._positions + self._velocities:
            env.close()
            raise DataError(
                f"{recording.task.env_id} has {sizes[0]} observations, but {recording.name} has "
                f"{width}"
            )
        shown = recording.observation[:, self._positions : self._positions + self._velocities]
        self.rows = np.flatnonzero((np.abs(shown) < CLIPPED).all(1))  # those that can be rebuilt
        self._env.reset(seed=0)

    def place(self, observation: np.ndarray) -> None:
        """Sets the robot to the state of an observation [O]; what is hidden is 0."""
        state = observation.astype(np.float64)
        position = np.r_[np.zeros(self._hidden), state[: self._positions]]
        self.robot.set_state(position, state[self._positions : self._positions + self._velocities])

    def close(self) -> None:
        """Frees the simulation."""
        self._env.close()


def rebuilt(recording: Dataset) -> Rebuilt | None:
    """The environment of a recording; None for one that cannot be set to a state, or has images.

    Raises:
      DataError: as `Rebuilt`.
    """
    task = None if recording.images else recording.task
    hidden = None if task is None else _hidden(task)
    return None if hidden is None else Rebuilt(recording, hidden)


def replay(recording: Dataset, rows: int = ROWS) -> Parity | None:
    """Replays steps spread over the recording; None for environments that cannot be set to a state.

    Raises:
      DataError: if the environment cannot be made, or has other sizes than the recording.
    """
    world = rebuilt(recording)
    if world is None:
        return None
    try:
        return _replay(recording, world, rows)
    finally:
        world.close()


def check(recording: Dataset) -> None:
    """Refuses a recording that its environment does not continue.

    Raises:
      DataError: as `replay`, and if single steps lead elsewhere than recorded.
    """
    found = replay(recording)
    if found is not None and not found.unexplained <= WORST:
        assert recording.task is not None
        raise DataError(
            f"{recording.name} was not recorded in {recording.task.env_id}: single steps from "
            "recorded states lead elsewhere (another robot, other units of actions or another "
            "order of observations). Name the right environment (--env), or train with --env=none"
        )


def _hidden(task: Task) -> int | None:
    """How many positions the observations leave out; None for a robot that is not known."""
    return OURS.get(task.env_id, HIDDEN.get(task.env_id.partition("-")[0]))


def _replay(recording: Dataset, world: Rebuilt, rows: int) -> Parity | None:
    usable = world.rows
    if not len(usable):
        return None
    chosen = usable[np.linspace(0, len(usable) - 1, min(rows, len(usable))).astype(int)]
    found, rewards = [], []
    for row in chosen:
        world.place(recording.observation[row])
        observation, reward, *_ = world.robot.step(recording.action[row])
        found.append(observation)
        rewards.append(reward)
    before, after = recording.observation[chosen], recording.next_observation[chosen]
    error, change = np.asarray(found) - after, (after - before).astype(np.float64)
    spread = change.std(0) + 1e-6
    parts = [float(np.square(x / spread).sum()) for x in (error, change)]
    return Parity(
        rows=len(chosen),
        observation=np.abs(error).max(1),
        reward=np.abs(np.asarray(rewards) - recording.reward[chosen]),
        unexplained=parts[0] / max(parts[1], 1e-12),
    )
