"""Seeds that are added to a run: trained in a folder of their own, then joined with the others.

    .added/    a run of the new seeds, which resumes like any other; removed after joining
    .joined/   the files of all seeds, while they are written; `complete` in it comes last

A kill while the files are written leaves the run as it was, and the next process writes them anew.
A kill while they are put in place leaves `complete`, and the next process puts the rest in place.
On a CPU the rows and parameters equal those of a run begun with all seeds; times differ, and
config.json lists the change.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl_prefs.errors import WorkdirError
from jaxrl_prefs.parallel import processes
from jaxrl_prefs.runs import columns, ledger, warm_start
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.job import Job
from jaxrl_prefs.runs.load import abstract_state
from jaxrl_prefs.runs.workdir import (
    ADDED,
    CHECKPOINTS,
    COLUMNS,
    COMPLETE,
    CONFIG,
    DISCARDED,
    DURATIONS,
    EVALUATIONS,
    EVENTS,
    JOINED,
    METRICS,
    PHASES,
    RESULT,
    TIMINGS,
    Rows,
    read_json,
    write_json,
    write_text,
)
from jaxrl_prefs.training import sharing

MOVED = (CHECKPOINTS, COLUMNS, PHASES, METRICS, EVALUATIONS, TIMINGS, CONFIG)
LOGS = (EVENTS, "wandb")  # folders of loggers, kept per group of seeds


class Part(NamedTuple):
    """One of the two runs that are joined."""

    job: Job
    folder: Path


def join(there: Job, added: Job, whole: Job) -> None:
    """Joins two runs that are at their end, and removes the folder of the new seeds.

    Args:
        there: the run in the folder, of the seeds that it has.
        added: the run of the new seeds, in `ADDED` below.
        whole: of all seeds, in the requested order.

    Raises:
        WorkdirError: if the parts do not fit together.
        CheckpointError, OSError: if something cannot be read or written.
    """
    folder = processes.run_on_leader(lambda: whole.path.absolute())
    parts = [Part(there, folder), Part(added, folder / ADDED)]
    staged = folder / JOINED
    order = _order(parts, whole)
    checksums = [_checksums(part) for part in parts]
    processes.run_on_leader(lambda: _stage_files(parts, staged, whole, order, checksums))
    _stage_checkpoint(parts, staged, whole, order)
    _stage_phases(parts, staged, whole)
    processes.run_on_leader(lambda: _put_in_place(folder))


def _put_in_place(folder: Path) -> None:
    write_text(folder / JOINED / COMPLETE, "")
    finish(folder)


def finish(folder: Path) -> None:
    """Puts joined files in place, or removes those that were not complete. May be repeated."""
    staged = folder / JOINED
    if not staged.exists():
        return
    if (staged / COMPLETE).exists():
        with contextlib.suppress(FileNotFoundError):
            (folder / RESULT).unlink()
        for name in MOVED:
            _move(staged / name, folder / name)
        _keep_logs(folder)
        for name in (DURATIONS, ADDED, DISCARDED):  # measured with fewer seeds
            _remove(folder / name)
        (staged / COMPLETE).unlink()
    _remove(staged)


def _move(source: Path, target: Path) -> None:
    if source.is_dir():
        _remove(target.with_name(DISCARDED))
        if target.exists():
            target.rename(target.with_name(DISCARDED))
        source.rename(target)
    elif source.exists():
        os.replace(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _keep_logs(folder: Path) -> None:
    """Moves the logs of the new seeds below those of the others: `tensorboard/seeds_3_4`."""
    for name in LOGS:
        source = folder / ADDED / name
        if source.is_dir():
            seeds = "_".join(map(str, read_json(folder / ADDED / CONFIG)["run"]["seeds"]))
            (folder / name).mkdir(exist_ok=True)
            target = folder / name / f"seeds_{seeds}"
            _remove(target)
            source.rename(target)


def _order(parts: Sequence[Part], whole: Job) -> list[int]:
    """For every member of the whole, its place among those of both parts."""
    labels = [label for part in parts for label in part.job.labels]
    return [labels.index(label) for label in whole.labels]


# --- Files that the leader writes -----------------------------------------------------------------


def _checksums(part: Part) -> Any:
    """Those of a part's columns. Orbax has the processes wait for each other, so all must ask."""
    with Checkpoints(part.folder / CHECKPOINTS) as checkpoints:
        return checkpoints.progress(part.job.steps).get("columns")


def _stage_files(
    parts: Sequence[Part], staged: Path, whole: Job, order: Sequence[int], checksums: Sequence[Any]
) -> None:
    _remove(staged)
    staged.mkdir()
    about = read_json(parts[0].folder / CONFIG)
    added = read_json(parts[1].folder / CONFIG)
    about["run"]["seeds"] = list(whole.config.seeds)
    if about.get("init"):
        about["init"]["sha256"] |= added["init"]["sha256"]
    change = {"field": "seeds", "from": list(parts[0].job.config.seeds)}
    about["changes"] = [*about.get("changes", []), {**change, "to": list(whole.config.seeds)}]
    write_json(staged / CONFIG, about)
    _stage_rows([part.folder for part in parts], staged, whole.labels)
    _stage_columns(parts, staged, order, checksums)


def _stage_rows(folders: Sequence[Path], staged: Path, labels: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows of both, log point by log point, as one run would have written them."""
    found = {
        name: [_by_step(folder / name) for folder in folders] for name in (METRICS, EVALUATIONS)
    }
    timings = [{row["step"]: row for row in Rows(folder / TIMINGS)} for folder in folders]
    written: dict[str, list[Mapping[str, Any]]] = {METRICS: [], EVALUATIONS: [], TIMINGS: []}
    before = 0
    for step in sorted(set().union(*timings)):
        rows = {
            name: _ordered([row for each in both for row in each.get(step, [])], labels)
            for name, both in found.items()
        }
        clocks = [each[step] for each in timings if step in each]
        timing = {
            "step": step,
            "phase": clocks[0]["phase"],
            "updates": step - before,
            "seconds": sum(row["seconds"] for row in clocks),
            "first": any(row["first"] for row in clocks),
            "evaluation_seconds": sum(row["evaluation_seconds"] for row in clocks),
        }
        written[TIMINGS].append(ledger.sealed(timing, rows))
        for name, each in rows.items():
            written[name] += each
        before = step
    for name, each in written.items():
        write_text(staged / name, Rows.text(each))


def _by_step(path: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in Rows(path):
        found.setdefault(row["step"], []).append(row)
    return found


def _ordered(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Rows of one log point, member after member."""
    return [
        row for label in labels for row in rows if all(row[name] == x for name, x in label.items())
    ]


def _stage_columns(
    parts: Sequence[Part], staged: Path, order: Sequence[int], checksums: Sequence[Any]
) -> None:
    found = []
    for part, own in zip(parts, checksums, strict=True):
        read = columns.read(
            part.folder / COLUMNS,
            part.job.method,
            part.job.steps,
            seeds=len(part.job.seeds),
            size=part.job.dataset.spec.size,
            checksums=own,
        )
        if read.faults:
            raise WorkdirError(
                f"{part.folder} is damaged ({'; '.join(read.faults)}), so that no seeds can join "
                "it; put back a copy of its files, or train the seeds in another --workdir"
            )
        found.append(read.columns)
    for phase in parts[0].job.method.phases:
        for name in phase.columns:
            one, other = (each[name] for each in found)
            if phase.shared:
                _check_common(np.array_equal(one, other), name, parts)
            else:
                one = np.concatenate([one, other])[list(order)]
            (staged / COLUMNS).mkdir(exist_ok=True)
            columns.rewrite(staged / COLUMNS, name, one)


def _check_common(equal: bool, name: str, parts: Sequence[Part]) -> None:
    if not equal:
        raise WorkdirError(
            f"--workdir={parts[0].folder}: {name!r} is shared by all seeds, but training the new "
            "seeds gave a different result, as happens on another machine; train them in another "
            "--workdir"
        )


# --- Checkpoints, in which all processes take part ------------------------------------------------


def _joined(trees: Sequence[Any], order: Sequence[int]) -> Any:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[list(order)], *trees)


def _stage_checkpoint(
    parts: Sequence[Part], staged: Path, whole: Job, order: Sequence[int]
) -> None:
    states, progress = [], []
    for part in parts:
        with Checkpoints(part.folder / CHECKPOINTS) as checkpoints:
            abstract = abstract_state(part.job.method, part.job.dataset.spec, len(part.job.seeds))
            found = checkpoints.restore(abstract)
            if found is None or found[1] != whole.steps:
                raise WorkdirError(
                    f"{part.folder} lacks the checkpoint of update {whole.steps}; put back a copy "
                    "of it, or train the seeds in another --workdir"
                )
            states.append(found[0])
            progress.append(checkpoints.progress(found[1]))
    for name in sorted({name for phase in whole.method.phases for name in phase.shared}):
        pairs = zip(*(jax.tree.leaves(sharing.field(s, name)) for s in states), strict=True)
        equal = all(np.array_equal(one[0], other[0]) for one, other in pairs)
        _check_common(equal, name, parts)
    state = _joined(states, order)
    with Checkpoints(staged / CHECKPOINTS) as checkpoints:
        checkpoints.save(whole.steps, state, _progress(parts, progress, staged, whole, order))


def _progress(
    parts: Sequence[Part],
    progress: Sequence[Mapping[str, Any]],
    staged: Path,
    whole: Job,
    order: Sequence[int],
) -> dict[str, Any]:
    """As `fit` would have made it for all seeds; empty where a checkpoint has none."""
    one, other = progress
    if not (one and other):
        return {}
    last = next(phase for phase in reversed(whole.method.phases) if phase.steps)
    totals = dict(one["totals"])
    if not last.shared and one["totals"].keys() == other["totals"].keys():
        both = [np.array(list(each["totals"].values())) for each in progress]  # [metrics, S, 2]
        if both[0].size:
            joined = np.concatenate(both, 1)[:, list(order)].tolist()
            totals = dict(zip(one["totals"], joined, strict=True))
    filled = {
        name: np.load(staged / COLUMNS / f"{name}.npy", mmap_mode="r")
        for phase in whole.method.phases
        for name in phase.columns
    }
    return {
        "whole": True,
        "before": max(one["before"], other["before"]),
        "seconds": one["seconds"] + other["seconds"],
        "first": one["first"],
        "totals": totals,
        "columns": columns.Checksums(whole.method)(filled, whole.steps),
    }


def _stage_phases(parts: Sequence[Part], staged: Path, whole: Job) -> None:
    """Joins what phases left, where both parts have it."""
    for index, phase in enumerate(whole.method.phases):
        both = processes.run_on_leader(_all_there([p.folder / PHASES / phase.name for p in parts]))
        if not both:
            continue
        found = [warm_start.read(p.folder, p.job.method, p.job.dataset.spec, index) for p in parts]
        seeds = [seed for _, own, _ in found for seed in own]
        order = [seeds.index(seed) for seed in whole.config.seeds]
        left = _joined([left for left, _, _ in found], order)
        warm_start.write(staged, phase.name, found[0][2], left, whole.config.seeds)


def _all_there(paths: Sequence[Path]) -> Callable[[], bool]:
    return lambda: all(path.is_dir() for path in paths)
