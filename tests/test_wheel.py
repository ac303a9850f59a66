"""What `pip install` brings: the wheel alone, outside of the clone, trains, resumes and exports."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FIELDS = {
    "actor_hidden": "8",
    "critic_hidden": "8",
    "batch_size": "16",
    "train_steps": "1200",
    "log_every": "10",
    "checkpoint_every": "10",
    "eval_episodes": "1",
}
PATIENCE = 400  # seconds until the first checkpoint
# Of the extras in pyproject.toml, and robosuite, which wants another MuJoCo (BUILD.md).
OPTIONAL = {
    *("imageio_ffmpeg", "ogbench", "onnx", "onnxruntime", "pandas", "plotly", "pyarrow", "ray"),
    *("av", "dm_control", "rliable", "robosuite", "sbx", "stable_baselines3"),
    *("tensorboardX", "wandb"),
}

Finished = subprocess.CompletedProcess[str]


class Installed(NamedTuple):
    """The unpacked wheel, and a folder to run it in."""

    wheel: Path
    packages: Path
    here: Path
    environment: dict[str, str]

    @property
    def command(self) -> list[str]:
        """`jaxrl-prefs`; -S keeps out whatever makes the checkout importable."""
        return [sys.executable, "-S", str(self.packages / "bin" / "jaxrl-prefs")]

    def run(self, *arguments: str, code: int = 0) -> Finished:
        """Runs `jaxrl-prefs` with arguments and checks its exit code."""
        return self.call([*self.command, *arguments], code)

    def python(self, source: str) -> Finished:
        """Runs a program of Python."""
        return self.call([sys.executable, "-S", "-c", source], 0)

    def call(self, command: list[str], code: int) -> Finished:
        done = subprocess.run(
            command, cwd=self.here, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr[-3000:]
        return done


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds the wheel from a copy of its sources, and installs it into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source, packages, here = (folder / name for name in ("source", "packages", "elsewhere"))
    here.mkdir()
    shutil.copytree(
        ROOT / "jaxrl_prefs",
        source / "jaxrl_prefs",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("experiments", "tests", "benchmarks"):  # there, and not to be taken along
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(source))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--no-compile", f"--target={packages}", str(wheel))
    dependencies = sysconfig.get_path("purelib")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(packages), dependencies]),
        "MINARI_DATASETS_PATH": str(folder / "datasets"),
        "MPLBACKEND": "Agg",
    }
    return Installed(wheel, packages, here, environment)


@pytest.fixture(scope="module")
def finished(installed: Installed) -> Path:
    """A run on the embedded dataset that was killed once and resumed by the same command."""
    folder = installed.here / "runs" / "mine"
    command = [
        *installed.command,
        "run",
        "--algo=td3_bc",
        "--seeds=2",
        "--workdir=runs/mine",
        *(f"--set={name}={value}" for name, value in FIELDS.items()),
    ]
    process = subprocess.Popen(
        command, cwd=installed.here, env=installed.environment, stdout=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: bool(checkpoints(folder)) or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert checkpoints(folder) and not (folder / "result.json").exists()
    resumed = installed.call(command, 0).stdout
    assert "continuing at update" in resumed
    return folder


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.05)


def test_the_wheel_holds_the_package_and_nothing_else(installed: Installed) -> None:
    inside = {name for name in zipfile.ZipFile(installed.wheel).namelist() if name.endswith(".py")}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxrl_prefs").rglob("*.py")}
    assert inside == there
    assert (installed.packages / "jaxrl_prefs" / "py.typed").exists()


def test_every_import_is_a_dependency_or_an_extra(installed: Installed) -> None:
    """In an empty environment, whatever the library imports must have come with it."""
    (metadata,) = installed.packages.glob("jaxrl_prefs-*.dist-info")
    required = importlib.metadata.Distribution.at(metadata).requires or []
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in required if "extra ==" not in line}
    provided = importlib.metadata.packages_distributions()
    for path in (installed.packages / "jaxrl_prefs").rglob("*.py"):
        for package in imported(ast.parse(path.read_text())) - OPTIONAL - {"jaxrl_prefs"}:
            if package not in sys.stdlib_module_names:
                found = {name.lower() for name in provided.get(package, ())}
                assert found & names, f"{path.name} imports {package}: no dependency brings it"


def imported(tree: ast.AST) -> set[str]:
    """The first words of everything that is imported, inside functions too."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in plain | parts}


def test_the_command_lists_its_commands(installed: Installed) -> None:
    listed = installed.run().stdout
    for name in (
        "run",
        "compare",
        "sweep",
        "table",
        "evaluate",
        "plan",
        "data",
        "export",
        "play",
        "report",
        "toy",
    ):
        (line,) = [line for line in listed.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 3
    assert "no command 'trian'" in installed.run("trian", code=2).stderr


def test_a_killed_run_resumes_to_its_end(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["algo"] == "td3_bc" and result["step"] == 1200
    rows = (finished / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows]
    assert steps[::2] == list(range(10, 1201, 10))


def test_python_loads_the_run(installed: Installed, finished: Path) -> None:
    done = installed.python(
        "import numpy, jaxrl_prefs as jp\n"
        f"run = jp.load_run({str(finished)!r})\n"
        "print(run.step, run.policy(seed=1)(numpy.float32([1, 0, 0])).shape, jp.__file__)"
    )
    step, shape, imported_from = done.stdout.split(maxsplit=2)
    assert (step, shape) == ("1200", "(1,)")
    assert Path(imported_from.strip()).is_relative_to(installed.packages)


def test_the_command_exports_the_policy(installed: Installed, finished: Path) -> None:
    installed.run("export", "--run=runs/mine")
    assert (finished / "policy.jaxexport").stat().st_size > 1000
