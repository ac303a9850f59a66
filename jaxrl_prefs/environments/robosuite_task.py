"""Robosuite's tasks as Robomimic evaluates them: reward 1 at success, which ends the episode.

Importing this module needs Gymnasium; making the environment needs robosuite, and MuJoCo of a
version that robosuite runs with (1.5.2: 3.9, not 3.11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

OBJECT = "object"  # Robomimic's name of robosuite's `object-state`
FIXED = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "use_camera_obs": False,
    "use_object_obs": True,
    "ignore_done": True,
    "reward_shaping": False,
}


class Robosuite(gymnasium.Env):
    """One task; observations are the listed keys end to end, actions those of the controller."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        settings: Mapping[str, Any],
        keys: Sequence[str],
        render_mode: str | None = None,
    ) -> None:
        """Makes `task` with the `settings` (env_kwargs) that a dataset was recorded with.

        Raises:
          ImportError: if robosuite is missing, or MuJoCo is newer than it knows.
        """
        self.render_mode = render_mode
        self._keys = tuple(keys)
        self._env = _make(task, settings)
        observation = self._vector(self._env.reset())
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, observation.shape, np.float64
        )
        low, high = self._env.action_spec
        self.action_space = gymnasium.spaces.Box(np.float32(low), np.float32(high))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Places the objects anew; the same seed gives the same places."""
        super().reset(seed=seed)
        if seed is not None:  # in place: the placement samplers hold the same generator
            self._env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        return self._vector(self._env.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies an action of the controller."""
        observation, *_ = self._env.step(action)
        success = bool(self._env._check_success())
        return self._vector(observation), float(success), success, False, {"success": success}

    def close(self) -> None:
        """Frees the simulation."""
        self._env.close()

    def _vector(self, observation: Mapping[str, Any]) -> np.ndarray:
        names = ("object-state" if key == OBJECT else key for key in self._keys)
        return np.concatenate([np.ravel(observation[name]) for name in names])


def _make(task: str, settings: Mapping[str, Any]) -> Any:
    import mujoco

    try:
        import robosuite
        from robosuite.controllers.composite import composite_controller_factory as controllers
    except ImportError as fault:
        raise ImportError(f"robosuite is not installed ({fault}): pip install robosuite") from fault
    if not hasattr(mujoco.MjData, "qM"):
        raise ImportError(
            f"robosuite {robosuite.__version__} does not run with mujoco {mujoco.__version__}, "
            "which has no MjData.qM any more: pip install 'mujoco==3.9.*' (a venv of its own)"
        )
    kept = {key: value for key, value in settings.items() if key in _arguments(robosuite, task)}
    robots = settings.get("robots", "Panda")
    robot = robots if isinstance(robots, str) else robots[0]
    old = kept.get("controller_configs")
    parts = old if isinstance(old, list) else [old] if old else []
    renew = controllers.refactor_composite_controller_config
    new = [renew(part, robot, ["right"]) for part in parts]
    if new:  # files of before robosuite 1.5 name one arm's controller
        kept["controller_configs"] = new if isinstance(old, list) else new[0]
    return robosuite.make(task, **(kept | FIXED))


def _arguments(robosuite: Any, task: str) -> set[str]:
    """What the task's constructor takes: files of other versions name more."""
    import inspect

    known = robosuite.environments.base.REGISTERED_ENVS
    if task not in known:
        raise ImportError(f"robosuite {robosuite.__version__} has no task {task!r}")
    makers = [
        vars(parent)["__init__"] for parent in known[task].__mro__ if "__init__" in vars(parent)
    ]
    return {name for maker in makers[:-1] for name in inspect.signature(maker).parameters}
