"""dm_control's tasks as Gymnasium environments, in images as V-D4RL has them, or in numbers.

    jaxrl_prefs/DmControl-walker-walk-v0        images 84x84x3
    jaxrl_prefs/DmControl-walker-walk-64px-v0   images 64x64x3; any other size alike
    jaxrl_prefs/DmControl-walker-walk-state-v0  numbers: the physics' state, then what a policy sees

Any `domain-task` of dm_control's suite. As in DrQ-v2 and V-D4RL (their dmc.py): every action is
repeated twice, rewards add up, actions lie in -1 to 1, and an episode has 500 steps.

Importing this module needs Gymnasium; making the environment needs dm_control, and its images EGL,
OSMesa or a display (MUJOCO_GL).
"""

from __future__ import annotations

import ctypes.util
import os
import re
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

ID = re.compile(
    r"jaxrl_prefs/DmControl-(?P<task>[a-z][a-z0-9_]*-[a-z][a-z0-9_]*)"
    r"(?:-(?:(?P<size>[1-9]\d{0,2})px|(?P<state>state)))?-v0"
)
SIZE = 84  # pixels of a side, where the id names none
REPEATS = 2  # of every action
STEPS = 1000 // REPEATS  # of an episode
CAMERAS = {"quadruped": 2}  # of a domain; the others take camera 0 (DrQ-v2)
RENDERED = 256  # pixels of a side of what is rendered for a film
# Points of a side of the map that shadows are drawn from. MuJoCo's own 4096 take two thirds of a
# picture's time without a GPU; of 64x64 pixels one in 2,000 then differs by more than 8 of 255.
SHADOW = 1024
REMEDY = (
    "images need EGL (Debian: apt install libegl1), OSMesa (apt install libosmesa6, "
    "MUJOCO_GL=osmesa) or a display (MUJOCO_GL=glfw)"
)


def env_id(task: str, kind: str = "") -> str:
    """The id of an environment.

    >>> env_id("walker-walk", "64px")
    'jaxrl_prefs/DmControl-walker-walk-64px-v0'
    """
    return "-".join(["jaxrl_prefs/DmControl", task, *filter(None, [kind]), "v0"])


def register(name: str) -> None:
    """Registers the environment of an id that has the form above; others are left alone."""
    found = ID.fullmatch(name)
    if found is None or name in gymnasium.registry:
        return
    kwargs: dict[str, Any] = {"task": found["task"]}
    if not found["state"]:
        kwargs["size"] = int(found["size"] or SIZE)
    gymnasium.register(
        name,
        entry_point=f"{__name__}:{'DmControl' if found['state'] else 'DmControlPixels'}",
        max_episode_steps=STEPS,
        kwargs=kwargs,
    )


class DmControl(gymnasium.Env):
    """A task in numbers [P + O]: the physics' state [P], and the task's observation [O]."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        """Makes a task of the suite, such as 'walker-walk'.

        Raises:
          ImportError: if dm_control is missing, or has no such task.
        """
        domain, _, name = task.partition("-")
        self.render_mode = render_mode
        self._env = _load(domain, name)
        self._env.physics.model.vis.quality.shadowsize = SHADOW
        self._camera = CAMERAS.get(domain, 0)
        self.metadata = {
            **self.metadata,
            "render_fps": round(1 / (REPEATS * self._env.control_timestep())),
        }
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum.astype(float), spec.maximum.astype(float)
        self.action_space = Box(-1.0, 1.0, spec.shape, np.float32)
        self.physics_size = len(self._env.physics.get_state())
        seen = self._env.observation_spec().values()
        width = self.physics_size + sum(int(np.prod(each.shape)) for each in seen)
        self.observation_space: gymnasium.Space = Box(-np.inf, np.inf, (width,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode; the same seed gives the same start."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        return self._observed(self._env.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes an action twice. No task of V-D4RL's ever ends before its time limit."""
        share = (np.asarray(action, float) + 1) / 2
        reward = 0.0
        for _ in range(REPEATS):
            now = self._env.step(self._low + share * (self._high - self._low))
            reward += now.reward or 0.0
            if now.last():
                break
        terminal = now.last() and now.discount == 0
        return self._observed(now), reward, terminal, now.last() and not terminal, {}

    def render(self) -> Any:
        """What the camera sees, larger than an observation: uint8 [256, 256, 3]."""
        return self.picture(RENDERED)

    def picture(self, size: int, state: np.ndarray | None = None) -> np.ndarray:
        """What the camera sees: uint8 [size, size, 3].

        Args:
          size: pixels of a side.
          state: of the physics [P], to be drawn in place of the present one, which is lost.
        """
        physics = self._env.physics
        if state is not None:
            physics.set_state(np.asarray(state, float))
            physics.forward()
        return physics.render(size, size, camera_id=self._camera)

    def close(self) -> None:
        """Frees the simulation and its drawing."""
        self._env.close()

    def _observed(self, now: Any) -> np.ndarray:
        state = self._env.physics.get_state()
        return np.concatenate([state, *(np.ravel(part) for part in now.observation.values())])


class DmControlPixels(DmControl):
    """A task in images [size, size, 3]."""

    def __init__(self, task: str, size: int = SIZE, render_mode: str | None = None) -> None:
        """As DmControl.

        Raises:
          ImportError: if dm_control is missing, has no such task, or cannot draw.
        """
        super().__init__(task, render_mode)
        self.size = size
        self.observation_space = Box(0, 255, (size, size, 3), np.uint8)
        try:
            self.picture(size)
        except Exception as fault:  # drivers fail in many ways
            raise ImportError(_undrawn(fault)) from fault

    def _observed(self, now: Any) -> np.ndarray:
        return self.picture(self.size)


def _load(domain: str, name: str) -> Any:
    _choose_renderer()
    try:
        from dm_control import suite
    except ImportError as fault:
        if isinstance(fault, ModuleNotFoundError) and fault.name != "OpenGL":
            raise ImportError(
                f"dm_control is not installed ({fault}): pip install 'jaxrl_prefs[dmc]'"
            ) from fault
        raise ImportError(_undrawn(fault)) from fault
    except Exception as fault:  # as PyOpenGL fails where its library is missing
        raise ImportError(_undrawn(fault)) from fault
    if (domain, name) not in suite.ALL_TASKS:
        known = ", ".join("-".join(each) for each in suite.ALL_TASKS)
        raise ImportError(f"dm_control has no task {domain}-{name}; it has {known}")
    return suite.load(domain, name, task_kwargs={"random": 0})


def _choose_renderer() -> None:
    """Without a display, dm_control would choose GLFW, which then fails."""
    if sys.platform != "linux" or "MUJOCO_GL" in os.environ:
        return
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        only_osmesa = ctypes.util.find_library("OSMesa") and not ctypes.util.find_library("EGL")
        os.environ["MUJOCO_GL"] = "osmesa" if only_osmesa else "egl"


def _undrawn(fault: BaseException) -> str:
    chosen = os.environ.get("MUJOCO_GL", "(not set)")
    why = " ".join(str(fault).split()) or type(fault).__name__
    return f"dm_control cannot draw with MUJOCO_GL={chosen} ({why}): {REMEDY}"
