"""Behaviour-regularised offline reinforcement learning in JAX.

    import jaxrl_prefs as jp

    data = jp.load_dataset("pendulum-mixed")
    run = jp.train("td3_bc", data, seeds=5, workdir="runs/mine", train_steps=20_000)
    run.scores                                        # {policy: {seed: score}}
    action = run.policy(seed=3)(observation)

Below are the names that a program of yours needs; what trains, evaluates and writes files is
imported at its first use, so `import jaxrl_prefs` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxrl_prefs.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    LoadError,
    NonFiniteError,
    WorkdirError,
)
from jaxrl_prefs.method import Method, Phase, Policy
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.types import Net, Spec, Transition

if TYPE_CHECKING:
    from jaxrl_prefs.data import Dataset, PreparedDataset, Processing, load_dataset, prepare
    from jaxrl_prefs.environments.task import Task
    from jaxrl_prefs.runs.config import RunConfig
    from jaxrl_prefs.runs.evaluate import Evaluation, evaluate
    from jaxrl_prefs.runs.exported import ExportedPolicy, load_policy
    from jaxrl_prefs.runs.load import load_run
    from jaxrl_prefs.runs.run import Run
    from jaxrl_prefs.runs.sinks import Logger
    from jaxrl_prefs.runs.train import train

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dataset",
    "Evaluation",
    "ExportError",
    "ExportedPolicy",
    "LoadError",
    "Logger",
    "Method",
    "Net",
    "NonFiniteError",
    "Phase",
    "Policy",
    "PreparedDataset",
    "Processing",
    "Run",
    "RunConfig",
    "Spec",
    "Task",
    "Transition",
    "WorkdirError",
    "__version__",
    "evaluate",
    "load_dataset",
    "load_policy",
    "load_run",
    "prepare",
    "train",
]

_LATER = {  # name -> where it is, imported when it is first asked for
    "Dataset": ("jaxrl_prefs.data", "Dataset"),
    "Evaluation": ("jaxrl_prefs.runs.evaluate", "Evaluation"),
    "ExportedPolicy": ("jaxrl_prefs.runs.exported", "ExportedPolicy"),
    "Logger": ("jaxrl_prefs.runs.sinks", "Logger"),
    "PreparedDataset": ("jaxrl_prefs.data", "PreparedDataset"),
    "Processing": ("jaxrl_prefs.data", "Processing"),
    "Run": ("jaxrl_prefs.runs.run", "Run"),
    "RunConfig": ("jaxrl_prefs.runs.config", "RunConfig"),
    "Task": ("jaxrl_prefs.environments.task", "Task"),
    "evaluate": ("jaxrl_prefs.runs.evaluate", "evaluate"),
    "load_dataset": ("jaxrl_prefs.data", "load_dataset"),
    "load_policy": ("jaxrl_prefs.runs.exported", "load_policy"),
    "load_run": ("jaxrl_prefs.runs.load", "load_run"),
    "prepare": ("jaxrl_prefs.data", "prepare"),
    "train": ("jaxrl_prefs.runs.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _LATER[name]
    found = getattr(importlib.import_module(module), own)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
