"""The table of what papers printed of the datasets in a table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrl_prefs.runs import published


def printed(
    datasets: Sequence[str], cells: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[list[list[str]], list[str]]:
    """What papers printed of the datasets of a table, and why nothing stands beside the others.

    Args:
        datasets: its rows.
        cells: its results, by dataset and column.

    Returns:
        The table as text, its head first, without rows if there is nothing; a line for each dataset
        that has the name of a published one and is refused. Of OGBench's single tasks, a row of the
        means over five follows.
    """
    found, refused = dict[str, Mapping[str, published.Score]](), list[str]()
    means = dict[str, Mapping[str, published.Score]]()
    for dataset in datasets:
        results = [x for (name, _), x in cells.items() if name == dataset]
        results.sort(key=lambda x: "unfinished" in x)  # a finished run knows most
        result = results[0]
        env_id, transitions = str(result.get("env") or ""), result.get("transitions")
        scores = published.beside(dataset, env_id)
        if scores and (size := published.size_of(dataset, env_id)):
            found[dataset + _other_size([x.get("transitions") for x in results], size)] = scores
            data = published.known_as(dataset, env_id).partition("-singletask-")[0]
            means[f"{data}: mean of 5 tasks"] = published.beside(data)
        elif scores and (reason := published.refusal(dataset, transitions, result["data_score"])):
            refused.append(f"{dataset}: {reason}")
        elif scores:
            found[dataset] = scores
    found |= means
    columns = [name for name in published.PUBLISHED if any(name in row for row in found.values())]
    body = [
        [dataset, *(_printed(row.get(column)) for column in columns)]
        for dataset, row in found.items()
    ]
    return [["dataset", *columns], *body], refused


def sources(columns: Sequence[str]) -> list[str]:
    """A line for each column: paper, seeds, updates and protocol."""
    return [f"{name}: {published.PUBLISHED[name].about()}" for name in columns]


def _other_size(transitions: Sequence[int | None], published_size: int) -> str:
    """Marks a row if a run had fewer or more data than the published ones; else empty."""
    known = {each for each in transitions if each is not None}
    unknown = None in transitions
    if not unknown and all(published.as_many(each, published_size) for each in known):
        return ""
    here = [f"{each:,}" for each in sorted(known)] + ["an unknown number"] * unknown
    return f" (here {' or '.join(here)}, there {published_size:,} transitions)"


def _printed(score: published.Score | None) -> str:
    if score is None:
        return ""
    mean, std = score
    return f"{mean:g}" if std is None else f"{mean:g} ± {std:g}"
