"""The warning signs that a run measured of itself: what each means, and which call for a look.

`Method.diagnose` measures them at every evaluation, on the same rows of the data. A mark is a
reason to look at the curves, not a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Values = Mapping[str, float]  # means over seeds at one time

MEANINGS = {
    "q_data": "mean Q of the data's actions",
    "q_policy": "mean Q of the policy's actions. It should be somewhat above that of the data",
    "q_uniform": "mean Q of uniform actions. Far above that of the data, the critic diverges",
    "q_spread": "how much the critics disagree on the policy's actions. As large as Q itself, they "
    "guess",
    "path_kl": "how far the actor is from the behaviour. If it keeps growing, the actor leaves the "
    "data: eta is too small",
    "bc_error": "squared distance of the policy's actions to the data's",
    "policy_std": "mean standard deviation of the policy",
    "policy_clone_distance": "distance of the policy's actions from the clone's mean, in standard "
    "deviations of the clone",
    "rank_accuracy": "how often a recorded action has a lower energy than a uniform one. Near 0.5 "
    "the energy has learned nothing",
    "pair_distance": "distance of two actions of the actor. Near 0 the actor has collapsed",
    "advantage": "mean advantage of the data's actions",
    "weight_saturation": "share of recorded actions at the largest weight. A large share clones an "
    "arbitrary part of the data: the temperature is too high for the reward's scale",
    "certainty_data": "certainty of recorded actions. Low: the kernel is too narrow, or the "
    "network was trained too little",
    "certainty_policy": "certainty of the policy's actions. Low: the policy has left the data",
    "certainty_uniform": "certainty of uniform actions. High: the negatives have no effect",
    "certainty_shuffled": "certainty of actions of other states. High: the states are ignored",
    "candidates_kept": "share of the behaviour's samples that the density threshold keeps. "
    "Near 0 Q is SARSA's; near 1 the threshold has no effect",
    "gain": "the network's product of spectral norms",
    "behavior_loss": "loss of the behaviour model",
}
NO_BACKUP = ("arq",)  # methods whose Q of uniform actions no update uses


class Sign(NamedTuple):
    """One warning sign at the end of a run."""

    name: str
    values: tuple[float | None, ...]  # of every seed; None: not finite
    meaning: str
    reason: str  # why to look; empty if there is none


def signs(rows: Sequence[Mapping[str, Any]], algo: str, seeds: Sequence[int]) -> list[Sign]:
    """The signs at the last evaluation, in the order of their first row.

    Args:
        rows: of metrics.jsonl.
        algo: the method's name.
        seeds: of the run, in order.
    """
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    found = []
    means = _means(rows)
    for name in (name for name in names if name in MEANINGS):
        mine = [row for row in rows if name in row["metrics"]]
        last = {
            row["seed"]: row["metrics"][name] for row in mine if row["step"] == mine[-1]["step"]
        }
        values = tuple(_finite(last.get(seed)) for seed in seeds)
        reason = "not finite" if None in values else _reason(name, means, algo)
        found.append(Sign(name, values, MEANINGS[name], reason))
    return found


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """{metric: its means over seeds, in order of the updates}."""
    grouped: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        for name, value in row["metrics"].items():
            if (known := _finite(value)) is not None:
                grouped.setdefault(name, {}).setdefault(row["step"], []).append(known)
    return {
        name: [float(np.mean(steps[step])) for step in sorted(steps)]
        for name, steps in grouped.items()
    }


def _reason(name: str, means: Mapping[str, list[float]], algo: str) -> str:
    if name not in RULES or not means.get(name) or (name == "q_uniform" and algo in NO_BACKUP):
        return ""
    last = {each: values[-1] for each, values in means.items() if values}
    test, text = RULES[name]
    try:
        return text if test(last, means[name]) else ""
    except KeyError:  # the other number of the rule was not measured
        return ""


RULES: dict[str, tuple[Callable[[Values, list[float]], bool], str]] = {
    "q_uniform": (
        lambda now, _: now["q_uniform"] - now["q_data"] > abs(now["q_data"]),
        "above that of the data by more than its size",
    ),
    "q_spread": (
        lambda now, _: now["q_spread"] > abs(now["q_policy"]),
        "larger than Q of the policy's actions",
    ),
    "path_kl": (
        lambda _, over: len(over) > 3 and over[-1] > 2 * over[len(over) // 2] > 0,
        "doubled in the second half of the run",
    ),
    "rank_accuracy": (lambda now, _: now["rank_accuracy"] < 0.6, "below 0.6"),
    "candidates_kept": (
        lambda now, _: not 0.01 <= now["candidates_kept"] <= 0.99,
        "below 0.01 or above 0.99",
    ),
    "weight_saturation": (lambda now, _: now["weight_saturation"] > 0.5, "more than half"),
    "certainty_data": (lambda now, _: now["certainty_data"] < 0.5, "below 0.5"),
    "certainty_policy": (
        lambda now, _: now["certainty_policy"] < 0.5 * now["certainty_data"],
        "below half of the data's",
    ),
    "certainty_uniform": (
        lambda now, _: now["certainty_uniform"] > 0.5 * now["certainty_data"],
        "above half of the data's",
    ),
    "certainty_shuffled": (
        lambda now, _: now["certainty_shuffled"] > 0.9 * now["certainty_data"],
        "about as high as the data's",
    ),
}


def _finite(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None
