"""Chooses a policy of a comparison or a sweep by estimates from the data: --select=fqe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jaxrl_prefs import data as datasets
from jaxrl_prefs.data import Hints
from jaxrl_prefs.errors import ConfigError, DataError, LoadError, WorkdirError
from jaxrl_prefs.runs import tables
from jaxrl_prefs.runs.display import line
from jaxrl_prefs.runs.policy_values import PolicyValues, check_recording
from jaxrl_prefs.runs.workdir import RESULT, read_json, write_json

SELECTORS = ("", "fqe")
ESTIMATES = "estimates.json"


class Candidates(NamedTuple):
    """A finished run, and what tells each of its points from those of other runs."""

    folder: Path
    settings: Sequence[Mapping[str, Any]]


def check(selector: str) -> None:
    """Raises ConfigError for a --select that there is not."""
    if selector not in SELECTORS:
        raise ConfigError(f"--select takes fqe, and got {selector!r}")


def check_data(names: Sequence[str], hints: Hints) -> None:
    """Raises DataError, before anything is trained, for data by which no policy can be evaluated.

    Only files, folders and sets of pictures that we draw are looked at. What cannot be read is said
    by the run that needs it.
    """
    for name in names:
        is_drawn = datasets.ALIASES.get(name, name) in datasets.DRAWN
        if not is_drawn and not Path(name.partition("#")[0]).expanduser().exists():
            continue
        try:
            recording = datasets.load(name, hints=hints)
        except (DataError, OSError):
            continue
        check_recording(recording)


def estimated(
    runs: Sequence[Candidates], path: Path, console: Console, estimator: str = "fqe"
) -> PolicyValues | None:
    """Estimates the headline policies of several runs on their one dataset, side by side.

    What was estimated before is read from `path`, if the runs and the settings are the same.

    Args:
        runs: those that are not finished are left out.
        path: a file, ESTIMATES of a folder.
        console: where progress, and what cannot be estimated, goes.
        estimator: one of SELECTORS.

    Returns:
        The estimates; None if no run is finished or they cannot be had, which is said.
    """
    from jaxrl_prefs.runs import off_policy_evaluation
    from jaxrl_prefs.runs.load import load_run

    try:
        points = [
            dataclasses.replace(point, settings=dict(settings))
            for each in runs
            if (each.folder / RESULT).exists()
            for point, settings in zip(load_run(each.folder).select(), each.settings, strict=True)
        ]
        if not points:
            return None
        recording = off_policy_evaluation.recording_of(points)
        asked = _signature(points, estimator, repr(off_policy_evaluation.settings({})))
        if (found := _known(path, asked)) is not None:
            return found
        values = off_policy_evaluation.estimate(
            points, recording, estimator=estimator, say=lambda text: line(console, text)
        )
    except (ConfigError, DataError, LoadError, WorkdirError) as error:
        line(console, f"--select={estimator}: {error}")
        return None
    write_json(path, {"asked": asked, **values.as_json()})
    return values


def show(values: PolicyValues, console: Console) -> None:
    """Prints the table of estimates with the choice."""
    rows, notes = values.rows(), "\n".join(values.notes())
    tables.show(console, values.title, rows, left=1, caption=notes)


def _signature(points: Sequence[Any], estimator: str, fit: str) -> list[Any]:
    about = [
        [str(dict(p.settings)), p.step, list(p.seeds), p.about.get("data", {}).get("sha256")]
        for p in points
    ]
    whole: list[Any] = json.loads(json.dumps([estimator, fit, about]))
    return whole


def _known(path: Path, asked: list[Any]) -> PolicyValues | None:
    try:
        content = read_json(path)
        return PolicyValues.from_json(content) if content.get("asked") == asked else None
    except (OSError, WorkdirError, LookupError, TypeError, ValueError):
        return None
