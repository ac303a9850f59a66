"""What a finished run says: scores with their intervals, a table, the content of result.json.

Everything is computed from the files of the workdir, so a run reports the same however often it
was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrl_prefs.data.recording import SUCCESS_RATE
from jaxrl_prefs.runs import tables

LEVEL, RESAMPLES = 0.95, 10_000
SCORES = ("scores", "score_mean", "score_ci")
# Of policies whose environment reports success, in per cent; where that is the score, the same.
SUCCESS = ("success_rates", "success_rate_mean", "success_rate_ci")


def interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean over seeds; None for a single seed.

    Seeds are resampled 10,000 times with replacement, from a fixed generator. Scores that are
    missing (None) are left out.
    """
    sample = np.asarray(known(values), np.float64)
    if len(sample) < 2:
        return None
    drawn = np.random.default_rng(0).integers(0, len(sample), (RESAMPLES, len(sample)))
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(sample[drawn].mean(1), (tail, 100 - tail))
    return float(low), float(high)


def known(values: Iterable[float | None]) -> list[float]:
    """The scores that there are: one of a seed that could not be played is None."""
    return [value for value in values if value is not None]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the scores that there are; None if there is none."""
    there = known(values)
    return float(np.mean(there)) if there else None


def summarise(evaluations: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns {policy: its scores at the last evaluation}, in the order of the rows.

    Args:
        evaluations: rows of evaluations.jsonl.
    """
    rows = list(evaluations)
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    policies: dict[str, dict[str, Any]] = {}
    for row in last:
        entry = policies.setdefault(
            row["policy"],
            {key: row[key] for key in ("candidates", "rule")}
            | {"episodes": 0, "scores": [], "returns": []},
        )
        entry["episodes"] = max(entry["episodes"], len(row["returns"]))
        entry["scores"].append(row["score"])
        entry["returns"].append(mean(row["returns"]))
    for name, entry in policies.items():
        entry["score_mean"] = mean(entry["scores"])
        entry["score_ci"] = interval(entry["scores"])
        rates = [success_rate(row) for row in last if row["policy"] == name]
        entry |= successes(rates)
    return policies


def success_rate(row: Mapping[str, Any]) -> float | None:
    """The share of an evaluation's episodes that succeeded, in per cent; None if it is unknown.

    Args:
        row: of evaluations.jsonl.
    """
    successes = row.get("successes")
    return 100.0 * float(np.mean(successes)) if successes else None


def successes(rates: Sequence[float | None]) -> dict[str, Any]:
    """The fields SUCCESS of some seeds' success rates; none where no environment reported any."""
    if not known(rates):
        return {}
    return dict(zip(SUCCESS, (list(rates), mean(rates), interval(rates)), strict=True))


def last_evaluations(
    summary: Mapping[str, Any], evaluations: Iterable[Mapping[str, Any]], last: int
) -> dict[str, Any]:
    """A run's result with the mean of its last evaluations in place of its last iterate's score.

    Args:
        summary: the content of result.json; the scores of every policy are replaced, at every
            point of a sweep. Policies that were played less often, but for the headline, are left
            out.
        evaluations: rows of evaluations.jsonl.
        last: so many evaluations, all of the run's last phase.

    Raises:
        ValueError: if the last phase has fewer evaluations of the headline policy.
    """
    rows, seeds = list(evaluations), summary["seeds"]
    rows = [row for row in rows if row["phase"] == rows[-1]["phase"]]
    if "points" in summary:
        points = [
            {**point, "policies": _late(point["policies"], _at(rows, point), seeds, last)}
            for point in summary["points"]
        ]
        return {**summary, "points": points}
    policies = _late(summary["policies"], rows, seeds, last)
    best = policies[summary["headline"]]
    means = {key: best[key] for key in (*SCORES, *SUCCESS) if key in best}
    return {**summary, **means, "policies": policies}


def _late(
    policies: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], last: int
) -> dict[str, Any]:
    found = {}
    for place, (name, entry) in enumerate(policies.items()):
        mine = [row for row in rows if row["policy"] == name]
        steps = sorted({row["step"] for row in mine})[-last:]
        if len(steps) == last:
            late = [row for row in mine if row["step"] >= steps[0]]
            found[name] = {**entry, **_mean_by_seed(late, seeds)}
        elif place == 0:  # the headline
            raise ValueError(f"{len(steps)} evaluations in its last phase, {last} asked")
    return found


def _mean_by_seed(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    scores = [mean(row["score"] for row in rows if row["seed"] == s) for s in seeds]
    rates = [mean(success_rate(row) for row in rows if row["seed"] == s) for s in seeds]
    found = dict(zip(SCORES, (scores, mean(scores), interval(scores)), strict=True))
    return found | successes(rates)


def rates(timings: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Updates per second of each seed, by phase; chunks that also compiled are left out.

    A phase whose every chunk compiled something is rated with the compilation.
    """
    rows = list(timings)
    found = {}
    for phase in dict.fromkeys(row["phase"] for row in rows):
        mine = [row for row in rows if row["phase"] == phase and row["seconds"]]
        steady = [row for row in mine if not row["first"]] or mine
        seconds = sum(row["seconds"] for row in steady)
        if seconds:  # else another run has trained it
            found[phase] = sum(row["updates"] for row in steady) / seconds
    return found


def by_point(
    sweep: Mapping[str, Sequence[float]], evaluations: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Splits the rows of a sweep: [{settings, policies}], in the order of its points.

    Args:
        sweep: {field: its value in each point}.
        evaluations: rows of evaluations.jsonl, which carry the settings of their member.
    """
    rows = list(evaluations)
    values = zip(*sweep.values(), strict=True)
    points = [{"settings": dict(zip(sweep, each, strict=True))} for each in values]
    return [{**p, "policies": summarise(_at(rows, p)) if rows else {}} for p in points]


def _at(
    rows: Iterable[Mapping[str, Any]], point: Mapping[str, Mapping[str, float]]
) -> list[Mapping[str, Any]]:
    """The rows of one point's members."""
    settings = point["settings"].items()
    return [row for row in rows if all(row[name] == value for name, value in settings)]


def result(
    about: Mapping[str, Any],
    evaluations: Iterable[Mapping[str, Any]],
    timings: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of result.json.

    Args:
        about: the run's config.json.
        evaluations: rows of evaluations.jsonl.
        timings: rows of timings.jsonl.
    """
    rows, clock = list(evaluations), list(timings)
    sweep = about.get("sweep", {})
    policies = summarise(rows) if rows and not sweep else {}
    headline = next(iter(policies), "")
    best = policies.get(headline, {})
    seconds = sum(row["seconds"] + row["evaluation_seconds"] for row in clock)
    run, data = about["run"], about["data"]
    return {
        "algo": run["algo"],
        "dataset": run["dataset"],
        "preset": run["preset"],
        "env": data["env"],
        "seeds": run["seeds"],
        "headline": headline,
        "score_kind": data["score_kind"],
        "score_mean": best.get("score_mean"),
        "score_ci": best.get("score_ci"),
        "scores": best.get("scores", []),
        "returns": best.get("returns", []),
        **{key: best[key] for key in SUCCESS if key in best},
        "policies": policies,
        **({"points": by_point(sweep, rows)} if sweep else {}),
        "data_score": data["score"],
        "data_recorded_with": list(about.get("recorded_with", ())),
        "reference_source": data["reference_source"],
        "step": clock[-1]["step"] if clock else 0,
        "wall_seconds": seconds,
        "updates_per_second": rates(clock),
        "versions": about["versions"],
    }


def score_table(summary: Mapping[str, Any]) -> list[list[str]]:
    """The final table: a column per policy, a row per seed, then the mean and its interval.

    Args:
        summary: the content of result.json, of a run that was evaluated.
    """
    policies = summary["policies"]
    head = ["seed"]
    for name, entry in policies.items():
        drawn, episodes = entry["candidates"], entry["episodes"]
        head.append(
            f"{name}\n{drawn} candidate{'s' * (drawn != 1)}: {entry['rule']}\n"
            f"{episodes} episode{'s' * (episodes != 1)}"
        )
    body = [
        [str(seed), *(number(entry["scores"][place]) for entry in policies.values())]
        for place, seed in enumerate(summary["seeds"])
    ]
    means = ["mean", *(number(entry["score_mean"]) for entry in policies.values())]
    intervals = [
        spread(entry["score_ci"]) if known(entry["scores"]) else number(None)
        for entry in policies.values()
    ]
    return [head, *body, means, ["95 %", *intervals], *_success_rows(summary)]


def _success_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The success rates below the scores, where they are something else."""
    rates = [entry.get("success_rate_mean") for entry in summary["policies"].values()]
    if summary["score_kind"] == SUCCESS_RATE or not known(rates):
        return []
    return [["success", *("" if rate is None else f"{rate:.0f} %" for rate in rates)]]


def title(summary: Mapping[str, Any]) -> str:
    """Which method on which data, evaluated where."""
    text = f"{summary['algo']} on {summary['dataset']}, evaluated in {summary['env']}"
    return text + " on the device" * (summary["versions"].get("evaluation") == "mjx")


def caption(summary: Mapping[str, Any]) -> str:
    """What a score of the final table means, and the data's own."""
    if summary["score_kind"] == SUCCESS_RATE:
        return f"{SUCCESS_RATE} in per cent: episodes of which the environment reports success"
    kind = "0-100" if summary["score_kind"] == "normalised score" else "not normalised"
    own = f"the data itself: {number(summary['data_score'])}"
    if told := summary.get("data_recorded_with"):
        own += f", recorded with {', '.join(told)}, so not comparable"
    source = f"references: {summary['reference_source']}"
    return f"{summary['score_kind']} ({kind}); {own}; {source}"


def data_score(summary: Mapping[str, Any]) -> str:
    """The data's own score for a table; blank where it says nothing beside a policy's."""
    score = summary["data_score"]
    return f"{score:.1f}" if isinstance(score, int | float) else ""


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints the final table of a run that was evaluated; `summary` is result.json's content."""
    below, sections = caption(summary), [1 + len(summary["seeds"])]
    tables.show(
        console, title(summary), score_table(summary), left=0, caption=below, sections=sections
    )


def table(summary: Mapping[str, Any]) -> Table:
    """The final table with a frame, for a notebook; `summary` as `rows` takes it."""
    sections = [1 + len(summary["seeds"])]
    return tables.framed(score_table(summary), 0, title(summary), caption(summary), sections)


def number(score: float | None) -> str:
    """Prints a score; one that is missing is said to be."""
    return "no score" if score is None else f"{score:.1f}"


def spread(bounds: Sequence[float] | None) -> str:
    """Prints an interval; one seed has none."""
    return "one seed" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"
