"""What is trained, on what, where: made once from the command line, read by everything after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxrl_prefs.data import PreparedDataset
from jaxrl_prefs.method import Method
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs.config import RunConfig


class Job(NamedTuple):
    """A method on a dataset with its seeds on their devices, and the folder that it is kept in."""

    path: Path
    config: RunConfig
    method: Method
    dataset: PreparedDataset
    mesh: Mesh
    points: tuple[Mapping[str, float], ...] = ()  # of a sweep: each is trained with every seed
    streamed: str = ""  # why the data stay on the host; empty if they are on the devices
    module: Any = None  # the method's module
    fields: Mapping[str, Any] = {}  # of the method, without those of the points
    donors: tuple[Path, ...] = ()  # runs whose phases are taken where they are the same

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every member: point after point, all seeds."""
        return self.config.seeds * max(1, len(self.points))

    @property
    def labels(self) -> list[dict[str, Any]]:
        """What tells the members' rows apart."""
        seeds = self.config.seeds
        return [{**point, "seed": seed} for point in self.points or ({},) for seed in seeds]

    @property
    def settings(self) -> dict[str, list[float]]:
        """The value of every swept field, per member."""
        names = self.points[0] if self.points else ()
        return {name: [label[name] for label in self.labels] for name in names}

    @property
    def steps(self) -> int:
        """Updates of all phases."""
        return sum(phase.steps for phase in self.method.phases)


def mesh_for(seeds: int, devices: Sequence[Any]) -> Mesh:
    """The fewest devices on which `seeds` take as few rounds as on all of `devices`.

    Of several processes all devices, process after process: each must have a part.
    """
    if jax.process_count() > 1:
        return seed_axis.seed_mesh(sorted(devices, key=lambda x: (x.process_index, x.id)))
    rounds = math.ceil(seeds / len(devices))
    return seed_axis.seed_mesh(devices[: math.ceil(seeds / rounds)])
