"""Which policy is chosen, and whose estimate the data confirm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.runs.policy_values import PolicyValue, PolicyValues

BEST = 10.0  # return of the best recorded episode


def values(*policies: tuple[str, float, float, float], seeds: int = 2) -> PolicyValues:
    """Policies of (method, estimate, distance, clipped); seed 1 is a little nearer and worse."""
    found = [
        PolicyValue(
            settings={"method": method},
            policy="actor",
            seed=seed,
            members=estimate - 0.1 * seed + np.linspace(-0.1, 0.1, 4),
            distance=distance - 0.01 * seed,
            bellman=0.1,
            clipped=clipped,
        )
        for method, estimate, distance, clipped in policies
        for seed in range(seeds)
    ]
    about: dict[str, Any] = {"estimator": "fqe", "dataset": "logs", "gamma": 0.99}
    return PolicyValues(found, recorded=(5.0, BEST), data_distance=1.0, **about)


def test_the_highest_estimate_is_chosen() -> None:
    found = values(("bc", 5.0, 0.2, 0.0), ("iql", 9.0, 0.9, 0.0))
    assert found.confirmed
    assert (found.chosen.label, found.chosen.seed) == ("iql", 0)
    assert found.choice() == (
        "fqe chooses iql, policy actor (the best in 100% of the resamples), seed 0 (the best seed "
        "in 100%)"
    )


@pytest.mark.parametrize(
    ("estimate", "clipped"), [(BEST + 1, 0.0), (9.0, 0.1)], ids=["above the data", "at the bounds"]
)
def test_an_estimate_without_data_is_not_followed(estimate: float, clipped: float) -> None:
    found = values(
        ("bc", 5.0, 0.2, 0.0), ("iql", 6.0, 0.9, 0.0), ("td3_bc", estimate, 3.0, clipped)
    )
    assert not found.confirmed and found.highest.label == "td3_bc"
    assert (found.chosen.label, found.chosen.seed) == ("bc", 1)
    assert found.choice() == (
        "no data confirm the highest estimate, of td3_bc, policy actor; chosen is the policy "
        "nearest to the recorded actions: bc, policy actor, seed 1"
    )
    assert found.chosen.seed_certainty == 0
    again = PolicyValues.from_json(found.as_json())
    assert again.choice() == found.choice()
    assert found.as_json()["chosen"] == {
        "settings": {"method": "bc"},
        "policy": "actor",
        "seed": 1,
    }


def test_a_bad_estimate_below_the_best_changes_nothing() -> None:
    """Signs of other policies than the highest are shown, and leave the choice alone."""
    found = values(("bc", 5.0, 0.2, 0.2), ("iql", 9.0, 0.9, 0.0))
    assert found.chosen.label == "iql"
    assert any(sign.startswith("bc/actor: values run into the bounds") for sign in found.signs())


def test_a_single_policy_is_the_choice() -> None:
    found = values(("bc", BEST + 5, 0.2, 0.0), seeds=1)
    assert found.choice().startswith("fqe chooses bc, policy actor")
    assert any("above the best recorded episode" in sign for sign in found.signs())
