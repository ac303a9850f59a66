"""Training from Python; the command `jaxrl-prefs run` takes the same path (prepare.train_in)."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxrl_prefs.data import Dataset, progress
from jaxrl_prefs.data.recording import Environment
from jaxrl_prefs.environments import task as tasks
from jaxrl_prefs.errors import ConfigError, restated
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs import config, load, prepare
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.methods import find_method, name_of
from jaxrl_prefs.runs.run import ROWS, Point, Run
from jaxrl_prefs.runs.sinks import Logger
from jaxrl_prefs.runs.workdir import NO_ENV

ARGUMENTS = {"algo": "method", "dataset": "data"}  # fields of a run -> arguments of train


def train(
    method: Any,
    data: str | Path | Dataset,
    *,
    seeds: int | Sequence[int] = 5,
    workdir: str | Path | None = None,
    env: Environment = "",
    overwrite: bool = False,
    init: str | Path | Run | None = None,
    loggers: Sequence[Logger] = (),
    trust_env: bool = False,
    **fields: Any,
) -> Run:
    """Trains a method on a dataset, all seeds at once, and returns the trained run.

    >>> import jaxrl_prefs as jp
    >>> data = jp.load_dataset("pendulum-mixed")                               # doctest: +SKIP
    >>> run = jp.train("td3_bc", data, seeds=3, train_steps=20_000)            # doctest: +SKIP
    >>> run.scores["actor"][0]                                                 # doctest: +SKIP
    >>> action = run.policy(seed=0)(observation)                               # doctest: +SKIP

    Without a `workdir` the run is kept in memory and nothing stays on the disk. With one, the same
    call resumes an interrupted run and returns a finished one at once, as `jaxrl-prefs run` does
    with the same settings, in the same folder. A call with more `seeds`, more `eval_episodes` or,
    where no schedule ends with them, more updates trains or plays what is missing.

    Training uses the devices that JAX has. If JAX has not been used in this process, each CPU core
    becomes a device. A bar shows the progress in a terminal; elsewhere nothing is printed.

    Args:
        method: a name in METHODS, a method's module, or the dotted name of a module of your own
            (see `jaxrl_prefs.method`), which is imported.
        data: a `Dataset`, or what `load_dataset` takes.
        seeds: how many (5 is 0 to 4), or which.
        workdir: the folder to keep the run in.
        env: where to evaluate: an id of Gymnasium's, a function that makes an environment, "" for
            the dataset's own environment, or None to train without evaluation.
        overwrite: start again, removing the run that is in `workdir`.
        init: the run whose behaviour model (or critic) this one begins with instead of training its
            own: a Run with a folder, or "FOLDER" or "FOLDER:phase". It has the same data, network
            sizes and seeds, and the same method or an identical phase. Without a phase, the
            method's first reusable one.
        loggers: objects that receive every row of metrics and scores, see `Logger`.
        trust_env: make the environment that the dataset names even if that runs code of the
            dataset's choice.
        fields: fields of the run (`gamma`, `eval_every`, ..., see `RunConfig`) and of the method's
            Config (`eta`, `train_steps`, ...). Fields that are not given take the dataset's
            preset, or the method's defaults; `preset="cpu"` takes small networks and few updates,
            for the datasets that have such settings.

    Raises:
        ConfigError: for an unknown method or field, and for a value that a field does not take.
        DataError: if the dataset or its environment cannot be used.
        WorkdirError: if `workdir` holds another run, or something else.
        NonFiniteError: if a seed's training diverges to NaN or infinity; checkpoints so far stay
            in `workdir`.
        OSError: if the disk refuses a file.
    """
    with restated():
        choice = _requested(method, data, seeds, env, trust_env, fields)
        choice = dataclasses.replace(choice, init=_init(init))
        config.check(choice)
        with contextlib.suppress(RuntimeError):  # JAX has its devices already
            devices.use_cores()
        console = Console(stderr=True, force_jupyter=False)
        console.quiet = not progress.has_screen(console)
        if workdir is not None:
            path = Path(workdir)
            job = prepare.train_in(choice, path, console, overwrite=overwrite, loggers=loggers)
            return _with_task(load.load_run(path, method=choice.module), job.dataset.recording)
        with tempfile.TemporaryDirectory(prefix="jaxrl_prefs-") as folder:
            path = Path(folder)
            job = prepare.train_in(choice, path, console, overwrite=False, loggers=loggers)
            run = _with_task(load.load_run(path, method=choice.module), job.dataset.recording)
            return _in_memory(run)


def _init(init: str | Path | Run | None) -> str:
    if isinstance(init, Run):
        if init.workdir is None:
            raise ConfigError("init takes a run that has a folder: train it with workdir=...")
        return str(init.workdir)
    return "" if init is None else str(init)


def _requested(
    method: Any,
    data: str | Path | Dataset,
    seeds: int | Sequence[int],
    env: Environment,
    trust_env: bool,
    fields: dict[str, Any],
) -> Choice:
    for field, argument in ARGUMENTS.items():
        if field in fields:
            raise ConfigError(
                f"{field!r} is not a field of the method: use the argument {argument!r}"
            )
    if not isinstance(data, str | Path | Dataset):
        raise ConfigError(f"data takes a name, a path or a Dataset, and got {type(data).__name__}")
    if not (env is None or isinstance(env, str) or callable(env)):
        raise ConfigError(f"env takes an id, a function or None, and got {env!r}")
    env_name = env if isinstance(env, str) else NO_ENV if env is None else tasks.name_of(env)
    return Choice(
        algo=name_of(method),
        dataset=data.name if isinstance(data, Dataset) else str(data),
        env=env_name,
        seeds=config.listed_seeds(seeds),
        assignments=(),
        trust_env=trust_env,
        values=fields,
        method=find_method(method),
        data=data if isinstance(data, Dataset) else None,
        make_env=None if env is None or isinstance(env, str) else env,
    )


def _with_task(run: Run, data: Dataset) -> Run:
    """The run with its data and the environment of its evaluation; its folder holds only names."""
    points = [dataclasses.replace(each, task=data.task, data=data) for each in _points(run)]
    return Run(points, run.workdir)


def _in_memory(run: Run) -> Run:
    """The run without its folder, which is about to be removed."""

    def detached(point: Point) -> Point:
        rows = {name: point.rows(name) for name in ROWS}
        return dataclasses.replace(point, folder=None, rows=rows.__getitem__)

    return Run([detached(point) for point in _points(run)], None)


def _points(run: Run) -> tuple[Point, ...]:
    return run._points
