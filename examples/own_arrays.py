"""Train on data of your own, as arrays: `python examples/own_arrays.py`.

Here a simulated arm is recorded. In your program the arrays come from logs. Nothing is written.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

import jaxrl_prefs as jp


class Arm(gymnasium.Env):
    """A joint to be brought to rest at angle 0. Observes angle and speed; one torque in [-2, 2]."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2)
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        angle, speed = self.state
        speed = speed + 0.1 * (float(action[0]) - 0.1 * speed)
        self.state = np.array([angle + 0.1 * speed, speed])
        return self.state.astype(np.float32), -float(self.state @ self.state), False, False, {}


def record(episodes: int = 50, steps: int = 40) -> list[dict[str, np.ndarray]]:
    """Episodes of a clumsy controller, which trembles."""
    found, env, random = [], Arm(), np.random.default_rng(0)
    for episode in range(episodes):
        observations, actions, rewards = [env.reset(seed=episode)[0]], [], []
        for _ in range(steps):
            torque = -observations[-1].sum(keepdims=True) + random.normal(0, 0.7, 1)
            actions.append(np.clip(torque, -2, 2).astype(np.float32))
            observation, reward, *_ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        arrays = {"observations": observations, "actions": actions, "rewards": rewards}
        found.append({name: np.asarray(values) for name, values in arrays.items()})
    return found


def main(**fields: Any) -> jp.Run:
    """Trains TD3+BC with two seeds; `fields` replace those below."""
    data = jp.Dataset.from_episodes(
        record(), action_low=-2.0, action_high=2.0, name="my-arm", env=Arm
    )
    print(data)
    settings = {"train_steps": 2_000, "actor_hidden": (64, 64), "critic_hidden": (64, 64), **fields}
    run = jp.train("td3_bc", data, seeds=2, **settings)
    print(run)
    print("the data's mean return:", data.returns.mean())
    return run


if __name__ == "__main__":
    main()
