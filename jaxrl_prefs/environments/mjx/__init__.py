"""Environments in JAX, so that a whole evaluation is one program of the device.

    simulator = simulators.build(task)

A simulator is made from Gymnasium's own environment: its model files, its arguments and its limits
hold. What differs is the draw of first states: the distribution is the environment's, the numbers
are JAX's.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from jaxrl_prefs.environments.mjx.simulator import Simulator
from jaxrl_prefs.environments.task import Task
from jaxrl_prefs.errors import DataError

__all__ = ["Simulator", "available", "build"]

# Gymnasium's entry point of an environment -> (module here, function in it)
SIMULATORS = {
    "gymnasium.envs.classic_control.pendulum:PendulumEnv": ("pendulum", "build"),
    "jaxrl_prefs.environments.pendulum_pixels:PendulumPixels": ("pendulum", "pixels"),
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": ("locomotion", "half_cheetah"),
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": ("locomotion", "hopper"),
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": ("locomotion", "walker2d"),
    "gymnasium.envs.mujoco.ant_v5:AntEnv": ("locomotion", "ant"),
    "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv": ("point_maze", "point_maze"),
    "jaxrl_prefs.environments.maze2d:Maze2d": ("point_maze", "hidden_goal"),
}
PLAIN = ("pendulum",)  # modules that need no MJX


def available(task: Task) -> bool:
    """Whether `build` can make the task's simulator on this machine."""
    found = SIMULATORS.get(_entry_point(task))
    if found is None or task.spec().additional_wrappers:
        return False
    return found[0] in PLAIN or importlib.util.find_spec("mujoco.mjx") is not None


def build(task: Task) -> Simulator:
    """Makes the simulator of a task's environment.

    Raises:
      DataError: if there is none for this environment, or mujoco-mjx is missing.
    """
    found = SIMULATORS.get(_entry_point(task))
    if found is None or task.spec().additional_wrappers:
        names = {key.split(":")[1].removesuffix("Env") for key in SIMULATORS}
        known = ", ".join(sorted(names))
        raise DataError(
            f"{task.env_id} has no simulator in JAX (there are: {known}); take "
            "--eval_backend=gymnasium"
        )
    module, function = found
    if module not in PLAIN:
        from jaxrl_prefs.environments.mjx import physics

        physics.load()
    env = task.bare()
    try:
        home = importlib.import_module(f"jaxrl_prefs.environments.mjx.{module}")
        simulator: Simulator = getattr(home, function)(env.unwrapped)
    finally:
        env.close()
    return simulator


def _entry_point(task: Task) -> Any:
    return task.spec().entry_point
