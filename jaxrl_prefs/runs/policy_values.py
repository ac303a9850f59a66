"""Estimated values of policies: the choice they suggest, how sure it is, and warning signs.

A highest estimate that no data confirm is not followed: the policy nearest to the recorded actions
is chosen instead, which was the better choice on most of the datasets where both were played
(docs/tutorials/choosing_a_policy.md).

values = run.estimate()
print(values)               # a table, the choice, the warning signs
values.chosen.policy        # of a run with several points: values.chosen.settings
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import Dataset
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.estimation import ranking
from jaxrl_prefs.runs import tables

CAUTION = "an estimate is not a score: it comes from recorded data, not from running the policies"
SURE = 0.8  # a choice is sure if it is the best in at least this share of the resamples
POOR_FIT = 0.5  # Bellman error, in standard deviations of the data's returns to go
CLIPPED = 0.01  # share of targets beyond what rewards allow
NO_IMAGES = (
    ", from which no value is estimated: the Q functions take vectors. Play the policies instead"
)
FEWEST_EPISODES = 10.0  # effective episodes that importance sampling needs


def check_recording(recording: Dataset) -> None:
    """Raises DataError for data with images or without rewards: no value is estimated from them."""
    if recording.images:
        raise DataError(f"{recording.name} has images{NO_IMAGES}")
    if not recording.has_rewards:
        raise DataError(
            f"{recording.name} has no rewards, by which policies are evaluated: name their column, "
            "--reward_key"
        )


class PolicyValue(NamedTuple):
    """One policy of one seed."""

    settings: Mapping[str, Any]  # of its point, empty where the run has one
    policy: str
    seed: int
    members: np.ndarray  # [E] estimates by the members of the ensemble, or by resamples
    distance: float  # root mean square distance to held-out actions, in halves of the action box
    bellman: float | None = None  # error of the fit, in standard deviations of the data's returns
    clipped: float | None = None  # share of targets beyond what the rewards allow
    effective: float | None = None  # effective episodes of the importance weights

    @property
    def value(self) -> float:
        """The estimate: the mean of the members."""
        return float(self.members.mean())


class Group(NamedTuple):
    """A policy of all seeds of a point."""

    settings: Mapping[str, Any]
    policy: str
    value: float  # mean over seeds
    interval: tuple[float, float]  # 95 %, over episodes, seeds and fits
    certainty: float  # share of the resamples in which it is the best of all groups
    seed: int  # of its highest estimate; where estimates are not followed, the nearest to the data
    seed_certainty: float  # share of the resamples in which that is the best seed
    members: tuple[PolicyValue, ...]

    @property
    def label(self) -> str:
        """Its method and settings; empty in a run with one point."""
        method = str(self.settings.get("method", ""))
        parts = [f"{name}={x}" for name, x in self.settings.items() if name != "method"]
        return "+".join(filter(None, [method, *parts]))


class PolicyValues:
    """Estimates of several policies on one dataset.

    Values are discounted sums of raw rewards from the initial states of the data's episodes.
    """

    def __init__(
        self,
        values: list[PolicyValue],
        *,
        estimator: str,
        dataset: str,
        gamma: float,
        recorded: tuple[float, float],
        data_distance: float,
    ) -> None:
        """Groups what was estimated.

        Args:
            values: one for each policy and seed.
            estimator: which was used.
            dataset: name of the data that were used.
            gamma: discount per step.
            recorded: the mean and the largest discounted return of the data's episodes.
            data_distance: root mean square distance of the data's actions to their mean.
        """
        self.values = tuple(values)
        self.estimator, self.dataset, self.gamma = estimator, dataset, gamma
        self.recorded, self.data_distance = recorded, data_distance
        self.groups = tuple(_grouped(self.values))

    @property
    def highest(self) -> Group:
        """The group of the highest estimate."""
        return max(self.groups, key=lambda group: group.value)

    @property
    def confirmed(self) -> bool:
        """Whether some episode is as good as the highest estimate, and its fit within bounds."""
        best = self.highest
        return best.value <= self.recorded[1] and _mean(best, "clipped") <= CLIPPED

    @property
    def chosen(self) -> Group:
        """The group of the highest estimate; if no data confirm it, the one nearest to the data."""
        known = [g for g in self.groups if np.isfinite([each.distance for each in g.members]).all()]
        if self.confirmed or not known:
            return self.highest
        nearest = min(known, key=lambda group: _mean(group, "distance"))
        return _with_seed(nearest, int(np.argmin([each.distance for each in nearest.members])))

    def of(self, policy: str, settings: Mapping[str, Any] | None = None) -> dict[int, float]:
        """{seed: estimate} of one policy; `settings` picks the point of a sweep or comparison."""
        wanted = dict(settings or {})
        return {
            each.seed: each.value
            for each in self.values
            if each.policy == policy and wanted.items() <= each.settings.items()
        }

    def choice(self) -> str:
        """Which policy is chosen, and how sure that is."""
        best = self.chosen
        several = len(self.groups) > 1
        if best.policy != self.highest.policy or best.settings != self.highest.settings:
            seed = f", seed {best.seed}" if len(best.members) > 1 else ""
            return (
                f"no data confirm the highest estimate, of {_title(self.highest)}; chosen is the "
                f"policy nearest to the recorded actions: {_title(best)}{seed}"
            )
        text = f"{self.estimator} chooses {_title(best)}"
        if several:
            text += f" (the best in {best.certainty:.0%} of the resamples)"
        if len(best.members) > 1:
            text += f", seed {best.seed} (the best seed in {best.seed_certainty:.0%})"
        return text

    def signs(self) -> list[str]:
        """Warning signs, a line each: reasons not to trust the estimates."""
        return [*self._signs()]

    def _signs(self) -> Iterator[str]:
        if self.confirmed and len(self.groups) > 1 and self.highest.certainty < SURE:
            yield (
                "the data do not tell the best policies apart: take the one nearest to cloning, or "
                "try both under supervision"
            )
        bad = [g for g in self.groups if _mean(g, "bellman") > POOR_FIT]
        if bad:
            worst = max(_mean(g, "bellman") for g in bad)
            yield (
                f"{_named(bad)}: the Q functions fit poorly (Bellman error {worst:.2f} standard "
                "deviations); more updates or wider networks may help"
            )
        if bad := [g for g in self.groups if _mean(g, "clipped") > CLIPPED]:
            yield f"{_named(bad)}: values run into the bounds of what the rewards allow"
        if bad := [g for g in self.groups if g.value > self.recorded[1]]:
            yield (
                f"{_named(bad)}: the estimate is above the best recorded episode "
                f"({self.recorded[1]:.4g}), which no data confirm"
            )
        if bad := [g for g in self.groups if _mean(g, "distance") > self.data_distance]:
            yield (
                f"{_named(bad)}: acts farther from the recorded actions than a policy that always "
                "takes the mean recorded action"
            )
        if bad := [g for g in self.groups if 0 < _mean(g, "effective") < FEWEST_EPISODES]:
            least = min(_mean(g, "effective") for g in bad)
            yield f"{_named(bad)}: the weights rest on {least:.1f} effective episodes"

    def rows(self) -> list[list[str]]:
        """The table as text, its head first."""
        fields = list(dict.fromkeys(name for g in self.groups for name in g.settings))
        found = [
            name for name in ("bellman", "effective") if getattr(self.values[0], name) is not None
        ]
        titles = {"bellman": "Bellman error", "effective": "effective episodes"}
        head = [*fields, "policy", "seeds", f"{self.estimator} estimate", "best", "distance"]
        body = [
            [
                *(str(g.settings.get(name, "")) for name in fields),
                g.policy,
                str(len(g.members)),
                estimate_text(g),
                f"{g.certainty:.0%}",
                f"{_mean(g, 'distance'):.2f}",
                *(f"{_mean(g, name):.2f}" for name in found),
            ]
            for g in self.groups
        ]
        return [[*head, *(titles[name] for name in found)], *body]

    @property
    def title(self) -> str:
        """What the numbers of the table are."""
        over = "episodes and seeds" if self.estimator == "wis" else "episodes, seeds and fits"
        return (
            f"estimated value on {self.dataset}: discounted by {self.gamma:g}, 95 % interval over "
            f"{over}"
        )

    def notes(self) -> list[str]:
        """The lines below the table: the data's own value, the choice, signs, the caution."""
        mean, largest = self.recorded
        own = f"the data's episodes: {mean:.4g} on average, {largest:.4g} at best"
        signs = [f"warning sign: {sign}" for sign in self.signs()]
        return [own, self.choice(), *signs, CAUTION]

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "estimator": self.estimator,
            "dataset": self.dataset,
            "gamma": self.gamma,
            "recorded": list(self.recorded),
            "data_distance": self.data_distance,
            "choice": self.choice(),
            "chosen": {
                "settings": dict(self.chosen.settings),
                "policy": self.chosen.policy,
                "seed": self.chosen.seed,
            },
            "signs": self.signs(),
            "groups": [
                {
                    "settings": dict(g.settings),
                    "policy": g.policy,
                    "value": g.value,
                    "interval": list(g.interval),
                    "certainty": g.certainty,
                }
                for g in self.groups
            ],
            "policies": [
                {
                    **each._asdict(),
                    "settings": dict(each.settings),
                    "members": each.members.tolist(),
                    "value": each.value,
                }
                for each in self.values
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PolicyValues:
        """From what `as_json` returned."""
        values = []
        for each in content["policies"]:
            known: dict[str, Any] = {name: each[name] for name in PolicyValue._fields}
            values.append(PolicyValue(**known | {"members": np.asarray(known["members"])}))
        mean, largest = content["recorded"]
        names = ("estimator", "dataset", "gamma", "data_distance")
        return cls(values, recorded=(mean, largest), **{name: content[name] for name in names})

    def __repr__(self) -> str:
        lines = tables.plain(self.rows(), 1)
        return "\n".join([self.title, *lines, *self.notes()])


def estimate_text(group: Group) -> str:
    """`-150.2 (-160.1 to -141.0)`, in four figures."""
    low, high = group.interval
    return f"{group.value:.4g} ({low:.4g} to {high:.4g})"


def _grouped(values: tuple[PolicyValue, ...]) -> Iterator[Group]:
    found: dict[str, list[PolicyValue]] = {}
    for each in values:
        found.setdefault(repr((dict(each.settings), each.policy)), []).append(each)
    groups = list(found.values())
    drawn = ranking.draws([np.stack([x.members for x in group]) for group in groups])
    shares = ranking.certainty(drawn)
    for place, members in enumerate(groups):
        group = Group(
            settings=members[0].settings,
            policy=members[0].policy,
            value=float(np.mean([each.value for each in members])),
            interval=ranking.interval(drawn[:, place]),
            certainty=float(shares[place]),
            seed=0,
            seed_certainty=0.0,
            members=tuple(members),
        )
        yield _with_seed(group, int(np.argmax([each.value for each in members])))


def _with_seed(group: Group, place: int) -> Group:
    """The group with its seed at `place` as the one to take."""
    seeds = ranking.draws([each.members[None] for each in group.members])
    share = float(ranking.certainty(seeds)[place])
    return group._replace(seed=group.members[place].seed, seed_certainty=share)


def _mean(group: Group, name: str) -> float:
    """The mean of a sign over seeds; 0 where it was not measured."""
    found = [getattr(each, name) for each in group.members]
    return float(np.mean([x for x in found if x is not None] or [0.0]))


def _title(group: Group) -> str:
    return f"{group.label}, policy {group.policy}" if group.label else f"policy {group.policy}"


def _named(groups: list[Group]) -> str:
    names = ["/".join(filter(None, [group.label, group.policy])) for group in groups]
    more = "" if len(names) <= 3 else f" and {len(names) - 3} more"
    return ", ".join(names[:3]) + more
