"""The exceptions that users see. Each message names what is wrong and the remedy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

SWITCHES = ("overwrite", "trust_env")  # flags that are True in Python


class DataError(ValueError):
    """A dataset that cannot be used; the message names the fault and what to do about it."""


class ConfigError(ValueError):
    """A setting that cannot be applied; the message names the field and what it takes."""


class WorkdirError(Exception):
    """A folder that this run cannot use; the message names it and says what to do."""


class CheckpointError(OSError):
    """A checkpoint cannot be written, or none can be read; the message says which and why."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint is whole, but holds another tree than the one asked for."""


class NonFiniteError(ArithmeticError):
    """A NaN or an infinity in a metric, or in the state itself (`metric` is "state.<field>").

    `seed` is None in a phase that all seeds share. `step` is the update's number in its phase; the
    state is looked at once per chunk, so there it is the chunk's last update.
    """

    def __init__(self, seed: int | None, phase: str, step: int, metric: str) -> None:
        super().__init__(seed, phase, step, metric)
        self.seed, self.phase, self.step, self.metric = seed, phase, step, metric

    def __str__(self) -> str:
        who = "all seeds" if self.seed is None else f"seed {self.seed}"
        return (
            f"{self.metric} is NaN or infinite: {who}, phase {self.phase!r}, step {self.step}. "
            "Training stops; a lower learning rate or a gradient clip may help."
        )


class EvaluationError(ValueError):
    """An environment that failed, or showed a NaN, while a policy played in it; the message names
    policy, seed, episode and step. The training is not at fault, and may go on."""


class LoadError(ValueError):
    """A folder from which no policy can be loaded, or a policy that the run does not have."""


@contextlib.contextmanager
def restated() -> Iterator[None]:
    """Restates errors, which speak of a command's flags, in terms of Python's arguments."""
    try:
        yield
    except (ConfigError, DataError, WorkdirError) as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(message: str) -> str:
    """A message with flags as Python's arguments.

    >>> in_python("--env=none trains without one; --overwrite starts again; give another --workdir")
    'env=None trains without one; overwrite=True starts again; give another workdir'
    """

    def argument(flag: re.Match) -> str:
        name, value = flag[1], flag[2]
        if name in SWITCHES:
            return f"{name}=True"
        if name == "env" and value == "none":
            return "env=None"
        return name if value is None else f"{name}={value}"

    return re.sub(r"--([a-z]\w*)(?:=([^\s;,()]*[^\s;,().:]))?", argument, message)
