"""Where a dataset's policies are evaluated: a Gymnasium environment, made when asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from jaxrl_prefs.environments import ogbench_names, spaces
from jaxrl_prefs.errors import DataError

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec


WAYS_OUT = "--env=ID evaluates in another environment, --env=none trains without one"

# Environments of ours that Gymnasium is told of: where they are, and their time limits.
OURS = {
    "jaxrl_prefs/PendulumPixels-v0": ("pendulum_pixels:PendulumPixels", 200),
    "jaxrl_prefs/SafetyHalfCheetah-v0": ("safety_half_cheetah:SafetyHalfCheetah", 1000),
}


class Task(NamedTuple):
    """An evaluation environment, as a value."""

    env_id: str  # printed beside every score
    spec_json: str  # a Gymnasium EnvSpec
    max_episode_steps: int  # the time limit of an episode
    # What the data's own environment was told and this one is not ("reset_target=True"): returns
    # of the data and of the evaluation are then not comparable.
    recorded_with: tuple[str, ...] = ()
    # Wrappers of the data's own environment that cannot be made again, and that this one lacks.
    without: tuple[str, ...] = ()
    maker: Callable[[], gymnasium.Env] | None = None  # makes it, where no spec_json says how

    @property
    def by_success(self) -> bool:
        """Whether policies are scored by the share of episodes that succeed, as OGBench does."""
        return ogbench_names.is_task(self.env_id)

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """Makes the environment; its observations are float32 vectors [O] in `flatten`'s order.

        Args:
          render_mode: "rgb_array" for an environment that can be drawn.

        Raises:
          DataError: if a package that the environment needs is missing or fails.
        """
        try:
            with _quiet():
                env = spaces.flat(self.bare(render_mode), self.env_id)
            if self.by_success:
                from jaxrl_prefs.environments.seeded import OwnGenerator

                env = OwnGenerator(env)
                env.reset = _quiet()(env.reset)  # type: ignore[method-assign]
            return env
        except DataError:
            raise
        except Exception as fault:  # whatever a simulator raises, the user must see one line
            raise DataError(_not_made(self.env_id, fault)) from fault

    def bare(self, render_mode: str | None = None) -> gymnasium.Env:
        """As `make`, with the environment's own observations."""
        import gymnasium

        if self.maker is not None:
            return gymnasium.wrappers.TimeLimit(self.maker(), self.max_episode_steps)
        spec = self.spec()
        spec.kwargs.pop("render_mode", None)  # evaluations draw nothing, and may have no display
        if render_mode is not None:
            spec.kwargs["render_mode"] = render_mode
        if str(spec.entry_point).startswith(("gymnasium_robotics", __package__)):
            _import_robotics()
        if str(spec.entry_point).startswith("ogbench"):
            _import_ogbench()
        try:
            env = gymnasium.make(
                spec, max_episode_steps=self.max_episode_steps, disable_env_checker=True
            )
            _tidy(env)
            return env
        except Exception as fault:  # whatever a simulator raises, the user must see one line
            raise DataError(_not_made(self.env_id, fault)) from fault

    def spec(self) -> EnvSpec:
        """Gymnasium's own record of the environment; fields of other versions are left out.

        Of an environment that a function makes, a record of its id.
        """
        from gymnasium.envs.registration import EnvSpec

        if self.maker is not None:
            return EnvSpec(self.env_id, entry_point=cast(Any, self.maker))
        content = json.loads(self.spec_json)
        known = {field.name for field in dataclasses.fields(EnvSpec) if field.init}
        content = {key: value for key, value in content.items() if key in known}
        content.setdefault("additional_wrappers", [])
        return EnvSpec.from_json(json.dumps(content))


def _not_made(env_id: str, fault: Exception) -> str:
    why = " ".join(str(fault).split()) or type(fault).__name__
    missing = ""
    if isinstance(fault, ModuleNotFoundError) and fault.name:
        missing = f" (the package {fault.name.partition('.')[0]} is not installed)"
    return f"cannot make the environment {env_id}: {why}{missing}. {WAYS_OUT}"


def check_interface(env: Any, env_id: str) -> None:
    """Refuses an environment of another interface than Gymnasium's, as old Gym's, by one step.

    The environment is left in an episode; reset it with a seed before it is used.

    Args:
      env: as Gymnasium makes it; what is looked at is the environment without its wrappers.
      env_id: for messages.

    Raises:
      DataError: naming the environment and what differs.
    """
    bare = env.unwrapped
    try:
        with _quiet():
            found = bare.reset(seed=0)
    except TypeError as fault:
        raise DataError(_other_interface(env_id, f"reset(seed=0) fails: {fault}")) from fault
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)):
        raise DataError(_other_interface(env_id, "reset() returns no (observation, info)"))
    try:
        with _quiet():
            found = bare.step(some_action(bare.action_space))
    except Exception as fault:  # whatever a simulator raises, the user must see one line
        why = " ".join(str(fault).split()) or type(fault).__name__
        raise DataError(f"the environment {env_id} fails in its first step: {why}") from fault
    if not (isinstance(found, tuple) and len(found) == 5):
        count = len(found) if isinstance(found, tuple) else 1
        raise DataError(_other_interface(env_id, f"step() returns {count} value(s)"))
    number(found[1])


def some_action(space: Any) -> Any:
    """The middle of a bounded box, without a draw from the space's generator; else a draw."""
    if not hasattr(space, "low"):
        return space.sample()
    middle = np.nan_to_num((np.float64(space.low) + space.high) / 2, posinf=0, neginf=0)
    return middle.astype(space.dtype)


def _other_interface(env_id: str, fault: str) -> str:
    return (
        f"the environment {env_id} has not Gymnasium's interface: {fault}. It needs reset(seed=...)"
        " -> (observation, info) and step(action) -> (observation, reward, terminated, truncated, "
        f"info). {WAYS_OUT}"
    )


def number(reward: Any) -> float:
    """A reward as a number; environments also return arrays [1].

    Raises:
      DataError: for anything else.
    """
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise DataError(f"the reward {reward!r} is no number")
    return float(array.reshape(()))


def succeeded(info: Mapping[str, Any], before: bool | None = None) -> bool | None:
    """Whether an episode has succeeded by now, as its environment reports; None if it does not.

    Args:
      info: of a step.
      before: the same after the step before; a success is not lost again.
    """
    if "success" not in info:
        return before
    return bool(before) or bool(np.asarray(info["success"]).any())


def successes(reported: Any) -> np.ndarray | None:
    """Whether episodes succeeded; None if the environment reported success in none of them.

    Some environments report it in some episodes only, such as at the goal. Once one episode has
    reported it, an episode without a report counts as a failure.

    Args:
      reported: of each episode, what `succeeded` returned; an array of any shape.
    """
    found = np.asarray(reported, object)
    known = [one is not None for one in found.flat]
    return found.astype(bool) if any(known) else None


def named(env_id: str, longest: int = 0) -> Task:
    """The task of a registered environment, such as 'Hopper-v5'.

    As in `gymnasium.make`, 'my_module:Mine-v0' imports the module first, which registers it: this
    function is for ids that the user gives, never for those that stand in a file.

    `longest` is the time limit for environments that have none of their own.

    Raises:
      DataError: if no such environment is registered, or it has no time limit.
    """
    import gymnasium

    env_id = ogbench_names.environment(import_home(env_id))
    if env_id not in gymnasium.registry:
        register(env_id)
    try:
        spec = gymnasium.spec(env_id)
    except Exception as fault:
        hint = ""
        if "singletask" in env_id and importlib.util.find_spec("ogbench") is None:
            hint = " (OGBench's environments need its package: pip install ogbench)"
        raise DataError(f"unknown environment {env_id!r}: {fault}{hint}") from fault
    return recorded(spec.to_json(), longest)


def made_by(maker: Callable[[], Any], longest: int = 0) -> Task:
    """The task of the environment that a function makes, such as a class of the user's.

    Its id is the function's name. The time limit is that of the environment's own `spec` or of
    its wrapper TimeLimit, or else `longest`.

    Raises:
      DataError: if the function fails, makes something else, or there is no time limit.
    """
    import gymnasium

    env_id = name_of(maker)
    try:
        env = maker()
    except Exception as fault:  # somebody else's environment may fail in any way
        raise DataError(f"cannot make the environment {env_id}: {fault}") from fault
    if not isinstance(env, gymnasium.Env):
        raise DataError(f"{env_id} made a {type(env).__name__}, not an environment of Gymnasium's")
    limit = env.spec.max_episode_steps if env.spec else None
    if limit is None and env.has_wrapper_attr("_max_episode_steps"):
        limit = env.get_wrapper_attr("_max_episode_steps")
    env.close()
    limit = limit or longest
    if limit < 1:
        raise DataError(
            f"the environment {env_id} has no time limit: wrap it in gymnasium.wrappers.TimeLimit"
        )
    return Task(env_id, "", int(limit), maker=maker)


def name_of(maker: Callable[[], Any]) -> str:
    """The id of the environment that a function makes: the function's own dotted name."""
    name = getattr(maker, "__qualname__", type(maker).__qualname__)
    home = getattr(maker, "__module__", "")
    return f"{home}.{name}" if home else name


def import_home(env_id: str) -> str:
    """Imports the module of 'my_module:Mine-v0', if there is one; returns the id without it.

    Raises:
      DataError: if it cannot be imported.
    """
    module, _, bare = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as fault:  # somebody else's module may fail in any way
            raise DataError(f"cannot import {module!r} for the environment: {fault}") from fault
    return bare


def recorded(spec_json: str, longest: int) -> Task:
    """The task of an EnvSpec that was stored with a dataset, as JSON; `longest` as in `named`."""
    content = json.loads(spec_json)
    limit = content.get("max_episode_steps") or longest
    if limit < 1:
        raise DataError(f"the environment {content['id']} has no time limit")
    return Task(content["id"], spec_json, int(limit))


def register(wanted: str = "") -> None:
    """Registers our own environments, and those of the packages that are installed.

    Of dm_control's, which come in images of any size, only the `wanted` one.
    """
    import gymnasium

    import jaxrl_prefs.environments.antmaze
    import jaxrl_prefs.environments.maze2d  # noqa: F401 - they register themselves
    from jaxrl_prefs.environments import dm_control_task

    dm_control_task.register(wanted)

    for env_id, (place, horizon) in OURS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id, entry_point=f"jaxrl_prefs.environments.{place}", max_episode_steps=horizon
            )
    _import_ogbench()
    _import_robotics()


def _import_ogbench() -> None:
    """Registers OGBench's environments where it is installed."""
    with contextlib.suppress(ImportError), _quiet():
        import ogbench  # noqa: F401 - registers itself


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops two warnings of OGBench's environments that mean nothing to their user.

    dm_control notes that there is no screen. Gymnasium notes that bounds of a box become 32-bit, as
    ours are anyway, at every look at the spaces of the tables, also in a reset.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*DISPLAY environment variable is missing")
        warnings.filterwarnings("ignore", ".*precision lowered by casting to float32")
        yield


def _import_robotics() -> None:
    """Registers Gymnasium-Robotics where it is installed; drops its notice on Adroit's rewards."""
    import gymnasium

    with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)


def _tidy(env: gymnasium.Env) -> None:
    """Removes the file that Gymnasium-Robotics leaves of every maze that it built."""
    leftover = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if leftover is not None:
        Path(leftover).unlink(missing_ok=True)
