"""Other codes' networks, updates and policies as methods of ours, for `benchmarks.parity.compare`.

Each module has our method's `Config`, and reads it under the other code's names. Their discount is
set to 1 and "done" to 1 - our `discount`, so that their targets are r + discount * V(s').
"""

from __future__ import annotations

from typing import Any

import jax

from jaxrl_prefs.types import Transition


def named(rows: Transition) -> dict[str, Any]:
    """A batch under the names that most codes share."""
    return {
        "observations": rows.observation,
        "actions": rows.action,
        "rewards": rows.reward,
        "masks": rows.discount,
        "dones": 1 - rows.discount,
        "next_observations": rows.next_observation,
    }


def with_optimizers(first: Any, other: Any) -> Any:
    """Train states with the optimisers of the first ones: others would be another structure."""
    return jax.tree.unflatten(jax.tree.structure(first), jax.tree.leaves(other))
