"""A run that goes on: more seeds, updates and episodes equal a run that was begun with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import td3_bc
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import changes, prepare, renamed, seeds_added, workdir
from jaxrl_prefs.runs.workdir import ADDED, JOINED
from jaxrl_prefs.testing import episodes
from jaxrl_prefs.types import Spec
from tests.small_runs import made_once

# A log point every 3 updates: neither 4 nor 8, where the two runs end, is one of them.
FIELDS: dict[str, Any] = {
    "actor_hidden": (8,),
    "critic_hidden": (8,),
    "batch_size": 16,
    "log_every": 3,
    "checkpoint_every": 3,
    "eval_episodes": 1,
}
MAKE = td3_bc.make
ROWS = ("metrics.jsonl", "evaluations.jsonl")


def train(data: Dataset, folder: Path, seeds: Any, steps: int, **more: Any) -> jp.Run:
    fields = FIELDS | {"train_steps": steps} | more
    return jp.train("td3_bc", data, seeds=seeds, workdir=folder, **fields)


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """One is compiled for each number of seeds, and not for each call and number of devices."""
    with pytest.MonkeyPatch.context() as patch, made_once(td3_bc, train_steps=4):
        patch.setattr(prepare, "mesh_for", lambda *_: seed_axis.seed_mesh(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def data(pendulum_file: Path) -> Dataset:
    return jp.load_dataset(pendulum_file, env="Pendulum-v1")


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> jp.Run:
    """A run that was begun with both seeds and eight updates."""
    return train(data, tmp_path_factory.mktemp("whole") / "run", 2, 8)


@pytest.fixture(scope="module")
def begun(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the last of these seeds, and of half the updates."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train(data, folder, [1], 4)
    return folder


@pytest.fixture(scope="module")
def halves(data: Dataset, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with more updates, and its new seed trained, but not joined."""
    folder = tmp_path_factory.mktemp("halves") / "run"
    shutil.copytree(begun, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds_added, "join", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(data, folder, 2, 8)
    return folder


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def check_equal(run: jp.Run, expected: jp.Run) -> None:
    """The same rows, byte for byte, and the same parameters."""
    assert run.workdir is not None and expected.workdir is not None
    for name in ROWS:
        assert (run.workdir / name).read_bytes() == (expected.workdir / name).read_bytes(), name
    jax.tree.map(np.testing.assert_array_equal, run.state, expected.state)
    assert run.seeds == expected.seeds and run.scores == expected.scores
    results = [json.loads((x.workdir / "result.json").read_text()) for x in (run, expected)]  # type: ignore[operator]
    for result in results:
        for other in ("wall_seconds", "updates_per_second", "versions"):
            result.pop(other)
    assert results[0] == results[1]


def test_more_updates_and_more_seeds_in_one_call(
    data: Dataset, whole: jp.Run, halves: Path, tmp_path: Path
) -> None:
    """Interrupted before the new seed has joined: the half that is there is a whole run by then."""
    shutil.copytree(halves, tmp_path / "run")
    there = jp.load_run(tmp_path / "run")
    assert there.seeds == (1,) and there.step == 8
    assert there.scores["actor"][1] == whole.scores["actor"][1]
    run = train(data, tmp_path / "run", 2, 8)
    check_equal(run, whole)
    hidden = [entry.name for entry in (tmp_path / "run").iterdir() if entry.name.startswith(".")]
    assert hidden == [".lock"]
    told = json.loads((tmp_path / "run" / "config.json").read_text())["changes"]
    assert told == [
        {"field": "train_steps", "from": 4, "to": 8},
        {"field": "seeds", "from": [1], "to": [0, 1]},
    ]
    assert jp.load_run(tmp_path / "run").seeds == (0, 1)


class Killed(BaseException):
    """The process is gone."""


def die_at(patch: pytest.MonkeyPatch, at: int) -> None:
    """Has the process die in front of file operation `at`."""
    done = [0]

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if done[0] == at:
                raise Killed
            done[0] += 1
            return function(*args, **kwargs)

        return call

    for place, name in ((os, "replace"), (Path, "rename"), (Path, "unlink")):
        patch.setattr(place, name, watched(getattr(place, name)))
    remove = shutil.rmtree

    def in_two_steps(path: Path) -> None:
        watched(lambda: [x.unlink() for x in files(path)[::2]])()
        watched(remove)(path)

    patch.setattr(shutil, "rmtree", in_two_steps)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_kill_at_any_operation_while_seeds_join(
    data: Dataset, whole: jp.Run, halves: Path, tmp_path: Path
) -> None:
    """Until `complete` is written the two parts stay as they are; then all is put in place."""
    jobs = []
    for path, seeds in ((halves, (1,)), (halves / ADDED, (0,)), (halves, (0, 1))):
        choice = jp.runs.train._requested(
            "td3_bc", data, seeds, "", False, FIELDS | {"train_steps": 8}
        )
        jobs.append(prepare.prepare(choice, path)[0])
    staged = tmp_path / "staged"
    shutil.copytree(halves, staged)
    moved = [job._replace(path=staged / (ADDED if job is jobs[1] else "")) for job in jobs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds_added, "finish", lambda _: None)
        seeds_added.join(*moved)
    assert workdir.is_joining(staged)
    with pytest.raises(jp.LoadError, match="run its command again"):
        jp.load_run(staged)
    at, died = 0, True
    while died:
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(staged, folder)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, at)
            try:
                seeds_added.finish(folder)
                died = False
            except Killed:
                pass
        seeds_added.finish(folder)
        assert not (folder / JOINED).exists() and not (folder / ADDED).exists()
        for name in ROWS:
            assert (folder / name).read_bytes() == (whole.workdir / name).read_bytes()  # type: ignore[operator]
        assert json.loads((folder / "config.json").read_text())["run"]["seeds"] == [0, 1]
        if at % 8 == 0 or not died:
            jax.tree.map(np.testing.assert_array_equal, jp.load_run(folder).state, whole.state)
        shutil.rmtree(folder)
        at += 1
    assert at > 15
    # Before that, nothing is touched.
    (staged / JOINED / workdir.COMPLETE).unlink()
    seeds_added.finish(staged)
    assert jp.load_run(staged).seeds == (1,) and (staged / ADDED / "result.json").exists()


def test_more_episodes_play_the_last_policies_again(
    data: Dataset, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a kill between the rows that go and the config that says so."""
    shutil.copytree(begun, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "write_json", _interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train(data, tmp_path / "run", [1], 4, eval_episodes=2, keep=1)
    run = train(data, tmp_path / "run", [1], 4, eval_episodes=2, keep=1)
    check_equal(run, train(data, tmp_path / "with-two", [1], 4, eval_episodes=2))
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["run"]["eval_episodes"] == 2 and about["run"]["keep"] == 1
    with pytest.raises(jp.WorkdirError, match="eval_episodes: 2 in the folder, 1 requested"):
        train(data, tmp_path / "run", [1], 4)


@pytest.mark.parametrize(
    ("seeds", "steps", "more", "message"),
    [
        (
            [1],
            3,
            {},
            "train_steps: 4 in the folder, 3 requested: a run takes more updates, not fewer",
        ),
        ([0], 4, {}, r"seeds: \[1\] in the folder, \[0\] requested"),
        ([0, 2], 4, {}, r"seeds: \[1\] in the folder, \[0, 2\] requested"),
        ([0, 1], 4, {"alpha": 1.0}, "alpha: 160.0 in the folder, 1.0 requested"),
        ([1], 4, {"batch_size": 8}, "batch_size: 16 in the folder, 8 requested"),
        ([1], 4, {"eval_seed": 3}, "eval_seed: 10000 in the folder, 3 requested"),
    ],
)
def test_what_changes_the_meaning_of_what_is_there_is_refused(
    data: Dataset, begun: Path, seeds: list[int], steps: int, more: dict[str, Any], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in files(begun) if path.name != ".lock"}
    with pytest.raises(jp.WorkdirError, match=message):
        train(data, begun, seeds, steps, **more)
    assert {x: x.stat().st_mtime_ns for x in files(begun) if x.name != ".lock"} == before


def test_a_schedule_that_ends_with_the_updates_is_named() -> None:
    """An actor's cosine over 4 updates is another one than over 8, and without one they agree."""
    spec = Spec.of(episodes(32, 8, 3, 2))

    def made(steps: int, decays: bool) -> Method:
        config = td3_bc.Config(
            actor_hidden=(4,), critic_hidden=(4,), train_steps=steps, actor_decays=decays
        )
        return MAKE(config, spec)

    changes.check_extension(made(4, False), made(8, False), spec)
    with pytest.raises(
        changes.CannotExtend, match="phase 'train' depends on its number of updates"
    ):
        changes.check_extension(made(4, True), made(8, True), spec)


def test_a_run_of_an_older_release_lacks_bookkeeping_only(tmp_path: Path) -> None:
    """A field that the older release did not have is no obstacle where it is bookkeeping."""
    now = {"run": {"seeds": [0], "gamma": 0.9, "keep": 2, "eval_every": 5}}
    before = {"run": {"seeds": [0], "gamma": 0.9, "clip_actions": False, "holdout": 0.0}}
    workdir.write_json(tmp_path / "config.json", before)
    assert changes.adopt(tmp_path, now, ("run",)) == (0,)
    found = workdir.read_json(tmp_path / "config.json")
    assert found["run"] == renamed.ADDED | before["run"] | now["run"]
    with pytest.raises(jp.WorkdirError, match=r"gamma: 0\.9 in the folder, 0\.8 requested"):
        changes.adopt(tmp_path, {"run": now["run"] | {"gamma": 0.8}}, ("run",))


def test_a_preset_is_a_name_whose_fields_are_compared(tmp_path: Path) -> None:
    """A run of an older release goes on by the preset that it had; by the other it is refused."""
    run = {"algo": "td3_bc", "dataset": "hopper/medium-v0", "seeds": [0], "reward": "affine"}
    workdir.write_json(tmp_path / "config.json", {"run": run})
    before = (tmp_path / "config.json").read_bytes()
    assert changes.adopt(tmp_path, {"run": run | {"preset": "cpu"}}, ("run",)) == (0,)
    assert (tmp_path / "config.json").read_bytes() == before
    other = run | {"preset": "default", "reward": "range"}
    told = "preset: 'cpu' in the folder, 'default' requested; reward: 'affine' in the folder"
    with pytest.raises(jp.WorkdirError, match=told):
        changes.adopt(tmp_path, {"run": other}, ("run",))
    assert changes.adopt(tmp_path, {"run": run | {"preset": "default"}}, ("run",)) == (0,)
    assert workdir.read_json(tmp_path / "config.json")["run"]["preset"] == "default"
