"""From a checked choice to a report: data, configs, workdir, training, result."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments import config, curves, memory, overrides, report, training, workdir
from experiments.config import Choice
from experiments.display import line
from experiments.overrides import OverrideError
from experiments.trial import Trial, mesh_for
from experiments.workdir import (
    CONFIG,
    EVALUATIONS,
    METRICS,
    RESULT,
    TIMINGS,
    Rows,
    WorkdirError,
)
from jaxrl_prefs import arenas, data, hosts, release, settings
from jaxrl_prefs.data import Dataset, Recording, parity
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import METHODS

COMPARED = ("run", "method", "sweep", "data")
PACKAGES = (
    *("jaxrl-prefs", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("gymnasium", "gymnasium-robotics", "mujoco", "mujoco-mjx", "minari"),
)
NO_ENV = "none"


Points = Sequence[Mapping[str, str]]


def run(choice: Choice, path: Path, console: Console, *, overwrite: bool) -> None:
    """Trains or goes on training in the workdir `path`, and reports.

    Raises:
        OverrideError, DataError, WorkdirError: for what the user can put right.
        NonFinite, OSError: as `training.run`.
    """
    complete(*prepare(choice, path), console, overwrite=overwrite)
    if hosts.leads():
        _show(path, console)
    hosts.meet()  # who leaves early waits for the others, but not for ever


def complete(trial: Trial, about: dict[str, Any], console: Console, *, overwrite: bool) -> None:
    """Trains what `prepare` returned, from wherever it stands to result.json. Raises as `run`.

    Of several processes the leader has the workdir. The others write to a folder that is thrown
    away, and say nothing.
    """
    path = trial.path

    def open_workdir() -> bool:
        stack.enter_context(workdir.claim(path))
        if overwrite:
            workdir.clear(path)
        workdir.adopt(path, about, COMPARED)
        _note_other_versions(path, about["versions"], console)
        return (path / RESULT).exists()

    with contextlib.ExitStack() as stack:
        finished = hosts.led(open_workdir)
        if hosts.led(lambda: about["data"]["sha256"]) != about["data"]["sha256"]:
            raise WorkdirError("this process found other data than the leader")
        if finished:
            line(console, f"{path} is finished; --overwrite starts anew")
            return
        if not hosts.leads():
            console = Console(quiet=True)
            trial = trial._replace(path=Path(stack.enter_context(tempfile.TemporaryDirectory())))
        line(console, _headline(trial))
        if lacking := _lacking(trial.dataset.recording):
            line(console, lacking)
        training.run(trial, console)
        hosts.led(lambda: _conclude(path))


def prepare(choice: Choice, path: Path, points: Points = ()) -> tuple[Trial, dict[str, Any]]:
    """Loads the data and makes the method; returns what to train and the content of config.json.

    Args:
        choice: the command line.
        path: the workdir, which is not touched.
        points: of a sweep, each trained with every seed: {field of the method: value as text}, of
            real numbers, the same fields in every point.

    Raises:
        OverrideError, DataError: for what the user can put right.
        settings.Fixed: if the members of one ensemble cannot differ in these fields.
    """
    env = "" if choice.env == NO_ENV else choice.env
    recording = _load(choice.dataset, env, choice.trust_env)
    if choice.env == NO_ENV:
        recording = recording._replace(task=None, refused=None)
    _check_trusted(recording)
    parity.check(recording)
    run_config, method_config = config.resolve(choice, recording.name, recording.family)
    dataset = data.prepare(recording, run_config.processing)
    try:
        numbers = [_numbers(choice.algo, point, dataset) for point in points]
        method = _make(choice.algo, method_config, dataset, numbers)
    except settings.Fixed:
        raise
    except ValueError as error:
        raise OverrideError(str(error)) from error
    if not any(phase.steps for phase in method.phases):
        raise OverrideError("every phase has 0 steps: nothing to train")
    mesh = mesh_for(len(run_config.seeds) * max(1, len(points)), jax.devices())
    streamed = memory.streamed(dataset.transitions, mesh)
    if streamed and jax.process_count() > 1:
        raise OverrideError(f"{streamed}, and that is for a single process")
    trial = Trial(path, run_config, method, dataset, mesh, tuple(numbers), streamed)
    return trial, _about(trial, method_config)


def _check_trusted(recording: Recording) -> None:
    """Refuses to train for an evaluation that will not take place."""
    if recording.refused is None:
        return
    trust = "--trust_env makes it, which runs the code that it names; "
    raise OverrideError(
        f"{recording.name} names an environment that is {recording.refused}. "
        f"{trust if recording.refused.trust_helps else ''}--env=ID (or --env=my_module:ID) "
        "evaluates in an environment of your choice; --env=none trains without one"
    )


def _load(name: str, env: str, trust_env: bool) -> Recording:
    """Loads a recording, the leader first: it may have to make or download it."""
    found: list[Recording] = []

    def load() -> Recording:
        return data.load(name, env=env, trust_env=trust_env)

    hosts.led(lambda: found.append(load()))
    return found[0] if found else load()


def _numbers(algo: str, point: Mapping[str, str], dataset: Dataset) -> dict[str, float]:
    """A point's values; those of a module's NUMBERS depend on the data's sizes."""
    readers = getattr(METHODS[algo], "NUMBERS", {})
    return {
        name: float(readers[name](text, dataset.spec))
        if name in readers
        else overrides.parse(name, text, float)
        for name, text in point.items()
    }


def _make(
    algo: str, method_config: Any, dataset: Dataset, points: Sequence[Mapping[str, float]]
) -> Method:
    make = METHODS[algo].make
    if not points:
        return make(method_config, dataset.spec)
    for point in points:  # every value by itself may be one that the method refuses
        make(dataclasses.replace(method_config, **point), dataset.spec)
    first = dataclasses.replace(method_config, **points[0])
    return settings.vary(make, first, dataset.spec, tuple(points[0]))


def _about(trial: Trial, method_config: Any) -> dict[str, Any]:
    """The content of config.json."""
    recording, dataset = trial.dataset.recording, trial.dataset
    return {
        "run": dataclasses.asdict(trial.config),
        "method": dataclasses.asdict(method_config),
        "sweep": {name: [p[name] for p in trial.points] for name in trial.settings},
        "data": {
            "name": recording.name,
            "family": recording.family,
            "rows": dataset.spec.size,
            "sha256": _fingerprint(dataset),
            "env": recording.task.env_id if recording.task else "",
            "score_kind": recording.score_kind,
            "references": recording.references,
            "reference_source": recording.reference_source,
            "score": float(np.mean(recording.score(recording.returns))),
        },
        "recorded_with": recording.task.recorded_with if recording.task else (),
        "steps": trial.steps,
        "release": release.describe(dataset.spec, dataset.observation, dataset.action),
        "versions": _versions(trial),
    }


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(dataset.transitions):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _versions(trial: Trial) -> dict[str, Any]:
    devices = trial.mesh.devices.ravel()
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    backend = arenas.chosen_backend(trial.config.eval_backend, trial.dataset, trial.mesh)
    return found | {
        "git": _revision(),
        "platform": platform.platform(),
        "evaluation": backend if trial.dataset.recording.task else "",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _revision() -> str:
    """The git revision of the source, marked where files were changed; empty outside git."""
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _note_other_versions(path: Path, versions: dict[str, Any], console: Console) -> None:
    before = workdir.read_json(path / CONFIG).get("versions", {})
    changed = [name for name in versions if before.get(name) != versions[name] and name != "git"]
    if changed:
        text = f"{path} was begun with other {', '.join(changed)}: results may differ in rounding"
        line(console, text)


def _lacking(recording: Recording) -> str:
    """Says which wrappers of the recorded environment the evaluation lacks; empty if none."""
    task = recording.task
    if task is None or not task.without:
        return ""
    names = ", ".join(task.without)
    return (
        f"{task.env_id} is played without the recorded wrapper(s) {names}: their arguments were "
        "not recorded, so that nobody can make them again"
    )


def _headline(trial: Trial) -> str:
    run_config, recording = trial.config, trial.dataset.recording
    place = f"played in {recording.task.env_id}" if recording.task else "without an environment"
    return (
        f"{run_config.algo} on {recording.name} ({trial.dataset.spec.size} transitions, {place}), "
        f"seeds {', '.join(map(str, run_config.seeds))}, {trial.mesh.devices.size} device(s)"
    )


def _conclude(path: Path) -> None:
    """Draws the curves and, last of all, writes result.json: the mark of a finished run."""
    evaluations = list(Rows(path / EVALUATIONS))
    about = workdir.read_json(path / CONFIG)
    if not about["sweep"]:
        curves.draw(path / "curves.png", evaluations, Rows(path / METRICS))
    workdir.write_json(path / RESULT, report.result(about, evaluations, Rows(path / TIMINGS)))


def _show(path: Path, console: Console) -> None:
    summary = workdir.read_json(path / RESULT)
    if summary["policies"]:
        console.print(report.table(summary))
    else:
        line(console, "trained, but not evaluated: the dataset names no environment (see --env)")
    phases = summary["updates_per_second"].items()
    speed = ", ".join(f"{phase} {rate:.3g}" for phase, rate in phases)
    line(console, f"updates per second of each seed: {speed}")
    line(console, f"everything is in {path}")
