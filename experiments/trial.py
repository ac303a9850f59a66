"""What is trained, on what, where: made once from the command line, read by everything after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from experiments.config import RunConfig
from jaxrl_prefs import ensemble
from jaxrl_prefs.data import Dataset
from jaxrl_prefs.method import Method


class Trial(NamedTuple):
    """A method on a dataset with its seeds on their devices, and the folder that it is kept in."""

    path: Path
    config: RunConfig
    method: Method
    dataset: Dataset
    mesh: Mesh

    @property
    def steps(self) -> int:
        """Updates of all phases."""
        return sum(phase.steps for phase in self.method.phases)


def mesh_for(seeds: int, devices: Sequence[Any]) -> Mesh:
    """The fewest devices on which `seeds` take as few rounds as on all of `devices`."""
    rounds = math.ceil(seeds / len(devices))
    return ensemble.seed_mesh(devices[: math.ceil(seeds / rounds)])
