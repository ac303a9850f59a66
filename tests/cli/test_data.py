"""The command that lists, describes, converts and makes datasets."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.cli import data as command
from jaxrl_prefs.data import checked_files, ogbench_data
from jaxrl_prefs.data.generate import pendulum
from jaxrl_prefs.environments import task
from tests import playground
from tests.data import files


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "20")  # a pipe has no width
    return tmp_path


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Gives `say(*words, code=0)`: runs a command line, returns what it printed."""

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert command.main(["data", *words]) == code
        out, err = capsys.readouterr()
        return err if code else out

    return run


@pytest.mark.usefixtures("root")
def test_info(pendulum_file: Path, say: Callable[..., str]) -> None:
    text = say("info", str(pendulum_file), "--env=Pendulum-v1", "--random=2")
    for line in (
        "family             pendulum",
        "Pendulum-v1, at most 200 steps",
        "0 by a terminal, 5 cut off",
        "195 (of 200 steps)",
        "min 40, median 40, mean 40, max 40",
        "not possible: states cannot be rebuilt",
        "score of the data  -",
        "(2 episodes)",
    ):
        assert line in text
    counts = [int(line.split()[3]) for line in text.splitlines()[-10:]]
    assert sum(counts) == 5


def test_a_histogram_counts_everything() -> None:
    lines = command.histogram(np.array([0.0, 0.0, 0.5, 10.0]))
    assert [int(line.split()[3]) for line in lines] == [3, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert lines[0].count("█") == 40
    assert lines[-1].count("█") == 14


def test_a_random_policy_scores_about_0() -> None:
    """On Pendulum its mean return is -1200 or so; the same seed plays the same."""
    where = task.named("Pendulum-v1")
    returns, reached = command.random_episodes(where, 5)
    assert reached is None
    assert -1800 < returns.mean() < -800
    assert len(set(returns.tolist())) == 5
    assert (returns == command.random_episodes(where, 5)[0]).all()


def test_where_success_is_the_score_a_random_policy_has_no_return(pendulum_file: Path) -> None:
    """Episodes from even starts succeed by their second action: two in five of them."""
    playground.register()
    returns, reached = command.random_episodes(task.named(playground.REACHING_ID), 60)
    assert reached is not None and not reached[1::2].any() and 0.2 < reached[::2].mean() < 0.6
    scored = data.load(str(pendulum_file), env="Pendulum-v1")._replace(family="ogbench")
    rate = 100 * reached.mean()
    assert command.played(scored, returns, reached) == f"success rate {rate:.3g} % (60 episodes)"
    assert "does not report info['success']" in command.played(scored, returns, None)


def test_convert_and_list(pendulum_file: Path, root: Path, say: Callable[..., str]) -> None:
    source = (str(pendulum_file), "--env=Pendulum-v1")
    say("convert", *source, "mine/pendulum-v0")
    first, second = data.load(str(pendulum_file), env="Pendulum-v1"), data.load("mine/pendulum-v0")
    np.testing.assert_array_equal(first.observation, second.observation)
    np.testing.assert_array_equal(first.action, second.action)
    listed = next(line for line in say("list").splitlines() if "mine/pendulum-v0" in line)
    assert listed.split()[:5] == ["mine/pendulum-v0", "pendulum", "Pendulum-v1", "5", "195"]
    target = str(root / "new" / "a.npz")
    assert "actions lie in [-2, 2]" in say("convert", *source, target, code=2)
    assert "does not name a dataset" in say("convert", *source, target, "--format=d4rl", code=2)
    assert "no format 'parquet'" in say("convert", *source, "a", "--format=parquet", code=2)
    assert "no Minari id" in say("convert", *source, "a b", code=2)


def logs(folder: Path) -> Path:
    """A folder of three text files, of a valve that drives a level."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for run in range(3):
        level, lines = 0.0, ["t,level,flow,valve,gain"]
        for step in range(40):
            valve = 50 + 20 * generator.normal()
            lines.append(f"{step / 10},{level},{level / 2},{valve},{-abs(level - 1)}")
            level += 0.001 * valve
        (folder / f"run-{run}.csv").write_text("\n".join(lines))
    return folder


LOGS = ("--observation_keys=level,flow", "--action_keys=valve", "--reward_key=gain")


def test_info_for_programs_and_for_people(root: Path, say: Callable[..., str]) -> None:
    folder = logs(root / "logs")
    words = (str(folder), *LOGS, "--action_low=0", "--action_high=100")
    told = json.loads(say("info", *words, "--json"))
    assert told["episodes"] == 3 and told["transitions"] == 117  # what followed the last is unknown
    assert told["layout"]["action_high"] == [100.0]
    assert told["layout"]["observation_names"] == ["level", "flow"]
    assert told["health"]["ends_cut"] == 1.0
    assert told["health"]["time_gaps"] == 0
    assert any("no column says how episodes end" in note for note in told["notes"])
    text = say("info", *words, f"--figure={root / 'a.png'}")
    for part in ("modes of actions", "observation names  level, flow", "0.1 per step, 0 gaps"):
        assert part in text
    assert (root / "a.png").is_file()
    assert "name the columns of the observation" in say("info", str(folder), code=2)
    assert "--episode_ends takes terminal or timeout" in say(
        "info", *words, "--episode_ends=end", code=2
    )


def test_logs_become_minari_and_lerobot(root: Path, say: Callable[..., str]) -> None:
    pytest.importorskip("pyarrow")
    source = (str(logs(root / "logs")), *LOGS, "--episode_ends=timeout")
    text = say("convert", *source, "mine/valve-v0")
    assert "action bounds are taken from the data" in text
    say("convert", "mine/valve-v0", str(root / "lerobot"), "--format=lerobot")
    say("convert", str(root / "lerobot"), "mine/again-v0")
    first, second = data.load("mine/valve-v0"), data.load("mine/again-v0")
    for name in ("observation", "action", "reward", "next_observation", "continues", "action_low"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert second.observation_names == ("level", "flow") and second.action_names == ("valve",)
    assert "does not name a dataset of the format lerobot" in say(
        "convert", *source, "a.npz", "--format=lerobot", code=2
    )


@pytest.mark.usefixtures("root")
def test_wrong_use(say: Callable[..., str]) -> None:
    assert "no command 'inform'. Did you mean 'info'?" in say("inform", code=2)
    assert "info takes 1 name(s), got 0" in say("info", code=2)
    assert "no generated set 'hopper/medium-v0'" in say("make", "hopper/medium-v0", code=2)
    assert "jaxrl-prefs data list" in say("--help")
    assert "made by `make`" in say("list")


def test_info_tells_of_another_environment(
    say: Callable[..., str], real_data: Callable[[str], Path]
) -> None:
    """Recorded with goal after goal and no time limit, evaluated with both at their defaults."""
    real_data("pointmaze/umaze-v0")
    text = " ".join(say("info", "pointmaze/umaze-v0", "--random=0").split())
    for part in ("max_episode_steps=10000000", "continuing_task=True", "reset_target=True"):
        assert part in text
    real_data("hopper/medium-v0")
    assert "recorded in" not in say("info", "hopper/medium-v0", "--random=0")


def test_a_damaged_set_hides_no_other(root: Path, say: Callable[..., str]) -> None:
    minari = root / "minari"
    for name in ("whole", "torn", "folder", "odd"):
        files.write_minari(minari, f"mine/{name}-v0", files.two_episodes())
    place = {name: minari / f"mine/{name}-v0/data/metadata.json" for name in ("torn", "folder")}
    place["torn"].write_text("{")
    place["folder"].unlink()
    place["folder"].mkdir()
    odd = minari / "mine/odd-v0/data/metadata.json"
    odd.write_text(json.dumps(json.loads(odd.read_text()) | {"total_steps": "many"}))
    text = " ".join(say("list").split())
    assert "mine/whole-v0" in text
    assert text.count("damaged: ") == 3


def test_an_older_set_is_converted_by_the_command_that_its_refusal_names(
    root: Path, say: Callable[..., str]
) -> None:
    folder = files.write_minari(root / "minari", "mine/two-v0", files.two_episodes())
    before = data.load("mine/two-v0")
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file.attrs.update(json.loads((folder / "metadata.json").read_text()))
    (folder / "metadata.json").unlink()
    refusal = say("info", "mine/two-v0", code=2)
    words = refusal.partition("experiments.data ")[2].split()
    say(*words)
    np.testing.assert_array_equal(data.load(words[-1]).observation, before.observation)


def test_make_says_where_and_stores_where_it_is_told(
    root: Path, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pendulum, "EPISODES", 3)
    small = functools.partial(pendulum.generate, episodes=3)
    monkeypatch.setattr(pendulum, "generate", small)
    there = root / "elsewhere"
    text = " ".join(say("make", "pendulum-mixed", f"--root={there}").split())
    assert f"pendulum-mixed is stored in {there / 'pendulum/mixed-v0'}" in text
    assert f"found where MINARI_DATASETS_PATH={there}" in text
    assert (there / "pendulum/mixed-v0/data/metadata.json").is_file()
    assert not (root / "minari/pendulum").exists()
    text = " ".join(say("make", "pendulum-mixed").split())
    assert f"is stored in {root / 'minari/pendulum/mixed-v0'}" in text


def test_make_stops_at_once_and_leaves_nothing(
    root: Path, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checked_files, "checked", interrupted)
    small = functools.partial(pendulum.generate, episodes=3)
    monkeypatch.setattr(pendulum, "generate", small)
    text = say("make", "pendulum-mixed", code=130)
    assert text.splitlines()[-1] == "interrupted; the same command continues"
    assert list((root / "minari").iterdir()) == []


@pytest.mark.usefixtures("root")
def test_a_full_disk_is_found_before_anything_is_simulated(
    say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    monkeypatch.setattr(pendulum, "generate", lambda *_: pytest.fail("simulated"))
    assert "has 1 MB left: make room" in say("make", "pendulum-mixed", code=2)


def test_info_tells_of_an_environment_that_fails(root: Path, say: Callable[..., str]) -> None:
    playground.register()
    names = {
        "tests/OldStep-v0": "has not Gymnasium's interface: step() returns 4 value",
        playground.faulty("raises"): "none: the environment raised RuntimeError: unstable sim",
    }
    files.write_minari(root / "minari", "mine/two-v0", files.two_episodes())
    for env_id, message in names.items():
        text = " ".join(say("info", "mine/two-v0", f"--env={env_id}").replace("│", "").split())
        assert message in text


def test_sets_of_ogbench_are_downloaded_and_not_made(
    root: Path, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ogbench_data.FOLDER, str(root))
    for name in ("ogbench/cube-single-play-v0", "cube-single-play-singletask-task2-v0"):
        told = say("make", name, code=2)
        assert "not generated: python -c" in told and f"into {root}, where it is looked" in told
    large = "cube-quadruple-play-100m-v0"
    assert f"the files of {ogbench_data.SOURCE}/{large} into" in say("make", large, code=2)
    assert "Did you mean 'cube-single-play-v0'" in say("make", "cube-sngle-play-v0", code=2)
    (root / "cube-single-play-v0.npz").touch()
    assert f"is here: {root}/cube-single" in say("make", "ogbench/cube-single-play-v0", code=2)
