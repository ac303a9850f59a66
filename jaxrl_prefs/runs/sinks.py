"""Loggers: what reads a run's rows besides its JSONL files.

A run always writes metrics.jsonl and evaluations.jsonl (recorder.py). `--log=tensorboard,wandb`
adds the loggers below by name, and `loggers=[...]` in Python adds any object with the three methods
of `Logger`:

    class Printer:
        def start(self, folder, config, step):
            print("training", config["run"]["algo"], "from update", step)

        def write(self, rows):
            print(scalars(rows))

        def close(self):
            print("done")

A new logger for the command line is a class here and a line in LOGGERS.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs.workdir import (
    CONFIG,
    EVALUATIONS,
    EVENTS,
    METRICS,
    Rows,
    read_json,
    write_json,
)

Row = Mapping[str, Any]


class Logger(Protocol):
    """Reads a run's rows while it trains. Only the leader of several processes has loggers."""

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Called once, before the first row.

        Args:
            folder: the run's folder; files of the logger's own go into a folder inside.
            config: the content of config.json: `run`, `method`, `sweep`, `data`, `versions`.
            step: the last one whose rows an earlier process has written; above 0 where an
                interrupted run resumes. What it may have written beyond comes again, unchanged.
        """
        ...

    def write(self, rows: Sequence[Row]) -> None:
        """Called at every log point, with a row per seed and then a row per evaluated policy.

        Every row has `step` (updates of all phases), `phase`, `phase_step`, `seed`, and the value
        of every swept field. Rows of metrics have `metrics`, {name: number, None where it is not
        finite}; rows of evaluations have `policy`, `score` (None where the policy could not be
        played), `returns` and `lengths`, and `successes` where the environment reports success.
        """
        ...

    def close(self) -> None:
        """Called once at the end, also after an error or an interruption."""
        ...


def scalars(rows: Sequence[Row], swept: Sequence[str] = ()) -> dict[str, float]:
    """Every finite number of some rows under a name of its own; `swept` are the fields of a sweep.

    >>> scalars([{"seed": 3, "metrics": {"q": 1.5}}, {"seed": 3, "policy": "actor", "score": 90.0}])
    {'q/seed_3': 1.5, 'score/actor/seed_3': 90.0}
    >>> scalars([{"alpha": 2.5, "seed": 3, "metrics": {"q": 1.5, "v": None}}], ["alpha"])
    {'q/alpha_2.5/seed_3': 1.5}
    """
    found = {}
    for row in rows:
        member = "/".join([*(f"{name}_{row[name]:g}" for name in swept), f"seed_{row['seed']}"])
        values = row["metrics"] if "metrics" in row else {f"score/{row['policy']}": row["score"]}
        for name, value in values.items():
            if value is not None:
                found[f"{name}/{member}"] = value
    return found


class TensorBoard:
    """Writes event files below the run's folder.

    Raises:
        ConfigError: if tensorboardX is not installed.
    """

    def __init__(self) -> None:
        try:
            import tensorboardX
        except ImportError:
            raise _missing("tensorboard", "tensorboardX") from None
        self._package = tensorboardX

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Opens a file; what an earlier process wrote beyond `step` is hidden."""
        self._swept = tuple(config["sweep"])
        self._writer = self._package.SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def write(self, rows: Sequence[Row]) -> None:
        """Adds every number as a scalar."""
        for name, value in scalars(rows, self._swept).items():
            self._writer.add_scalar(name, value, rows[0]["step"])

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class WandB:
    """Sends rows to Weights & Biases; with WANDB_MODE=offline, to files for `wandb sync`.

    The project is WANDB_PROJECT, or jaxrl_prefs. A resumed run continues the same run of Weights &
    Biases, whose id is in wandb.json in the run's folder, and sends no row that has arrived. After
    a kill some may not have: those are sent from the run's JSONL files.

    Raises:
        ConfigError: if wandb is not installed.
    """

    FILE = "wandb.json"

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb", "wandb") from None
        self._package = wandb

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Starts a run of Weights & Biases, or resumes the one of an earlier process."""
        self._file, self._swept = folder / self.FILE, tuple(config["sweep"])
        known = {"id": uuid.uuid4().hex, "step": 0}  # the last step before a regular end
        self._known = read_json(self._file) if self._file.exists() else known
        write_json(self._file, self._known)
        self._run = self._package.init(
            project=os.environ.get("WANDB_PROJECT", "jaxrl_prefs"),
            id=self._known["id"],
            resume="allow",
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            settings=self._package.Settings(console="off"),  # the progress bar is no log
        )
        self._sent = max(self._known["step"], self._run.step - 1)  # run.step: its next one
        for rows in _log_points(folder, step):
            self.write(rows)

    def write(self, rows: Sequence[Row]) -> None:
        """Sends the numbers of one log point, if they were not sent before."""
        step = rows[0]["step"]
        if step > self._sent:
            self._run.log(scalars(rows, self._swept), step=step)
            self._sent = step

    def close(self) -> None:
        """Waits until everything has been sent."""
        self._run.finish()
        write_json(self._file, self._known | {"step": self._sent})


def _log_points(folder: Path, last: int) -> list[list[Row]]:
    """The rows in a run's files up to step `last`, a list for each log point."""
    found: dict[int, list[Row]] = {}
    for name in (METRICS, EVALUATIONS):
        for row in Rows(folder / name):
            if row["step"] <= last:
                found.setdefault(row["step"], []).append(row)
    return [found[step] for step in sorted(found)]


LOGGERS: dict[str, Callable[[], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Loggers:
    """Several loggers as one. One that raises while the run trains is left out from then on."""

    def __init__(self, loggers: Sequence[Logger], warn: Callable[[str], None]) -> None:
        self._loggers, self._warn = list(loggers), warn

    def start(self, folder: Path, step: int) -> None:
        """Starts all of them on the run in `folder`.

        Raises:
            ConfigError: if one cannot start a new run. A run that resumes goes on without it.
        """
        config = read_json(folder / CONFIG) if self._loggers else {}
        for logger in list(self._loggers):
            try:
                logger.start(folder, config, step)
            except Exception as error:
                if step:
                    self._drop(logger, error)
                    continue
                self._loggers = self._loggers[: self._loggers.index(logger)]
                self.close()
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(f"the logger {_name(logger)} does not start: {error}") from error

    def write(self, rows: Sequence[Row]) -> None:
        """Hands rows to all of them."""
        for logger in list(self._loggers):
            try:
                logger.write(rows)
            except Exception as error:  # whatever it is, it is not worth a run
                self._drop(logger, error)

    def close(self) -> None:
        """Closes all that are left."""
        for logger in list(self._loggers):
            try:
                logger.close()
            except Exception as error:
                self._drop(logger, error)

    def _drop(self, logger: Logger, error: Exception) -> None:
        self._loggers = [other for other in self._loggers if other is not logger]
        reason = f"{type(error).__name__}: {error}"
        self._warn(f"the logger {_name(logger)} failed ({reason}); training goes on without it")


def _name(logger: Logger) -> str:
    names = {kind: name for name, kind in LOGGERS.items()}
    return names.get(type(logger), type(logger).__qualname__)


def _missing(name: str, package: str) -> ConfigError:
    return ConfigError(f"--log={name} needs the package {package}: pip install {package}")
