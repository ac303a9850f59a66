"""Recomputes what QAM's authors published of OGBench from their file of success rates.

    git clone https://github.com/ColinQiyangLi/qam
    python -m benchmarks.published_ogbench qam/exp_data/qam-exp-data.pkl

Prints the table `QAM` of jaxrl_prefs/runs/published_ogbench.py: for each of the 50 tasks the mean
and the sample standard deviation over 12 seeds at update 1,000,000, in per cent.

The file is a pickle of numpy arrays. It may name the three functions of numpy that rebuild an
array, and nothing else.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from jaxrl_prefs.runs.published_ogbench import METHODS
from jaxrl_prefs.runs.suites import SUITES, TASKS

REBUILD = {
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
EVALUATIONS, SEEDS = 30, 12  # one every 50,000 updates; the last ten are online
LAST = 19  # the evaluation at update 1,000,000


class Arrays(pickle.Unpickler):
    """Reads numpy arrays in lists and mappings, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """One of REBUILD."""
        if (module, name) not in REBUILD:
            raise pickle.UnpicklingError(f"the file names {module}.{name}")
        return REBUILD[module, name]


def last(curves: Mapping[Any, np.ndarray], task: str, method: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of the last evaluation before training goes online."""
    rates = curves[task, method]
    if rates.shape != (EVALUATIONS, SEEDS):
        raise ValueError(f"{method} on {task} has the shape {rates.shape}")
    percent = 100 * rates[LAST]
    return round(float(percent.mean()), 1), round(float(percent.std(ddof=1)), 1)


def main() -> None:
    """Prints the table."""
    with Path(sys.argv[1]).open("rb") as file:
        curves = Arrays(file).load()
    print(f"# {', '.join(METHODS)}")
    for row in SUITES["ogbench50"]:
        print(f'    "{row.published}": (')
        for task in TASKS:
            name = f"{row.published}-singletask-{task}-v0"
            pairs = [last(curves, name, method) for method in METHODS]
            print(f"        _task({[mean for mean, _ in pairs]}, {[std for _, std in pairs]}),")
        print("    ),")


if __name__ == "__main__":
    main()
