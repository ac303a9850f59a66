"""Warning signs: which values call for a look."""

from __future__ import annotations

from typing import Any

import pytest

from jaxrl_prefs.runs.signs import signs


def rows(**metrics: list[Any]) -> list[dict[str, Any]]:
    """Rows of one seed: each metric's values over the updates."""
    length = len(next(iter(metrics.values())))
    return [
        {"step": n, "seed": 4, "metrics": {name: values[n] for name, values in metrics.items()}}
        for n in range(length)
    ]


@pytest.mark.parametrize(
    ("algo", "metrics", "name", "reason"),
    [
        ("td3_bc", {"q_data": [-10.0], "q_uniform": [5.0]}, "q_uniform", "above that of the data"),
        ("td3_bc", {"q_data": [-10.0], "q_uniform": [-1.0]}, "q_uniform", ""),
        ("arq", {"q_data": [-10.0], "q_uniform": [5.0]}, "q_uniform", ""),  # no backup uses it
        ("bdpo", {"path_kl": [1.0, 1.0, 1.0, 2.5]}, "path_kl", "doubled in the second half"),
        ("bdpo", {"path_kl": [1.0, 2.0, 3.0, 3.5]}, "path_kl", ""),
        ("ibc", {"rank_accuracy": [0.55]}, "rank_accuracy", "below 0.6"),
        ("ibc", {"rank_accuracy": [0.9]}, "rank_accuracy", ""),
        ("td3_bc", {"q_data": [1.0, None]}, "q_data", "not finite"),
        ("td3_bc", {"q_uniform": [1.0]}, "q_uniform", ""),  # nothing to compare it with
    ],
)
def test_reasons_to_look(algo: str, metrics: dict[str, Any], name: str, reason: str) -> None:
    (found,) = [each for each in signs(rows(**metrics), algo, [4]) if each.name == name]
    assert found.reason.startswith(reason) and bool(found.reason) == bool(reason)
    assert found.values == (metrics[name][-1],)


def test_a_loss_is_no_sign() -> None:
    assert signs(rows(critic_loss=[1.0]), "td3_bc", [4]) == []
