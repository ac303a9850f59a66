"""Loggers: what they are told, what their failure costs, and what a resumed run sends."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jaxrl_prefs.cli import run
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import changes, fit, renamed, sinks, workdir
from jaxrl_prefs.runs.sinks import Loggers
from tests.small_runs import SHORT

CONFIG = {"run": {"algo": "td3_bc"}, "sweep": {}}
ROWS = [{"step": step, "seed": 0, "metrics": {"q": float(step)}} for step in (2, 4, 6)]


class Fake:
    """Remembers its calls; raises in the method named `fails`."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, list[tuple[str, Any]]()

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        self._called("start", (folder.name, config["run"]["algo"], step))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._called("write", [dict(row) for row in rows])

    def close(self) -> None:
        self._called("close", None)

    def _called(self, name: str, what: Any) -> None:
        self.calls.append((name, what))
        if name == self.fails:
            raise OSError("the network is down")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    workdir.write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


def test_a_logger_sees_every_row_of_a_run_and_one_that_fails_costs_nothing(
    pendulum_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = Fake(), Fake("write")
    original = fit.run

    def with_loggers(job: Any, console: Console, loggers: Sequence[Any] = ()) -> None:
        original(job, console, [bad, good, *loggers])

    monkeypatch.setattr(fit, "run", with_loggers)
    fields = [f"--set={name}={value}" for name, value in SHORT.items()]
    source = [f"--dataset={pendulum_file}", "--env=Pendulum-v1"]
    argv = ["run", "--algo=td3_bc", *source, "--seeds=2", f"--workdir={tmp_path / 'run'}", *fields]
    assert run.main(argv) == 0
    out = capsys.readouterr().out
    assert out.count("logger Fake failed (OSError: the network is down); training goes on") == 1
    assert [name for name, _ in bad.calls] == ["start", "write"]
    assert good.calls[0] == ("start", ("run", "td3_bc", 0)) and good.calls[-1] == ("close", None)
    seen = [row for name, rows in good.calls if name == "write" for row in rows]
    for name in ("metrics", "evaluations"):
        lines = (tmp_path / "run" / f"{name}.jsonl").read_text().splitlines()
        key = "metrics" if name == "metrics" else "policy"
        assert [json.loads(line) for line in lines] == [row for row in seen if key in row]
        assert lines


def test_a_logger_that_does_not_start_refuses_a_new_run_and_is_left_out_of_a_resumed_one(
    folder: Path,
) -> None:
    warnings: list[str] = []
    first, bad, last = Fake(), Fake("start"), Fake()
    loggers = Loggers([first, bad, last], warnings.append)
    with pytest.raises(ConfigError, match="Fake does not start: the network is down"):
        loggers.start(folder, 0)
    assert [name for name, _ in first.calls] == ["start", "close"] and not last.calls
    loggers = Loggers([first, bad, last], warnings.append)
    loggers.start(folder, 4)
    loggers.write(ROWS)
    loggers.close()
    assert [name for name, _ in last.calls] == ["start", "write", "close"]
    assert len(warnings) == 1 and len(bad.calls) == 2


def test_a_logger_that_does_not_close_is_named(folder: Path) -> None:
    warnings: list[str] = []
    bad, good = Fake("close"), Fake()
    loggers = Loggers([bad, good], warnings.append)
    loggers.start(folder, 0)
    loggers.close()
    assert len(warnings) == 1 and good.calls[-1] == ("close", None)


def test_points_of_a_sweep_have_names_of_their_own() -> None:
    rows = [
        {"alpha": alpha, "seed": 0, "step": 2, "policy": "actor", "score": alpha}
        for alpha in (1.0, 2.5)
    ]
    expected = {"score/actor/alpha_1/seed_0": 1.0, "score/actor/alpha_2.5/seed_0": 2.5}
    assert sinks.scalars(rows, ["alpha"]) == expected


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_its_remedy(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"--log={name} needs .*: pip install {package}"):
        sinks.LOGGERS[name]()


def test_tensorboard_hides_what_is_written_again(folder: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    for start, rows in ((0, ROWS), (4, ROWS[2:])):
        logger = sinks.TensorBoard()
        logger.start(folder, CONFIG, start)
        for row in rows:
            logger.write([row])
        logger.close()
        (resumed,) = (folder / "tensorboard").glob("events*")
        if not start:
            resumed.rename(folder / "tensorboard" / "earlier")  # or one second is too short
    events = [Event.FromString(record) for record in records(resumed.read_bytes())]
    (mark,) = [event for event in events if event.session_log.status == 1]  # START
    values = [(event.step, event.summary.value[0]) for event in events if event.summary.value]
    assert mark.step == 5
    assert [(step, value.tag, value.simple_value) for step, value in values] == [
        (6, "q/seed_0", 6.0)
    ]


def records(content: bytes) -> list[bytes]:
    """The records of an event file: length (8 bytes), its checksum (4), data, checksum (4)."""
    found, place = [], 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        found.append(content[place + 12 : place + 12 + size])
        place += size + 16
    return found


class FakeWandb:
    """What the logger calls of the package wandb; remembers it."""

    def __init__(self) -> None:
        self.starts, self.sent, self.arrived = list[dict](), list[tuple[int, dict]](), 0

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **arguments: Any) -> Any:
        self.starts.append(arguments)
        return SimpleNamespace(log=self._log, finish=lambda: None, step=self.arrived)

    def _log(self, values: dict[str, float], step: int) -> None:
        self.sent.append((step, values))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def log_with_wandb(folder: Path, start: int, rows: list[dict[str, Any]], *, killed: bool) -> None:
    logger, file = sinks.WandB(), workdir.Rows(folder / "metrics.jsonl")
    file.cut(start)
    logger.start(folder, CONFIG, start)
    for row in rows:
        file.append([row])
        logger.write([row])
    if not killed:
        logger.close()


def steps(package: FakeWandb) -> list[int]:
    assert all(values == {"q/seed_0": float(step)} for step, values in package.sent)
    return [step for step, _ in package.sent]


def test_an_interrupted_run_goes_on_in_its_run_of_wandb_and_sends_no_row_twice(
    folder: Path, package: FakeWandb
) -> None:
    log_with_wandb(folder, 0, ROWS[:2], killed=False)  # interrupted after 4
    log_with_wandb(folder, 2, ROWS[1:], killed=False)  # restored at 2
    assert steps(package) == [2, 4, 6]
    one, two = package.starts
    assert one["id"] == two["id"] and one["resume"] == two["resume"] == "allow"
    assert one["config"] == CONFIG and one["dir"] == str(folder)


@pytest.mark.parametrize(("arrived", "expected"), [(0, [2, 4, 6]), (3, [4, 6]), (5, [6])])
def test_a_killed_run_sends_what_has_not_arrived(
    folder: Path, package: FakeWandb, arrived: int, expected: list[int]
) -> None:
    """`arrived` is the next step of the run of Weights & Biases, as its server tells it."""
    log_with_wandb(folder, 0, ROWS[:2], killed=True)
    package.sent.clear()
    package.arrived = arrived
    log_with_wandb(folder, 2, ROWS[1:], killed=False)
    assert steps(package) == expected


def test_two_runs_are_two_runs_of_wandb(folder: Path, package: FakeWandb) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        sinks.WandB().start(folder / name, CONFIG, 0)
    assert package.starts[0]["id"] != package.starts[1]["id"]


@pytest.mark.parametrize(("there", "log"), [(True, ["tensorboard"]), (False, [])])
def test_a_folder_of_an_earlier_release_is_read(there: bool, log: list[str]) -> None:
    about = {"run": {"algo": "bc", "tensorboard": there, "keep": 2}, "method": {}}
    found = renamed.present(about)["run"]
    assert found["log"] == log and found["keep"] == 2 and "tensorboard" not in found


def test_other_loggers_do_not_refuse_a_resume(tmp_path: Path) -> None:
    now = renamed.ADDED | {"keep": 2}
    with workdir.claim(tmp_path):
        changes.adopt(tmp_path, {"run": {"keep": 2, "tensorboard": True}}, ("run",))
    changes.adopt(tmp_path, {"run": now | {"log": ("wandb",)}}, ("run",))
    other = {"run": now, "method": {"log": 1}}  # a field of another section
    with pytest.raises(workdir.WorkdirError, match="log: 'nothing' in the folder"):
        changes.adopt(tmp_path, other, ("run", "method"))
