"""A stranger's dataset chooses no code: what it says of its environment, and what comes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import DataError, Dataset
from jaxrl_prefs.data.readers import default_task, robomimic
from jaxrl_prefs.environments import trust
from tests.data import files
from tests.data.readers.test_files import DEMO

PENDULUM = {
    "id": "Pendulum-v1",
    "entry_point": "gymnasium.envs.classic_control:PendulumEnv",
    "max_episode_steps": 50,
    "kwargs": {},
    "additional_wrappers": [],
}


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that hostile code would make. `evil_module`, on the path, makes it when imported, and
    so do its parts when they are called."""
    marked = tmp_path / "code_was_run"
    (tmp_path / "evil_module.py").write_text(
        f"open({str(marked)!r}, 'w').close()\n"
        "import gymnasium\n"
        "class Env(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-9, 9, (2,))\n"
        "    action_space = gymnasium.spaces.Box(-2, 2, (1,))\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return self.observation_space.sample(), {}\n"
        "class Wrapper(gymnasium.Wrapper):\n"
        "    def __init__(self, env, gain=1.0):\n"
        "        super().__init__(env)\n"
        "gymnasium.register('Evil-v0', entry_point='evil_module:Env', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marked
    sys.modules.pop("evil_module", None)
    gymnasium.registry.pop("Evil-v0", None)


def written(root: Path, spec: Any, key: str = "env_spec", **more: Any) -> str:
    """A Minari dataset whose metadata hold `spec`, JSON text or a mapping."""
    folder = files.write_minari(root, "mine/set-v0", files.two_episodes())
    about = json.loads((folder / "metadata.json").read_text())
    about[key] = spec if isinstance(spec, str) else json.dumps(spec)
    (folder / "metadata.json").write_text(json.dumps(about | more))
    return "mine/set-v0"


def used(recording: Dataset) -> None:
    """Makes what a program makes of a recording's environment."""
    if recording.task is not None:
        recording.task.make().close()


def wrapper(entry_point: str, kwargs: Any) -> list[dict[str, Any]]:
    return [{"name": "W", "entry_point": entry_point, "kwargs": kwargs}]


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "an own entry point": ({"entry_point": "evil_module:Env"}, "'evil_module:Env'"),
    "a shell": (
        {"entry_point": "os:system", "kwargs": {"command": "touch code_was_run"}},
        "'os:system'",
    ),
    "an unknown id": ({"id": "Lab/Arm-v0", "entry_point": "evil_module:Env"}, "Lab/Arm-v0: "),
    "a module in the id": ({"id": "evil_module:Evil-v0"}, "names a module"),
    "a module and no entry point": (
        {"id": "evil_module:Pendulum-v1", "entry_point": None},
        "names a module",
    ),
    "a wrapper": ({"additional_wrappers": wrapper("evil_module:Wrapper", {})}, "evil_module"),
    "an entry point that is a path": ({"entry_point": ["evil_module"]}, "evil_module"),
}
ARGUMENTS: dict[str, Any] = {
    "xml_file": "/etc/passwd",
    "model_path": "passwd",
    "xmlFile": "passwd",
    "g": "../passwd",
    "reward": "evil_module:Env",
    "wrapper_class": {"name": "Env"},
    "settings": {"type": {"class": "Env"}},
    "_target_": 1,
    "py/object": "evil",
    "maps": [["a", ["evil_module.Env"]]],
    "text": "__import__('os')",
    "home": "~",
    "variable": "$HOME",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_code_of_a_files_choice_is_refused_by_name(root: Path, mark: Path, case: str) -> None:
    change, named = HOSTILE[case]
    name = written(root, PENDULUM | change)
    recording = data.load(name)
    used(recording)
    assert not mark.exists()
    assert (recording.size, recording.task) == (5, None)  # the data can be read
    assert recording.refused is not None
    assert str(recording.refused).startswith("not trusted: ")
    assert named in str(recording.refused)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_arguments_that_may_be_files_or_code_are_refused_by_name(root: Path, argument: str) -> None:
    name = written(root, PENDULUM | {"kwargs": {argument: ARGUMENTS[argument]}})
    recording = data.load(name)
    assert recording.task is None
    named = {"settings": "class"}.get(argument, argument)
    assert f"its argument {named}" in str(recording.refused).replace("'", "")


def test_a_robots_model_is_not_read_from_anywhere(root: Path, tmp_path: Path) -> None:
    robot = tmp_path / "robot.xml"
    robot.write_text("<mujoco/>")
    spec = {"id": "Hopper-v5", "max_episode_steps": 9, "kwargs": {"xml_file": str(robot)}}
    assert "xml_file=" in str(data.load(written(root, spec)).refused)


def test_the_environment_for_the_evaluation_is_checked_alike(root: Path, mark: Path) -> None:
    hostile = json.dumps(PENDULUM | {"entry_point": "evil_module:Env"})
    recording = data.load(written(root, PENDULUM, eval_env_spec=hostile))
    used(recording)
    assert not mark.exists()
    assert recording.task is None and "'evil_module:Env'" in str(recording.refused)


@pytest.mark.parametrize("missing", ["observation_space", "action_space"])
def test_no_environment_is_made_for_missing_spaces(root: Path, mark: Path, missing: str) -> None:
    name = written(root, PENDULUM | {"entry_point": "evil_module:Env"})
    path = root / name / "data" / "metadata.json"
    about = json.loads(path.read_text())
    del about[missing]
    path.write_text(json.dumps(about))
    with pytest.raises(
        DataError, match=rf"mine/set-v0: metadata\.json lacks {missing}.*not truste"
    ):
        data.load(name)
    assert not mark.exists()


def test_missing_spaces_are_those_of_the_registered_environment(root: Path) -> None:
    name = written(root, PENDULUM)
    path = root / name / "data" / "metadata.json"
    about = json.loads(path.read_text())
    del about["action_space"]
    path.write_text(json.dumps(about))
    assert data.load(name).action_high.tolist() == [2.0]


def test_plain_arguments_and_the_time_limit_are_taken(root: Path) -> None:
    kwargs = {"g": 1.5, "render_mode": "human"}
    recording = data.load(written(root, PENDULUM | {"kwargs": kwargs, "entry_point": None}))
    assert recording.refused is None and recording.task is not None
    env: Any = recording.task.make()
    assert (env.unwrapped.g, env.render_mode) == (1.5, None)
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(50)].index(True) == 49


def test_a_module_that_moved_within_its_package_is_found(root: Path) -> None:
    moved = PENDULUM | {"entry_point": "gymnasium.envs.classic:PendulumEnv"}
    recording = data.load(written(root, moved))
    assert recording.task is not None
    assert recording.task.spec().entry_point == gymnasium.spec("Pendulum-v1").entry_point


@pytest.mark.parametrize(
    "text",
    [
        *("{'id': 'Pendulum-v1'}", "[]", "3", '{"entry_point": "x:y"}', '{"id": 3}'),
        *(json.dumps(PENDULUM | {"max_episode_steps": x}) for x in ("text", 0, -5, True, 1e3)),
        *(json.dumps(PENDULUM | {"kwargs": x}) for x in (None, 3, [1])),
        *(json.dumps(PENDULUM | {"additional_wrappers": x}) for x in (3, "text", [1])),
    ],
)
def test_a_damaged_record_leaves_the_data_readable(root: Path, text: str) -> None:
    recording = data.load(written(root, text))
    assert (recording.size, recording.task) == (5, None)
    assert str(recording.refused).startswith("unreadable: ")


def test_a_wrapper_that_nobody_can_make_again_is_left_out_and_named(root: Path, mark: Path) -> None:
    lost = PENDULUM | {"additional_wrappers": wrapper("evil_module:Wrapper", None)}
    for trusted in (False, True):
        root = root.parent / f"minari-{trusted}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINARI_DATASETS_PATH", str(root))
            recording = data.load(written(root, lost), trust_env=trusted)
        assert recording.task is not None and recording.task.without == ("'W'",)
        used(recording)
    assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "Lab/Arm-v0", "entry_point": "evil_module:Env"},
        {"entry_point": "evil_module:Env"},
        {"id": "evil_module:Evil-v0", "entry_point": None},
        {"additional_wrappers": wrapper("evil_module:Wrapper", {"gain": 2.0})},
    ],
)
def test_with_trust_the_files_code_is_run(root: Path, mark: Path, change: dict[str, Any]) -> None:
    recording = data.load(written(root, PENDULUM | change), trust_env=True)
    used(recording)
    assert recording.refused is None and mark.exists()


def test_an_environment_of_the_users_choice_needs_no_trust(root: Path, mark: Path) -> None:
    name = written(root, PENDULUM | {"entry_point": "evil_module:Env"})
    recording = data.load(name, env="Pendulum-v1")
    assert recording.refused is None and recording.task is not None
    assert not mark.exists()
    own = data.load(name, env="evil_module:Evil-v0")  # gymnasium's way to name a module
    assert own.task is not None and own.task.env_id == "Evil-v0"
    with pytest.raises(DataError, match="cannot import 'no_such_module'"):
        data.load(name, env="no_such_module:Evil-v0")


def test_a_registered_environment_of_the_users_is_found(root: Path) -> None:
    class Mine(gymnasium.Env):
        pass

    gymnasium.register("Mine-v0", entry_point=Mine, max_episode_steps=3)
    try:
        assert data.load(written(root, PENDULUM | {"id": "Mine-v0"})).refused is not None
        spec = {"id": "Mine-v0", "max_episode_steps": 5}
        found = trust.claim(json.dumps(spec), "env_spec", 0)
        assert found.task is not None and found.task.max_episode_steps == 5
    finally:
        del gymnasium.registry["Mine-v0"]


def test_the_family_does_not_depend_on_trust(root: Path) -> None:
    name = written(root, PENDULUM | {"entry_point": "os:system"})
    assert data.load(name).family == "pendulum"


def test_a_name_of_a_dataset_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    find = default_task.importlib.util.find_spec
    monkeypatch.setattr(
        default_task.importlib.util, "find_spec", lambda name: name == "ogbench" or find(name)
    )
    asked: list[str] = []
    monkeypatch.setattr(default_task.task, "named", lambda name, longest: asked.append(name))
    default_task.of("ogbench/evil_module:pointmaze-navigate-singletask-v0")
    default_task.of("ogbench/mine-navigate-singletask-v0")  # registered by another package
    assert asked == []
    default_task.of("ogbench/pointmaze-medium-navigate-singletask-v0")
    assert asked == ["pointmaze-medium-singletask-v0"]


# --- Robomimic's files ----------------------------------------------------------------------------


def lift(tmp_path: Path, args: Any) -> Path:
    path = files.write_robomimic(tmp_path / "a.hdf5", {"demo_0": DEMO})
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = args if isinstance(args, str) else json.dumps(args)
    return path


SETTINGS = {
    "robots": ["Panda"],
    "control_freq": 20,
    "camera_names": ["agentview", "robot0_eye_in_hand"],
    "env_configuration": "single-arm-opposed",
    "controller_configs": {"type": "OSC_POSE", "input_max": 1, "kp_limits": [0, 300]},
    "render_gpu_device_id": None,
}


@pytest.mark.parametrize(
    "args",
    [
        {"env_name": "evil_module:Env", "env_kwargs": {}},
        {"env_name": "../Lift", "env_kwargs": {}},
        {"env_name": ["Lift"], "env_kwargs": {}},
        {"env_name": "Lift", "env_kwargs": {"controller_configs": "/tmp/evil.json"}},
        {"env_name": "Lift", "env_kwargs": {"robots": ["evil.Robot"]}},
        {"env_name": "Lift", "env_kwargs": {"controller_configs": {"class": "Evil"}}},
        {"env_name": "Lift", "env_kwargs": 3},
        {"env_name": "Lift"},
        "[1, 2]",
        "{",
    ],
)
def test_hostile_env_args_of_robomimic_are_refused(tmp_path: Path, args: Any) -> None:
    recording = data.load(str(lift(tmp_path, args)))
    assert recording.task is None and recording.refused is not None


def test_robosuites_settings_are_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = robomimic.importlib.util.find_spec
    monkeypatch.setattr(
        robomimic.importlib.util, "find_spec", lambda name: name == "robosuite" or find(name)
    )
    recording = data.load(str(lift(tmp_path, {"env_name": "Lift", "env_kwargs": SETTINGS})))
    assert recording.refused is None and recording.task is not None
    spec = recording.task.spec()
    assert spec.entry_point == trust.ROBOSUITE and spec.kwargs["settings"] == SETTINGS
    again = trust.claim(spec.to_json(), "env_spec", 0)  # as a converted set holds it
    assert again.task is not None and again.task.spec() == spec
    spec.kwargs["settings"] = {"robots": "evil.Robot"}
    assert trust.claim(spec.to_json(), "env_spec", 0).task is None


def test_other_kinds_of_robomimics_environments_are_none(tmp_path: Path) -> None:
    recording = data.load(str(lift(tmp_path, {"env_name": "hopper-v2", "type": 2})))
    assert (recording.task, recording.refused) == (None, None)


def test_a_package_that_is_missing_is_named(root: Path) -> None:
    name = written(root, {"id": "Far/Arm-v0", "entry_point": "far_away.arm:Arm"})
    refused = data.load(name).refused
    assert refused is not None
    assert "its package far_away is not installed" in str(refused)
