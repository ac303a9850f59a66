"""The embedded default `pendulum/mixed-v0`: a small task on which learning shows.

Gymnasium's Pendulum-v1, 250 episodes of 200 steps. A controller pumps energy into the pendulum and
holds it at the top; its gain is drawn once per episode between -1 and 1, so half of the episodes
brake instead of swinging up. Noise is added to every action, and now and then a random action is
held for some steps. The data scores about 4 on the scale between a uniformly random policy (0)
and the noise-free controller (100): imitation does badly, while the good actions are all there.

The dynamics are a vectorised copy of Gymnasium's (checked against it in the tests), which makes
all episodes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxrl_prefs.data.generate.episodes import Episode
from jaxrl_prefs.data.generate.store import Generated, save
from jaxrl_prefs.data.progress import Progress
from jaxrl_prefs.environments import task

DATASET_ID = "pendulum/mixed-v0"
EPISODES = 250
STEPS = 200  # Pendulum-v1's time limit
SEED = 0

TORQUE = 2.0  # the action box is [-2, 2]
NOISE = 0.5  # standard deviation of the noise on every action
HOLD_CHANCE = 0.07  # of starting to hold a random action, per step
HOLD_STEPS = (5, 20)  # how long, inclusive

Act = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (angle [E], speed [E]) -> torque [E]


def wrapped(angle: np.ndarray) -> np.ndarray:
    """The angle in [-pi, pi); 0 is upright."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def observe(angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """What Pendulum-v1 shows: cosine, sine and angular speed, [E, 3] float32."""
    return np.stack([np.cos(angle), np.sin(angle), speed], axis=-1).astype(np.float32)


def advance(
    angle: np.ndarray, speed: np.ndarray, torque: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of Pendulum-v1 for all episodes: returns angle, speed and reward, each [E]."""
    cost = wrapped(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
    speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
    return angle + speed * 0.05, speed, -cost


def controller(angle: np.ndarray, speed: np.ndarray, gain: np.ndarray | float = 1.0) -> np.ndarray:
    """Swings up by feeding energy in at the rate `gain`, and holds the top; a gain < 0 brakes.

    The energy is 0 for a pendulum that rests upright and grows by 3 * torque * speed per second.
    """
    energy = speed**2 / 2 + 15.0 * (np.cos(angle) - 1.0)
    pump = -np.asarray(gain) * energy * speed
    hold = -10.0 * wrapped(angle) - 2.0 * speed
    near = (np.abs(wrapped(angle)) < 0.5) & (np.abs(speed) < 4.0) & (np.asarray(gain) > 0)
    return np.clip(np.where(near, hold, pump), -TORQUE, TORQUE)


def mixed(rng: np.random.Generator, count: int) -> Act:
    """The behaviour of the data: `count` controllers, their gains spread evenly, with noise."""
    gain = rng.permutation(np.linspace(-1.0, 1.0, count))
    held, left = np.zeros(count), np.zeros(count, np.int64)

    def act(angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
        start = (left == 0) & (rng.random(count) < HOLD_CHANCE)
        shortest, longest = HOLD_STEPS
        np.copyto(held, rng.uniform(-TORQUE, TORQUE, count), where=start)
        np.copyto(left, rng.integers(shortest, longest + 1, count), where=start)
        free = controller(angle, speed, gain) + NOISE * rng.standard_normal(count)
        torque = np.where(left > 0, held, np.clip(free, -TORQUE, TORQUE))
        np.maximum(left - 1, 0, out=left)
        return torque

    return act


def rollout(
    rng: np.random.Generator, count: int, act: Act, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs `count` episodes: observations [E, T+1, 3], actions [E, T, 1], rewards [E, T]."""
    angle, speed = rng.uniform(-np.pi, np.pi, count), rng.uniform(-1.0, 1.0, count)
    observations, actions, rewards = [observe(angle, speed)], [], []
    for step in range(STEPS):
        action = act(angle, speed).astype(np.float32)
        angle, speed, reward = advance(angle, speed, action.astype(np.float64))
        observations.append(observe(angle, speed))
        actions.append(action[:, None])
        rewards.append(reward)
        if progress:
            progress(f"simulating {DATASET_ID}", step + 1, STEPS)
    return np.stack(observations, 1), np.stack(actions, 1), np.stack(rewards, 1)


def references(seed: int) -> tuple[float, float]:
    """Mean returns of the uniformly random policy (1000 episodes) and the controller (100)."""
    rng = np.random.default_rng([seed, 1])

    def uniform(angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
        del speed
        return rng.uniform(-TORQUE, TORQUE, len(angle))

    low = rollout(rng, 1000, uniform)[2].sum(1).mean()
    high = rollout(rng, 100, controller)[2].sum(1).mean()
    return float(low), float(high)


def generate(root: Path, progress: Progress, *, episodes: int = EPISODES, seed: int = SEED) -> Path:
    """Makes the dataset below `root`; the same seed gives the same data.

    Returns the folder with its `metadata.json`.
    """
    rng = np.random.default_rng([seed, 0])
    played = rollout(rng, episodes, mixed(rng, episodes), progress)
    generated = Generated(
        dataset_id=DATASET_ID,
        task=task.named("Pendulum-v1"),
        episodes=[Episode(*each, terminal=False) for each in zip(*played, strict=True)],
        references=references(seed),
        algorithm="energy swing-up controllers of mixed gain, noise and held random actions",
        description=(
            "Generated by jaxrl_prefs. Score 0: uniformly random policy, mean of 1000 episodes; "
            "score 100: the noise-free controller, mean of 100 episodes."
        ),
    )
    return save(generated, root, progress)
