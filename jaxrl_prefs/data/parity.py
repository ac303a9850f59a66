"""Whether a dataset's environment is the one that was recorded, found by replaying single steps.

The state of Gymnasium's MuJoCo robots can be rebuilt from an observation. A recorded action taken
from there must lead near the recorded successor. Another robot, other units of actions or another
order of observations leads elsewhere, which a size alone does not show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data.recording import Recording
from jaxrl_prefs.data.task import DataError, Task

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


def replay(recording: Recording, rows: int = ROWS) -> Parity | None:
    """Replays steps spread over the recording; None for environments that cannot be set to a state.

    Raises:
      DataError: if the environment cannot be made, or has other sizes than the recording.
    """
    task = recording.task
    hidden = None if task is None else _hidden(task)
    if task is None or hidden is None:
        return None
    env = task.make()
    try:
        return _replay(recording, env, hidden, rows)
    finally:
        env.close()


def check(recording: Recording) -> None:
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


def _replay(recording: Recording, env: Any, hidden: int, rows: int) -> Parity | None:
    robot = env.unwrapped
    positions, velocities = robot.model.nq - hidden, robot.model.nv
    width = recording.observation.shape[1]
    if env.observation_space.shape != (width,) or width < positions + velocities:
        raise DataError(
            f"{robot.spec.id if robot.spec else env} has {env.observation_space.shape[0]} "
            f"observations, but {recording.name} has {width}"
        )
    shown = recording.observation[:, positions : positions + velocities]
    usable = np.flatnonzero((np.abs(shown) < CLIPPED).all(1))
    if not len(usable):
        return None
    chosen = usable[np.linspace(0, len(usable) - 1, min(rows, len(usable))).astype(int)]
    found, rewards = [], []
    env.reset(seed=0)
    for row in chosen:
        state = recording.observation[row].astype(np.float64)
        position = np.r_[np.zeros(hidden), state[:positions]]
        robot.set_state(position, state[positions : positions + velocities])
        observation, reward, *_ = robot.step(recording.action[row])
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
