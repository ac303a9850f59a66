"""Runs of the same method, settings and data as one: a pool of their seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import renamed, statistics
from jaxrl_prefs.runs.changes import BOOKKEEPING
from jaxrl_prefs.runs.workdir import CONFIG, read_json

FREE = ("seeds", "dataset", "mapping", *BOOKKEEPING)  # fields of a run in which a pool may differ

Result = Mapping[str, Any]


class Entry(NamedTuple):
    """A result as a table takes it: the content of result.json, or a point of it."""

    dataset: str
    column: str
    result: Result
    place: Path  # the run's folder
    settings: str  # equal for runs that differ in seeds only; empty where it is not known


def settings_of(folder: Path, result: Result, last: int) -> str:
    """What tells a run from all others but those of other seeds; empty for one that is not finished
    or has no config."""
    if "unfinished" in result or not (folder / CONFIG).exists():
        return ""
    about = renamed.present(read_json(folder / CONFIG))
    if not all(name in about for name in ("run", "method", "data")):
        return ""
    free = [name for name in FREE if last == 1 or name not in ("eval_every", "log_every")]
    run = {name: value for name, value in about["run"].items() if name not in free}
    init = {name: value for name, value in (about.get("init") or {}).items() if name != "sha256"}
    data = [about["data"].get(name) for name in ("sha256", "env", "score_kind")]
    known = [run, about["method"], about.get("sweep") or {}, init, data]
    return json.dumps(known, sort_keys=True) if data[0] else ""


def pooled(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, those of the same settings joined where no seed comes twice.

    Raises:
        ConfigError: if two that stay apart claim the same cell of a table.
    """
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for each in entries:
        point = json.dumps(each.result.get("settings"))
        key = (each.settings, point) if each.settings else (str(each.place), each.column)
        groups.setdefault(key, []).append(each)
    found: dict[tuple[str, str], Entry] = {}
    for group in groups.values():
        for each in [_join(group)] if _apart(group) else group:
            cell = (each.dataset, each.column)
            if cell in found and "unfinished" in found[cell].result:
                other = found.pop(cell)
                found[cell[0], _placed(other)] = other._replace(column=_placed(other))
            elif cell in found and "unfinished" in each.result:
                each, cell = each._replace(column=_placed(each)), (cell[0], _placed(each))
            if cell in found:
                raise ConfigError(_claimed(found[cell], each))
            found[cell] = each
    return list(found.values())


def _placed(each: Entry) -> str:
    return f"{each.column} ({each.place})"


def _apart(group: Sequence[Entry]) -> bool:
    seeds = [seed for each in group for seed in each.result["seeds"]]
    return len(set(seeds)) == len(seeds)


def _claimed(one: Entry, other: Entry) -> str:
    named = f"two runs called {other.column!r} on {other.dataset}: {one.place} and {other.place}"
    if not (one.settings and other.settings):
        return named
    if one.settings == other.settings:
        both = sorted(set(one.result["seeds"]) & set(other.result["seeds"]))
        return f"{named}, which both have seed {', '.join(map(str, both))}"
    return f"{named}, which differ in {', '.join(_differing(one.settings, other.settings))}"


def _differing(one: str, other: str) -> list[str]:
    """The fields in which two texts of settings differ."""
    names = []
    for mine, theirs in zip(json.loads(one), json.loads(other), strict=True):
        if isinstance(mine, dict):
            names += [x for x in mine | theirs if mine.get(x) != theirs.get(x)]
        elif mine != theirs:
            names.append("data")
    return names


def _join(group: Sequence[Entry]) -> Entry:
    first = group[0]
    if len(group) == 1:
        return first
    results = [each.result for each in group]
    seeds = [seed for each in results for seed in each["seeds"]]
    order = sorted(range(len(seeds)), key=lambda place: seeds[place])
    names = list(first.result["policies"])
    policies = {name: _entry([x["policies"][name] for x in results], order) for name in names}
    whole = _entry(results, order) if names else {}
    kept = {name: value for name, value in first.result.items() if name not in statistics.SUCCESS}
    joined = {**kept, **whole, "seeds": sorted(seeds), "policies": policies}
    column = ", ".join(dict.fromkeys(each.column for each in group))
    return first._replace(column=column, result=joined)


def _entry(parts: Sequence[Result], order: Sequence[int]) -> dict[str, Any]:
    """Scores of all parts, in the order of the seeds, with their mean and its interval."""
    scores = [score for part in parts for score in part["scores"]]
    returns = [value for part in parts for value in part.get("returns", [])]
    joined = {name: x for name, x in parts[0].items() if name not in statistics.SUCCESS}
    joined["scores"] = [scores[place] for place in order]
    if len(returns) == len(order):
        joined["returns"] = [returns[place] for place in order]
    rates = [rate for part in parts for rate in part.get("success_rates", [])]
    if len(rates) == len(order):
        joined |= statistics.successes([rates[place] for place in order])
    if all("episodes" in part for part in parts):
        joined["episodes"] = max(part["episodes"] for part in parts)
    mean, bounds = statistics.mean(joined["scores"]), statistics.interval(joined["scores"])
    return joined | {"score_mean": mean, "score_ci": bounds}
