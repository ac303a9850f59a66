"""Carries out a requested run: data, configs, workdir, training, result."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxrl_prefs import data
from jaxrl_prefs.data import Dataset, PreparedDataset, layout, parity
from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.errors import ConfigError, WorkdirError
from jaxrl_prefs.evaluation import rollout
from jaxrl_prefs.method import Method
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.parallel import devices, processes
from jaxrl_prefs.runs import (
    changes,
    config,
    curves,
    fingerprints,
    fit,
    ledger,
    load,
    memory,
    overrides,
    renamed,
    seeds_added,
    settings,
    statistics,
    warm_start,
    workdir,
)
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.job import Job, mesh_for
from jaxrl_prefs.runs.methods import bound
from jaxrl_prefs.runs.sinks import Logger
from jaxrl_prefs.runs.workdir import (
    ADDED,
    CONFIG,
    EVALUATIONS,
    INIT,
    NO_ENV,
    RESULT,
    TIMINGS,
    Rows,
)
from jaxrl_prefs.training import sweep
from jaxrl_prefs.types import Spec

COMPARED = ("run", "method", "sweep", "data", "init")
PACKAGES = (
    *("jaxrl-prefs", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("gymnasium", "gymnasium-robotics", "mujoco", "mujoco-mjx", "minari"),
)
OGBENCH = ("ogbench", "dm_control")  # where its data or its tasks are used


Points = Sequence[Mapping[str, str]]


def train_in(
    choice: Choice,
    path: Path,
    console: Console,
    *,
    overwrite: bool,
    loggers: Sequence[Logger] = (),
) -> Job:
    """Trains in the workdir `path`, or resumes there, until result.json is written.

    Returns what was trained. The command line and `train` both come here.

    Raises:
        ConfigError, DataError, WorkdirError: for errors that the user can correct.
        NonFiniteError, OSError: as `fit.run`.
    """
    job, about = prepare(choice, path)
    complete(job, about, console, overwrite=overwrite, loggers=loggers)
    return job


def complete(
    job: Job,
    about: dict[str, Any],
    console: Console,
    *,
    overwrite: bool,
    loggers: Sequence[Logger] = (),
) -> None:
    """Trains or resumes what `prepare` returned, until result.json is written.

    With several processes, only the leader writes to the workdir; the others write to a temporary
    folder and print nothing. Raises as `train_in`.
    """
    path = job.path
    _check_same_run(about)

    def open_workdir() -> tuple[tuple[int, ...], bool]:
        stack.enter_context(workdir.claim(path))
        if overwrite:
            workdir.clear(path)
        seeds_added.finish(path)
        _check_layout(path, about)
        seeds = changes.adopt(path, about, COMPARED, lambda fields: _check_extension(job, fields))
        _note_other_versions(path, about["versions"], console)
        return seeds, workdir.is_finished(path)

    with contextlib.ExitStack() as stack:
        seeds, finished = processes.run_on_leader(open_workdir)
        new = tuple(seed for seed in job.config.seeds if seed not in seeds)
        there = _of_seeds(job, about, seeds) if new else (job, about)
        if finished and not new:
            line(console, f"{path} is finished; --overwrite starts again")
        if not finished:
            _train(*there, console, loggers)
        if new:
            line(console, f"seeds {', '.join(map(str, new))} are added to {path}")
            part, told = _of_seeds(job, about, new)
            # On as many devices as all seeds together would have.
            part = part._replace(path=path / ADDED, mesh=job.mesh)
            complete(part, told, console, overwrite=False, loggers=loggers)
            seeds_added.join(there[0], part, job)
            processes.run_on_leader(lambda: _conclude(path, console))


def _train(job: Job, about: Mapping[str, Any], console: Console, loggers: Sequence[Logger]) -> None:
    """Trains a job in its claimed folder, from wherever it stands to result.json."""
    path = job.path
    with contextlib.ExitStack() as stack:
        if not processes.is_leader():
            console = Console(quiet=True)
            job = job._replace(path=Path(stack.enter_context(tempfile.TemporaryDirectory())))
        line(console, _headline(job))
        line(console, f"settings: {about['settings']}")
        on_cpu = job.mesh.devices.flat[0].platform == "cpu"
        smaller = settings.cpu_note(job.config) if on_cpu else ""
        notes = job.dataset.recording.notes
        for note in (smaller, *notes, _lacking(job.dataset.recording)):
            if note:
                line(console, note)
        fit.run(job, console, loggers)
        processes.run_on_leader(lambda: _conclude(path, console))


def _of_seeds(
    job: Job, about: Mapping[str, Any], seeds: Sequence[int]
) -> tuple[Job, dict[str, Any]]:
    """A job with its config.json, of other seeds."""
    config = dataclasses.replace(job.config, seeds=tuple(seeds))
    mesh = mesh_for(len(seeds) * max(1, len(job.points)), devices.found())
    told = {**about, "run": {**about["run"], "seeds": tuple(seeds)}}
    if init := about["init"]:
        digests = {seed: x for seed, x in init["sha256"].items() if int(seed) in seeds}
        told["init"] = {**init, "sha256": digests}
    return job._replace(config=config, mesh=mesh), told


def _check_extension(job: Job, fields: Mapping[str, Any]) -> None:
    """Raises CannotExtend if a run with other fields of the method cannot be trained further."""
    try:
        before = load.config_of(job.module.Config, fields)
        method = _make(job.module, before, job.dataset, job.points, job.config)
    except (ValueError, TypeError) as error:  # fields that this version does not take
        raise changes.CannotExtend from error
    changes.check_extension(method, job.method, job.dataset.spec)


def _check_layout(path: Path, about: Mapping[str, Any]) -> None:
    """Refuses to go on with data of other columns or bounds, naming the first that differs."""
    if not (path / CONFIG).exists():
        return
    found = workdir.read_json(path / CONFIG)
    if found.get("layout") is None:  # of an older release
        return
    expected = layout.from_json(found["layout"], str(path / CONFIG))
    given = layout.from_json(about["layout"], about["data"]["name"])
    names = f"the run in --workdir={path}", about["data"]["name"]
    layout.check(expected, given, names)


def _check_same_run(about: Mapping[str, Any]) -> None:
    """Refuses, in every process, to train a run that not all of them were asked for."""
    first, *others = processes.gathered({name: about[name] for name in COMPARED})
    for number, other in enumerate(others, start=1):
        found = [x for x in workdir.differences(other, first, COMPARED) if x[1] != "log"]
        if found:
            told = "; ".join(f"{name}: {x!r} there, {y!r} in process 0" for _, name, x, y in found)
            raise WorkdirError(
                f"process {number} was given a different run from process 0 ({told}); give every "
                "process the same command and the same data"
            )


def prepare(choice: Choice, path: Path, points: Points = ()) -> tuple[Job, dict[str, Any]]:
    """Loads the data and makes the method; returns what to train and the content of config.json.

    Args:
        choice: the command line.
        path: the workdir, which is not touched.
        points: of a sweep, each trained with every seed: {field of the method: value as text}, of
            real numbers, the same fields in every point.

    Raises:
        ConfigError, DataError: for errors that the user can correct.
        sweep.NotSweepable: if members that train together cannot differ in these fields.
    """
    if config.requested(choice).deterministic:
        devices.make_deterministic()
    found = devices.found()
    recording = _load(choice, path)
    _check_trusted(recording)
    parity.check(recording)
    run_config, method_config = config.resolve(
        choice, recording.name, recording.family, recording.named_env
    )
    dataset = data.split(data.prepare(recording, run_config.processing), run_config.holdout)
    dataset = data.multi_step(dataset, run_config.n_step, run_config.chunk)
    try:
        numbers = [_numbers(choice.module, point, dataset) for point in points]
        method = _make(choice.module, method_config, dataset, numbers, run_config)
    except sweep.NotSweepable:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _check_rewards(choice, method, dataset)
    if not any(phase.steps for phase in method.phases):
        raise ConfigError("every phase has 0 steps: nothing to train")
    mesh = mesh_for(len(run_config.seeds) * max(1, len(points)), found)
    streamed = memory.streamed(dataset.transitions, mesh)
    job = Job(
        path,
        run_config,
        method,
        dataset,
        mesh,
        tuple(numbers),
        streamed,
        module=choice.module,
        fields=dataclasses.asdict(method_config),
        donors=choice.donors,
    )
    about = _config_record(job, method_config)
    # Kept to read the data again; not compared, for the checksum of the data is.
    about["hints"] = choice.hints.given if choice.hints and choice.data is None else {}
    about["init"] = processes.run_on_leader(lambda: warm_start.given(choice.init, path, job, about))
    return job, about


def _check_rewards(choice: Choice, method: Method, dataset: PreparedDataset) -> None:
    """Refuses to learn from rewards that were not recorded."""
    if dataset.recording.has_rewards or not method.uses_rewards:
        return
    others = [
        name
        for name, module in METHODS.items()
        if not module.make(module.Config(), dataset.spec).uses_rewards
    ]
    remedy = "name their column (--reward_key)"
    if dataset.recording.family == "ogbench":
        remedy = f"name a single task ({ogbench_names.example(dataset.recording.name)})"
    raise ConfigError(
        f"{dataset.recording.name} has no rewards, from which {choice.algo} learns: {remedy}, or "
        f"take a method that uses none: {', '.join(others)}"
    )


def _env_at_start(path: Path) -> str:
    """The environment that --env named when the run in a folder was started; empty for none.

    Not one that would import a module: a folder does not choose what code runs.
    """
    try:
        return workdir.usable_env(workdir.read_json(path / CONFIG)["run"]["env"])
    except (OSError, WorkdirError, LookupError, TypeError):
        return ""


def _check_trusted(recording: Dataset) -> None:
    """Raises ConfigError if the dataset's environment may not be created.

    The run would end without its evaluation.
    """
    if recording.refused is None:
        return
    trust = "--trust_env creates it, running the code it names; "
    raise ConfigError(
        f"{recording.name} names an environment that is {recording.refused}. "
        f"{trust if recording.refused.trust_helps else ''}--env=ID (or --env=my_module:ID) "
        "evaluates in an environment of your choice; --env=none trains without one"
    )


def _load(choice: Choice, path: Path) -> Dataset:
    """The dataset with the environment that was asked for.

    The leader loads a dataset first, because that may generate or download it. With --env=none, a
    resumed run still uses the action bounds of the environment it was started with.
    """
    named = "" if choice.make_env else choice.env
    if choice.env == NO_ENV:
        named = processes.run_on_leader(lambda: _env_at_start(path))
    found = [] if choice.data is None else [choice.data]

    def load() -> Dataset:
        return data.load(choice.dataset, env=named, trust_env=choice.trust_env, hints=choice.hints)

    if not found:
        processes.run_on_leader(lambda: found.append(load()))
    recording = found[0] if found else load()
    if choice.env == NO_ENV:
        return recording.with_env(None)
    if choice.make_env is not None:
        return recording.with_env(choice.make_env)
    return recording if choice.data is None or not named else recording.with_env(named)


def _numbers(module: Any, point: Mapping[str, str], dataset: PreparedDataset) -> dict[str, float]:
    """Reads a point's values as numbers.

    Text that stands for a number (such as TD3-BST's kernel scale) is read with the data's Spec.
    """
    readers = overrides.number_readers(module.Config)
    whole = sweep.lengths(module.Config)
    return {
        name: float(readers[name](text, dataset.spec))
        if name in readers
        else float(overrides.parse(name, text, int if name in whole else float))
        for name, text in point.items()
    }


def _make(
    module: Any,
    method_config: Any,
    dataset: PreparedDataset,
    points: Sequence[Mapping[str, float]],
    run: config.RunConfig,
) -> Method:
    spec, fields_of_run = dataset.spec, dataclasses.asdict(run)

    def make(fields: Any, spec: Spec) -> Method:
        return bound(module, fields, spec, fields_of_run)

    if not points:
        return make(method_config, spec)
    # Any point may hold an invalid value.
    made = [make(sweep.with_settings(method_config, point), spec) for point in points]
    if len({tuple(phase.name for phase in each.phases) for each in made}) > 1:
        raise sweep.NotSweepable("which phases there are depends on a setting")
    return sweep.vary(make, sweep.longest(method_config, points), spec, tuple(points[0]))


def _config_record(job: Job, method_config: Any) -> dict[str, Any]:
    """The content of config.json."""
    recording, dataset = job.dataset.recording, job.dataset
    return {
        "run": dataclasses.asdict(job.config),
        "method": dataclasses.asdict(method_config),
        "sweep": {name: [p[name] for p in job.points] for name in job.settings},
        "data": {
            "name": recording.name,
            "family": recording.family,
            "rows": dataset.spec.size,
            "sha256": fingerprints.of(dataset),
            "env": recording.task.env_id if recording.task else "",
            "score_kind": recording.score_kind,
            "references": recording.references,
            "reference_source": recording.reference_source,
            "score": recording.own_score,
        },
        "layout": layout.to_json(layout.of(recording)),
        "recorded_with": recording.task.recorded_with if recording.task else (),
        "settings": settings.describe(
            job.config, method_config, recording.family, recording.named_env, job.settings
        ),
        "steps": job.steps,
        "release": load.describe(dataset.spec, dataset.observation, dataset.action),
        "versions": _versions(job),
    }


def _versions(job: Job) -> dict[str, Any]:
    devices = job.mesh.devices.ravel()
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *(OGBENCH if job.dataset.by_success else ())):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    backend = rollout.chosen_backend(job.config.eval_backend, job.dataset, job.mesh)
    return found | {
        "git": _revision(),
        "platform": platform.platform(),
        "evaluation": backend if job.dataset.recording.task else "",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "precision": job.config.precision,
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
    if str(before.get("devices", "")).endswith("cpu"):  # elsewhere earlier releases used JAX's own
        before = {"precision": "float32"} | before
    changed = [name for name in versions if before.get(name) != versions[name] and name != "git"]
    if changed:
        found = f"{path} was started with other versions or devices ({', '.join(changed)})"
        line(console, f"{found}: results may differ in rounding")


def _lacking(recording: Dataset) -> str:
    """Says which wrappers of the recorded environment the evaluation lacks; empty if none."""
    task = recording.task
    if task is None or not task.without:
        return ""
    names = ", ".join(task.without)
    return (
        f"{task.env_id} is evaluated without the recorded wrapper(s) {names}: their arguments "
        "were not recorded, so they cannot be recreated"
    )


def _headline(job: Job) -> str:
    run_config, recording = job.config, job.dataset.recording
    place = f"evaluated in {recording.task.env_id}" if recording.task else "without an environment"
    length = job.dataset.action_chunk.length
    rows = f"{job.dataset.spec.size} "
    rows += "transitions" if length == 1 else f"chunks of {length} actions"
    if job.dataset.held_out is not None:
        rows += f" and {len(job.dataset.held_out.reward)} held out"
    return (
        f"{run_config.algo} on {recording.name} ({rows}, {place}), "
        f"seeds {', '.join(map(str, run_config.seeds))}, {job.mesh.devices.size} device(s)"
    )


def _conclude(path: Path, console: Console) -> None:
    """Writes result.json, the mark of a finished run, and draws its curves."""
    evaluations = list(Rows(path / EVALUATIONS))
    about = renamed.present(workdir.read_json(path / CONFIG))
    if about["data"]["env"] and (not evaluations or evaluations[-1]["step"] != about["steps"]):
        raise WorkdirError(
            f"{path / EVALUATIONS} {'is missing' if not evaluations else 'lacks its last rows'}, "
            f"those of update {about['steps']}; put back a copy of it"
        )
    result = statistics.result(about, evaluations, Rows(path / TIMINGS))
    if lost := ledger.lost(path, about["steps"]):
        result["lost_rows"] = lost
    if (path / INIT).exists():
        result["init"] = workdir.read_json(path / INIT)
    workdir.write_json(path / RESULT, result)
    curves.redraw(path, console)


def report(path: Path, console: Console) -> None:
    """Prints what result.json says, in the leader of several processes; the others wait for it."""
    if processes.is_leader():
        _show(path, console)
    processes.barrier()  # a process that finishes early waits, up to a time limit


def _show(path: Path, console: Console) -> None:
    summary = workdir.read_json(path / RESULT)
    if summary["policies"]:
        statistics.show(console, summary)
    elif summary["env"] and not summary.get("points"):
        line(console, f"{path / EVALUATIONS} was missing when the run ended: no scores")
    elif not summary.get("points"):
        line(
            console,
            "trained, but not evaluated: there is no environment (--env=ID names one); "
            f"jaxrl-prefs evaluate --run={path} estimates the policies from the data",
        )
    if lost := summary.get("lost_rows"):
        line(console, ledger.describe(lost))
    phases = summary["updates_per_second"].items()
    speed = ", ".join(f"{phase} {rate:.3g}" for phase, rate in phases)
    line(console, f"updates per second of each seed: {speed}")
    line(console, f"everything is in {path}")
