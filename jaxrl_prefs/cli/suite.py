"""A suite of datasets for `compare`: what training on all costs, and whether they are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrl_prefs.cli import plan
from jaxrl_prefs.data import Dataset, ogbench_data
from jaxrl_prefs.environments import ogbench_names
from jaxrl_prefs.errors import ConfigError, DataError
from jaxrl_prefs.runs import overrides
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.estimate import duration
from jaxrl_prefs.runs.suites import SUITES, Row

STAND_IN = 512  # rows of the made-up data whose sizes are those of a suite's
PETA = 1e15
FULL = 0.99  # share of the steps that must be here

Method = tuple[str, str, tuple[str, ...]]  # its column, its name, field=value


class Cost(NamedTuple):
    """What one method costs on one of a suite's rows."""

    row: Row
    column: str  # the method, with its settings
    plan: plan.Plan  # of one task

    @property
    def flops(self) -> float:
        """Operations of all tasks and seeds."""
        return len(self.row.tasks) * self.plan.flops

    @property
    def seconds(self) -> float:
        """The time of all tasks and seeds, evaluations left out."""
        return len(self.row.tasks) * self.plan.seconds


def rows(suite: str, chosen: Sequence[str] = ()) -> tuple[Row, ...]:
    """The rows of a suite, or those of the chosen tasks and data.

    Args:
        suite: its name.
        chosen: names of single tasks, or of data for all of their tasks; none for the whole suite.

    Raises:
        ConfigError: for an unknown suite, and for what is not in it.
    """
    if suite not in SUITES:
        raise ConfigError(overrides.unknown("suite", suite, SUITES))
    found = SUITES[suite]
    if not chosen:
        return found
    data = [row.data for row in found]
    names = {*data, *(name for row in found for name in row.datasets)}
    wanted = {name: _full(name) for name in chosen}
    for given, full in wanted.items():
        if full not in names:
            message = overrides.unknown(f"dataset of {suite}", given, data)
            raise ConfigError(f"{message}; or one of their tasks, as {found[0].datasets[0]}")
    parts = (_chosen(row, [*wanted.values()]) for row in found)
    return tuple(row for row in parts if row.tasks)


def _full(name: str) -> str:
    """The name of a row's data or of one of its tasks; the default task has its number there."""
    return ogbench_names.numbered(name) if "singletask" in name else name.removesuffix("-v0")


def _chosen(row: Row, names: Sequence[str]) -> Row:
    if row.data in names:
        return row
    pairs = zip(row.tasks, row.datasets, strict=True)
    return row._replace(tasks=tuple(task for task, dataset in pairs if dataset in names))


def settings(suite: str, dataset: str, algo: str) -> tuple[str, ...]:
    """What a suite sets for a method on one of its datasets: field=value."""
    row = next(row for row in rows(suite) if dataset in row.datasets)
    return _settings(row, algo)


def _settings(row: Row, algo: str) -> tuple[str, ...]:
    return (*row.settings, *row.own.get(algo, ()))


def check_here(suite: str, chosen: Sequence[str] = ()) -> None:
    """Finds data of a suite, or of a part of it, that are missing, before anything is trained.

    Raises:
        ConfigError: naming all that are missing or cut short, and where to get the first; or that
            the package ogbench is not installed.
    """
    if not ogbench_data.installed():
        raise ConfigError(f"--suite={suite} needs the package ogbench: pip install ogbench")
    missing, remedy, found = list[str](), "", rows(suite, chosen)
    for row in found:
        name = ogbench_data.parse(row.datasets[0])
        assert name is not None
        try:
            place = ogbench_data.find(name)
            if (steps := ogbench_data.steps_in(place)) < FULL * row.transitions:
                raise DataError(f"{place} has {steps:,} of {row.transitions:,} steps: complete it")
        except DataError as error:
            missing.append(name.data)
            remedy = remedy or str(error)
    if missing:
        raise ConfigError(
            f"--suite={suite}: {len(missing)} of {len(found)} datasets are missing or incomplete "
            f"({', '.join(missing)}). The first: {remedy}. Only --dry_run needs no data; --dataset "
            "names a part of the suite"
        )


def costs(
    chosen: Sequence[Row],
    methods: Sequence[Method],
    seeds: tuple[int, ...],
    devices: int,
    rate: float,
) -> list[Cost]:
    """Plans every method on every row, on made-up data of the row's sizes.

    Args:
        chosen: rows of a suite.
        methods: each with its column and its settings, which win over the row's.
        seeds: of every run.
        devices: over how many the seeds of a run are spread.
        rate: FLOP/s that a device sustains; 0 measures here.

    Raises:
        ConfigError: as `plan.plan`.
    """
    found = []
    for row in chosen:
        for column, algo, assignments in methods:
            data = stand_in(row)
            fields = (*_settings(row, algo), *assignments)
            choice = Choice(algo, data.name, "", seeds, fields, data=data)
            planned = plan.plan(choice, devices, rate, rows=row.transitions, memory=False)
            found.append(Cost(row, column, planned))
    return found


def stand_in(row: Row) -> Dataset:
    """Made-up data of a row's numbers of observations and actions."""
    draws = np.random.default_rng(0)
    last = np.arange(STAND_IN) == STAND_IN - 1
    data = Dataset.from_arrays(
        draws.normal(size=(STAND_IN, row.observations)),
        draws.uniform(-1, 1, (STAND_IN, row.actions)),
        np.where(np.arange(STAND_IN) % 16 == 0, 0.0, -1.0),
        last,
        name=row.datasets[0],
    )
    return data._replace(family="ogbench")


def table(found: Sequence[Cost]) -> list[list[str]]:
    """The costs as text, their head first and their sum last."""
    body = [
        [
            *(each.row.data, each.column, str(len(each.row.tasks))),
            f"{sum(phase.steps for phase in each.plan.stretches):,}",
            *(f"{each.flops / PETA:.3g}", duration(each.seconds)),
        ]
        for each in found
    ]
    flops, seconds = (sum(x) for x in zip(*((c.flops, c.seconds) for c in found), strict=True))
    runs = str(sum(len(each.row.tasks) for each in found))
    total = ["all", "", runs, "", f"{flops / PETA:.3g}", duration(seconds)]
    return [["data", "method", "tasks", "updates", "PFLOP", "time"], *body, total]


def caption(seeds: int, devices: int, rate: float) -> str:
    """What the costs are of."""
    speed = f"that sustain {rate / 1e12:g} TFLOP/s each" if rate else "as fast as this one"
    idle = ""
    if devices > seeds:
        idle = f", of which {seeds} are used: runs follow each other, and a seed takes one device"
    return (
        f"{seeds} seed(s) of every task, on {devices} device(s) {speed}{idle}; evaluations left out"
    )
