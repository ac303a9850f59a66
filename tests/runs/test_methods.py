"""Methods of the user's own: by a module, or by its name; never on a folder's word."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import export, plan, run, sweep
from jaxrl_prefs.methods import bc, td3_bc
from jaxrl_prefs.runs.methods import find_method, known_method, name_of

SOURCE = '''
"""Behaviour cloning under another name."""
from jaxrl_prefs.methods.bc import Config, State, make
'''
FIELDS = {
    "actor_hidden": (8,),
    "batch_size": 16,
    "train_steps": 4,
    "log_every": 2,
    "eval_episodes": 1,
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package `their_package.their_method` below the current folder, as users have it."""
    place = tmp_path / "project"
    (place / "their_package").mkdir(parents=True)
    (place / "their_package" / "their_method.py").write_text(SOURCE)
    (place / "their_package" / "unfinished.py").write_text("Config = None\n")
    (place / "their_package" / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x])
    yield "their_package.their_method"
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


def forget(name: str) -> None:
    sys.modules.pop(name)


def test_ours_by_name_and_by_module() -> None:
    assert find_method("td3_bc") is td3_bc is find_method(td3_bc)
    assert name_of(td3_bc) == "td3_bc"
    assert known_method("td3_bc") is td3_bc and known_method("json") is None
    assert known_method(["td3_bc"]) is None and known_method("not.imported") is None


def test_a_module_of_the_users(package: str) -> None:
    module = find_method(package)
    assert module.make is bc.make and name_of(module) == package
    assert known_method(package) is module


def test_a_class_will_do() -> None:
    class Mine:
        Config, State, make = bc.Config, bc.State, staticmethod(bc.make)

    assert find_method(Mine) is Mine and name_of(Mine).endswith("Mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_package.unfinished", "'their_package.unfinished' is no method: it lacks State, m"),
        ("their_package.broken", "cannot import the method .*ZeroDivisionError"),
        ("their_package.nothing", "cannot import .*No module named.*PYTHONPATH"),
        ("nobodys.method", "cannot import .*No module named 'nobodys'"),
        ("td3-bc", "no algorithm 'td3-bc'. Did you mean 'td3_bc'.*or a module of your own"),
        ("../bc", "no algorithm"),
        ("", "no algorithm ''"),
    ],
)
def test_what_is_no_method_is_named(package: str, name: str, message: str) -> None:
    with pytest.raises(jp.ConfigError, match=message):
        find_method(name)


def test_commands_take_it(
    package: str, pendulum_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    fields = [f"--set={k}={v[0] if k == 'actor_hidden' else v}" for k, v in FIELDS.items()]
    common = [f"--algo={package}", f"--dataset={pendulum_file}", "--env=Pendulum-v1", "--seeds=1"]
    assert run.main(["run", *common, *fields, f"--workdir={folder}"]) == 0
    assert json.loads((folder / "config.json").read_text())["run"]["algo"] == package
    assert run.main(["run", *common, "--help"]) == 0
    assert "train_steps" in capsys.readouterr().out
    assert plan.main(["plan", *common, *fields, "--rate=1"]) == 0
    sweep_folder = tmp_path / "sweep"
    argv = ["sweep", *common, *fields[:1], *fields[2:], "--grid=batch_size=8,16"]
    assert sweep.main([*argv, f"--workdir={sweep_folder}"]) == 0
    loaded = jp.load_run(sweep_folder)
    assert loaded.points == [{"batch_size": 16}, {"batch_size": 8}]
    assert loaded.at({"batch_size": 16}).scores == jp.load_run(folder).scores
    # A process that has not imported it is told which module is missing.
    module = sys.modules[package]
    forget(package)
    with pytest.raises(jp.LoadError, match=rf"'{package}'.*import it first, or name it: load_run"):
        jp.load_run(folder)
    assert package not in sys.modules
    with pytest.raises(jp.LoadError, match=r"was trained by .*, not by 'bc'"):
        jp.load_run(folder, method=bc)
    one, other = (jp.load_run(folder, method=each).policy(0) for each in (module, package))
    np.testing.assert_array_equal(one(np.ones(3)), other(np.ones(3)))
    forget(package)
    target = tmp_path / "policy"
    assert export.main(["export", f"--run={folder}", f"--out={target}"]) == 2
    assert f"--algo={package}" in capsys.readouterr().err
    assert export.main(["export", f"--run={folder}", f"--out={target}", f"--algo={package}"]) == 0
    assert target.stat().st_size > 1000


def test_python_takes_the_module(package: str, pendulum_file: Path, tmp_path: Path) -> None:
    data = jp.load_dataset(pendulum_file, env="Pendulum-v1")
    module = types.ModuleType("made_up")  # as one defined in a notebook: nobody can import it
    module.Config, module.State, module.make = bc.Config, bc.State, bc.make  # type: ignore[attr-defined]
    trained = jp.train(module, data, seeds=1, env=None, workdir=tmp_path / "run", **FIELDS)
    assert trained.algo == "made_up"
    again = jp.load_run(tmp_path / "run", method=module)
    expected = trained.policy(0)(np.ones(3))
    np.testing.assert_array_equal(again.policy(0)(np.ones(3)), expected)
    # The same numbers as ours under its own name, once both have the same settings.
    settings = FIELDS | dataclasses.asdict(trained.config)
    ours = jp.train("bc", data, seeds=1, env=None, **settings)
    np.testing.assert_array_equal(ours.policy(0)(np.ones(3)), expected)
