"""OGBench's names, files and single tasks, with a stand-in for its package."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from jaxrl_prefs import data
from jaxrl_prefs.cli import shown
from jaxrl_prefs.data import ogbench_data
from jaxrl_prefs.environments import ogbench_names, task
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.page.parts import Rows
from jaxrl_prefs.runs.suites import SUITES
from tests import playground
from tests.data import files

NAME, FILE = "cube-single-play-singletask-task1-v0", "cube-single-play-v0.npz"
ENV = "cube-single-singletask-task1-v0"
RAW: dict[str, Any] = {  # two episodes, of two steps and of one; the task's cube belongs at 1
    "observations": np.float32([[0, 0], [1, 0], [2, 0], [10, 0], [1, 0]]),
    "actions": np.float32([[0.1], [0.2], [0.9], [0.3], [0.9]]),
    "terminals": np.float32([0, 0, 1, 0, 1]),
    "qpos": np.float32([[0], [1], [2], [10], [1]]),
}


def relabel(env_id: str, env: Any, arrays: dict[str, np.ndarray]) -> None:
    """As ogbench.relabel_utils.relabel_dataset: the reward of a step is that of its state."""
    success = arrays["qpos"][:, 0] == env.unwrapped.goal
    arrays["rewards"] = success.astype(np.float32) - 1
    arrays["masks"] = 1 - success.astype(np.float32)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with the package; returns the folder of its files."""
    for name in ("ogbench", "ogbench.relabel_utils"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["ogbench.relabel_utils"].relabel_dataset = relabel  # type: ignore[attr-defined]
    for place, number in (("cube-single", 1), ("cube-single", 2), ("scene", 1)):
        spec = EnvSpec(
            f"{place}-singletask-task{number}-v0",
            entry_point="tests.playground:Cube",
            max_episode_steps=5,
            kwargs={"goal": float(number)},
        )
        monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    monkeypatch.setenv(ogbench_data.FOLDER, str(tmp_path))
    playground.Cube.made.clear()
    playground.Cube.closed.clear()
    files.write_npz(tmp_path / FILE, **RAW)
    return tmp_path


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "env_id"),
    [
        (NAME, "cube-single-play-v0", ENV),
        ("scene-noisy-singletask-v0", "scene-noisy-v0", "scene-singletask-v0"),
        ("puzzle-4x6-play-v0", "puzzle-4x6-play-v0", ""),
        (
            "cube-quadruple-play-100m-singletask-task3-v0",
            "cube-quadruple-play-100m-v0",
            "cube-quadruple-singletask-task3-v0",
        ),
        ("antsoccer-arena-stitch-v0", "antsoccer-arena-stitch-v0", ""),
    ],
)
def test_a_name_tells_file_and_environment(name: str, file: str, env_id: str) -> None:
    found = ogbench_names.parse(name)
    assert found is not None and (found.data, found.env_id) == (file, env_id)
    assert not env_id or (ogbench_names.is_task(env_id) and not ogbench_names.is_task(name))


@pytest.mark.parametrize(
    "name",
    [
        *("antmaze-medium-play-v0", "antmaze-umaze-v0", "mujoco/hopper/medium-v0"),  # others' names
        *(ENV, "cube-single-play-singletask-task6-v0", "cube-single-navigate-v0", "scene-v0"),
    ],
)
def test_other_names_are_not_ogbenchs(name: str) -> None:
    assert ogbench_names.parse(name) is None


def test_the_fifty_tasks_of_the_suite_have_fifty_environments() -> None:
    names = [name for row in SUITES["ogbench50"] for name in row.datasets]
    read = [ogbench_names.parse(name) for name in names]
    assert len({name.env_id for name in read if name}) == len(names) == 50
    assert all(ogbench_names.single_task(name) == name for name in names)


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, FILE, "elsewhere"])
def test_a_task_gives_rewards_and_ends(name: str, package: Path) -> None:
    """At the goal the reward is 0 and no bootstrap follows; the episode itself goes on."""
    env = {"elsewhere": ENV, FILE: NAME, NAME: ""}[name]  # a name of data names its environment too
    if name == "elsewhere":
        (package / FILE).rename(package / "elsewhere.npz")
    found = data.load(
        name if name == NAME else package / f"{name.removesuffix('.npz')}.npz", env=env
    )
    assert found.reward.tolist() == [-1, 0, -1]
    assert found.terminal.tolist() == [False, True, False]
    assert found.continues.tolist() == [True, False, False] and found.lengths.tolist() == [2, 1]
    assert found.task is not None and (found.task.env_id, found.family) == (ENV, "ogbench")
    assert name != NAME or found.name == NAME
    assert playground.Cube.made == playground.Cube.closed == [1.0]
    wrong = data.prepare(found, data.Processing(reward="sparse")).transitions.reward
    assert wrong.tolist() == [-1, 0, -1]


def test_sparse_rewards_forget_how_much_is_wrong(package: Path) -> None:
    labels = {"rewards": np.float32([-3, 0, 0, -1, 0]), "masks": np.float32([1, 0, 1, 1, 1])}
    files.write_npz(package / FILE, **RAW, **labels)
    found = data.load(package / FILE)
    assert found.reward.tolist() == [-3, 0, -1]  # the file's own
    assert playground.Cube.made == []  # which nobody has to compute
    sparse = data.Processing(reward="sparse", reward_scale=2.0, reward_shift=0.5)
    assert data.prepare(found, sparse).transitions.reward.tolist() == [-1.5, 0.5, -1.5]
    with pytest.raises(DataError, match="reward='sparse' is for rewards of at most 0"):
        data.prepare(found._replace(reward=-found.reward), sparse)


def test_a_files_own_rewards_must_be_those_of_the_task_that_is_named(package: Path) -> None:
    labels = {"rewards": np.float32([0, -1, -1, -1, -1]), "masks": np.float32([0, 1, 1, 1, 1])}
    files.write_npz(package / FILE, **RAW | {"qpos": RAW["qpos"] * 3}, **labels)
    own = "cube-single-singletask-task2-v0"
    with pytest.raises(DataError, match=f"those of no task .*, not of {ENV}: take the file with"):
        data.load(NAME)
    files.write_npz(
        package / FILE,
        **RAW | {"qpos": RAW["qpos"] + 1},
        **labels
        | {"rewards": np.float32([-1, 0, -1, -1, 0]), "masks": np.float32([1, 0, 1, 1, 0])},
    )
    with pytest.raises(DataError, match=rf"those of {own}, not of {ENV}: name that task \(--env="):
        data.load(NAME)
    assert data.load(package / FILE, env=own).reward.tolist() == [-1, 0, -1]
    assert playground.Cube.made == playground.Cube.closed
    unknown = {key: value for key, value in RAW.items() if key != "qpos"}
    files.write_npz(package / FILE, **unknown, **labels)
    assert "not compared with those of" in data.load(NAME).notes[0]


def test_rewards_of_next_states_are_told_from_those_of_other_tasks(package: Path) -> None:
    """As environments of ogbench before 1.2 return them; a file keeps them if it names the task."""
    labels = {"rewards": np.float32([0, -1, 0, 0, -1]), "masks": np.float32([0, 1, 1, 0, 1])}
    files.write_npz(package / FILE, **RAW, **labels)
    for env in (ENV, "cube-single-singletask-task2-v0"):
        with pytest.raises(
            DataError, match=rf"of {ENV} in the state after each step, .* call it {NAME}\.npz and"
        ):
            data.load(package / FILE, env=env)
    (package / FILE).rename(package / f"{NAME}.npz")
    found = data.load(package / f"{NAME}.npz")
    assert found.reward.tolist() == [0, -1, 0] and found.terminal.tolist() == [True, False, True]
    assert found.task is not None and found.task.env_id == ENV


def test_visual_data_have_the_rewards_of_the_task_without_images(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "visual-cube-single-singletask-task1-v0"
    spec = EnvSpec(name, entry_point="tests.playground:Missing", max_episode_steps=5)
    monkeypatch.setitem(gymnasium.registry, name, spec)
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    raw = RAW | {"observations": frames}
    files.write_npz(package / f"visual-{FILE}", **raw)
    found = data.load(f"visual-{NAME}")
    assert found.reward.tolist() == [-1, 0, -1] and found.by_success
    assert found.task is not None and found.task.env_id == name
    assert found.images["image"].frames.shape == (5, 8, 8, 3)
    with pytest.raises(DataError, match="belongs to visual-cube-single, not to cube-single"):
        data.load(package / f"visual-{FILE}", env=ENV)
    del raw["qpos"]
    files.write_npz(package / f"visual-{FILE}", **raw)
    with pytest.raises(DataError, match="missing 'qpos', of which the rewards are computed"):
        data.load(f"visual-{NAME}")


def test_data_alone_have_no_rewards(package: Path) -> None:
    found = data.load("cube-single-play-v0")
    assert not found.has_rewards and found.task is None and not found.terminal.any()
    assert "goal-conditioned OGBench file, without rewards: name a task" in found.notes[0]
    assert "--env=cube-single-singletask-task1-v0" in found.notes[0]
    labelled = data.load("cube-single-play-v0", env=ENV)
    assert labelled.has_rewards and labelled.task is not None


def test_another_environment_of_the_users_keeps_the_tasks_rewards(package: Path) -> None:
    playground.register()
    found = data.load(NAME, env=playground.REACHING_ID)
    assert found.reward.tolist() == [-1, 0, -1]
    assert found.task is not None and found.task.env_id == playground.REACHING_ID


@pytest.mark.parametrize(
    ("name", "env", "message"),
    [
        (
            NAME,
            "cube-single-singletask-task2-v0",
            f"has the rewards of {ENV}, and --env=.* another",
        ),
        (
            FILE,
            "scene-singletask-task1-v0",
            "belongs to cube-single, not to scene: name one of its own .*--env=cube-single-s",
        ),
        (
            FILE,
            "Pendulum-v1",
            "2 observations and 1 actions, and Pendulum-v1 has 3 and 1: name the",
        ),
        (FILE, playground.REACHING_ID, "computes none: name a single task"),
    ],
)
def test_a_wrong_environment_is_named(name: str, env: str, message: str, package: Path) -> None:
    playground.register()
    with pytest.raises(DataError, match=message):
        data.load(name if name == NAME else package / name, env=env)


def test_a_report_shows_the_file_and_the_name_of_a_task_as_one(package: Path) -> None:
    """With the run's environment, whose rewards the file lacks."""

    def run(dataset: str, env: str) -> shown.Shown:
        about = {"run": {"dataset": dataset, "env": env}}
        return shown.Shown(package, "bc", about, {"dataset": dataset, "env": ENV}, [], [])

    for first, second in ((str(package / FILE), NAME), (NAME, str(package / FILE))):
        runs = [run(name, "" if name == NAME else ENV) for name in (first, second)]
        (section,) = shown._data([], runs)
        ((head, *rows),) = [part.rows for part in section.parts if isinstance(part, Rows)]
        told = dict(rows)
        assert head[1] == NAME and told["evaluated in"] == f"{ENV}, at most 5 steps"
        assert told["rewards"].endswith("max 0") and "min -1," in told["rewards"]
    (package / FILE).unlink()
    (section,) = shown._data([], [run(NAME, "")])
    assert section.parts == [Rows([["", NAME]], 2, [])]


def test_a_report_never_reads_the_sets_of_100_million_steps(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a path or by a name, whether the name is looked up or is that of a local folder."""
    large = "cube-single-play-100m-v0"
    inside = package / large / "cube-single-play-v0-000.npz"
    inside.parent.mkdir()
    inside.touch()
    for name in (large, f"{large}/", str(package / large), str(inside)):
        for folder in (package, package.parent):
            monkeypatch.chdir(folder)
            assert not shown._is_here(name)
    assert shown._is_here(str(package / FILE)) and shown._is_here(NAME)


def test_a_folder_of_files_makes_one_environment(package: Path) -> None:
    """The sets of 100 million steps are folders of a hundred files and more."""
    folder = package / "cube-single-play-100m-v0"
    folder.mkdir()
    for number in range(3):
        files.write_npz(folder / f"cube-single-play-v0-{number:03d}.npz", **RAW)
    files.write_npz(folder / "cube-single-play-v0-000-val.npz", **RAW)
    name = NAME.replace("-play-", "-play-100m-")
    found = data.load(name)
    assert (found.name, found.size) == (name, 9) and found.reward.tolist() == [-1, 0, -1] * 3
    assert playground.Cube.made == playground.Cube.closed == [1.0]


def test_missing_data_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(ogbench_data.FOLDER, raising=False)
    there = tmp_path / ".ogbench/data"
    with pytest.raises(DataError, match=rf"\(https://\S+/{FILE}\) into {there}, where it is loo"):
        data.load(NAME)
    with pytest.raises(
        DataError, match=rf"download the files of .* folder {there}/scene-play-100m"
    ):
        data.load("scene-play-100m-singletask-v0")
    with pytest.raises(DataError, match=r"\(https://\S+/visual-cube-single-play-v0"):
        data.load(f"visual-{NAME}")


@pytest.mark.parametrize("folder", ["", "elsewhere"])
def test_the_command_that_downloads_is_given(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It calls the package's function with the folder in which the library looks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(ogbench_data.FOLDER, str(tmp_path / folder) if folder else "")
    calls: list[tuple[Any, ...]] = []
    module = ModuleType("ogbench")
    module.download_datasets = lambda *given: calls.append(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ogbench", module)
    with pytest.raises(DataError) as caught:
        data.load(NAME)
    exec(str(caught.value).split('"')[1])
    where = (str(tmp_path / folder),) if folder else ()
    assert calls == [(["cube-single-play-v0"], *where)]


def test_a_task_without_the_package_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ogbench", None)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    monkeypatch.setenv(ogbench_data.FOLDER, str(tmp_path))
    files.write_npz(tmp_path / FILE, **RAW)
    with pytest.raises(DataError, match="need its package: pip install ogbench"):
        task.named("cube-triple-play-singletask-task1-v0")


@pytest.mark.usefixtures("package")
def test_who_has_the_package_is_not_asked_for_it() -> None:
    with pytest.raises(DataError, match="unknown environment 'cube-single-singletask-t") as caught:
        task.named("cube-single-singletask-task9-v0")
    assert "pip install" not in str(caught.value)
