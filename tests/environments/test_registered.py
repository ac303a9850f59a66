"""Our own environments, and those of packages that may be missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data.readers import default_task, robomimic
from jaxrl_prefs.environments import robosuite_task, task
from jaxrl_prefs.errors import DataError
from tests.data import files
from tests.data.readers.test_files import DEMO


def test_safety_half_cheetah_is_half_cheetah_with_x_and_a_limit() -> None:
    ours = task.named("jaxrl_prefs/SafetyHalfCheetah-v0").make()
    plain = gymnasium.make(
        "HalfCheetah-v5", exclude_current_positions_from_observation=False, disable_env_checker=True
    )
    np.testing.assert_array_equal(ours.reset(seed=3)[0], np.float32(plain.reset(seed=3)[0]))
    assert ours.observation_space.shape == (18,)
    rng, fast = np.random.default_rng(0), 0
    for step in range(120):
        if step % 30 == 0:  # random torques alone never run too fast
            simulation: Any = plain.unwrapped
            position, velocity = simulation.data.qpos.copy(), simulation.data.qvel.copy()
            velocity[0] = 5.0
            for env in (ours, plain):
                env.unwrapped.set_state(position, velocity)  # type: ignore[attr-defined]
        action = np.float32(rng.uniform(-1, 1, 6))
        before = plain.unwrapped.data.qpos[0]  # type: ignore[attr-defined]
        found, reward, *ends, _ = ours.step(action)
        expected, *_ = plain.step(action)
        np.testing.assert_array_equal(found, np.float32(expected))
        speed = (expected[0] - before) / 0.05
        usual = speed - 0.1 * np.square(action).sum()
        assert reward == pytest.approx(-100.0 if speed > 3.2096 else usual, abs=1e-6)
        assert ends == [False, False]
        fast += speed > 3.2096
    assert 0 < fast < 120


def test_safety_half_cheetah_lasts_1000_steps() -> None:
    assert task.named("jaxrl_prefs/SafetyHalfCheetah-v0").max_episode_steps == 1000


@pytest.mark.parametrize(
    "name",
    ["neorl2/safetyhalfcheetah-train-v0", "SafetyHalfCheetah-val", "mine/SafetyHalfCheetah/x-v3"],
)
def test_datasets_of_neorl2_find_their_environment(name: str) -> None:
    found = default_task.of(name)
    assert found is not None
    assert found.env_id == "jaxrl_prefs/SafetyHalfCheetah-v0"


@pytest.mark.parametrize("name", ["neorl2/pipeline-train-v0", "halfcheetah/medium-v0"])
def test_others_find_none(name: str) -> None:
    assert default_task.of(name) is None


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the optional packages."""
    for name in ("ogbench", "robosuite"):
        monkeypatch.setitem(sys.modules, name, None)
    find = default_task.importlib.util.find_spec
    monkeypatch.setattr(
        default_task.importlib.util,
        "find_spec",
        lambda name: None if name in ("ogbench", "robosuite") else find(name),
    )


@pytest.mark.usefixtures("no_extras")
def test_ogbench_is_asked_for_by_name() -> None:
    assert default_task.of("ogbench/pointmaze-medium-navigate-singletask-task1-v0") is None
    with pytest.raises(DataError, match="need its package: pip install ogbench"):
        task.named("humanoidmaze-tiny-singletask-task1-v0")


@pytest.mark.usefixtures("no_extras")
def test_a_robomimic_file_without_robosuite_trains(tmp_path: Path) -> None:
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO})
    assert data.load(str(path)).task is None
    with pytest.raises(ImportError, match="robosuite is not installed"):
        robosuite_task.Robosuite("Lift", {}, robomimic.keys(1))


class Arm:
    """The part of robosuite that tasks share."""

    def __init__(self, controller_configs: Any = None, reward_shaping: bool = False) -> None:
        pass


class Lift(Arm):
    """Stands for robosuite's task: lifts by the sum of its actions, placed by its generator."""

    action_spec = (-np.ones(7), np.ones(7))

    def __init__(self, robots: Any, control_freq: int = 20, **kwargs: Any) -> None:
        self.made = {"robots": robots, "control_freq": control_freq, **kwargs}
        self.rng = np.random.default_rng()
        self.sampler = self.rng  # as robosuite's placement samplers do
        self.height = 0.0

    def _seen(self) -> dict[str, np.ndarray]:
        hand = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
        parts = {key: np.full(size, float(i)) for i, (key, size) in enumerate(hand.items())}
        return {"object-state": np.array([self.place, self.height]), **parts}

    def reset(self) -> dict[str, np.ndarray]:
        self.place, self.height = float(self.sampler.uniform()), 0.0
        return self._seen()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, dict]:
        self.height += float(action.sum())
        return self._seen(), 0.3, False, {}

    def _check_success(self) -> bool:
        return self.height > 1

    def close(self) -> None:
        pass


@pytest.fixture
def robosuite(monkeypatch: pytest.MonkeyPatch) -> list[Lift]:
    """A stand-in for the package; the list receives what it makes."""
    import mujoco

    made: list[Lift] = []

    def make(name: str, **kwargs: Any) -> Lift:
        made.append(Lift(**kwargs))
        return made[-1]

    factory = types.SimpleNamespace(
        refactor_composite_controller_config=lambda old, robot, arms: {"new": (old, robot, arms)}
    )
    modules = {
        "robosuite": types.SimpleNamespace(
            __version__="0",
            make=make,
            environments=types.SimpleNamespace(
                base=types.SimpleNamespace(REGISTERED_ENVS={"Lift": Lift})
            ),
        ),
        "robosuite.controllers": types.ModuleType("robosuite.controllers"),
        "robosuite.controllers.composite": types.SimpleNamespace(
            composite_controller_factory=factory
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.setattr(mujoco.MjData, "qM", None, raising=False)
    return made


SETTINGS = {
    "robots": ["Panda"],
    "control_freq": 10,
    "reward_shaping": True,
    "controller_configs": {"type": "OSC_POSE"},
}


def test_robosuite_as_robomimic_evaluates_it(robosuite: list[Lift]) -> None:
    env = robosuite_task.Robosuite("Lift", SETTINGS, robomimic.keys(1))
    first, _ = env.reset(seed=4)
    other, _ = env.reset(seed=5)
    again, _ = env.reset(seed=4)
    assert first[:9].tolist() == [0] * 3 + [1] * 4 + [2] * 2  # Robomimic's order
    assert first[9] == again[9] != other[9]
    assert env.step(np.full(7, 0.1))[1:4] == (0.0, False, False)
    assert env.step(np.full(7, 0.1))[1:4] == (1.0, True, False)
    made = robosuite[0].made
    assert made["control_freq"] == 10
    assert made["reward_shaping"] is False
    assert made["controller_configs"] == {"new": ({"type": "OSC_POSE"}, "Panda", ["right"])}


def test_a_newer_mujoco_than_robosuite_knows(
    robosuite: list[Lift], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mujoco

    monkeypatch.delattr(mujoco.MjData, "qM")
    with pytest.raises(ImportError, match=r"does not run with mujoco .*pip install 'mujoco==3\.9"):
        robosuite_task.Robosuite("Lift", {}, robomimic.keys(1))
