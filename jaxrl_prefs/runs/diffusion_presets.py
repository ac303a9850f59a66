"""Settings of Diffusion-QL by task, for `presets.py`.

Diffusion-QL: Wang, Hunt and Zhou 2023 (arXiv 2208.06193), table 5 and main.py of the authors' code,
which choose eta and the norm of clipped gradients for every dataset.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Table = dict[str, dict[str, Row]]  # dataset -> method -> fields

# --- Diffusion-QL ---------------------------------------------------------------------------------

DQL_CLIP_NORM = {  # eta is 1 on all of these
    "halfcheetah-medium-v2": 9.0,
    "hopper-medium-v2": 9.0,
    "walker2d-medium-v2": 1.0,
    "halfcheetah-medium-replay-v2": 2.0,
    "hopper-medium-replay-v2": 4.0,
    "walker2d-medium-replay-v2": 4.0,
    "halfcheetah-medium-expert-v2": 7.0,
    "hopper-medium-expert-v2": 5.0,
    "walker2d-medium-expert-v2": 5.0,
}
DQL_ANTMAZE = {  # eta, norm, actor's rate; the target is that of the best of ten but for umaze
    "umaze": (0.5, 2.0, 3e-4),
    "umaze-diverse": (2.0, 3.0, 3e-4),
    "medium-play": (2.0, 2.0, 1e-3),
    "medium-diverse": (3.0, 1.0, 3e-4),
    "large-play": (4.5, 10.0, 3e-4),
    "large-diverse": (3.5, 7.0, 3e-4),
}
DQL_ADROIT = {"pen-human-v1": (0.15, 7.0), "pen-cloned-v1": (0.1, 8.0)}  # eta, norm
DQL_KITCHEN = {  # norm, updates; eta is 0.005 on all
    "kitchen-complete-v0": (9.0, 250_000),
    "kitchen-partial-v0": (10.0, 1_000_000),
    "kitchen-mixed-v0": (10.0, 1_000_000),
}
RAW: Row = {"reward": "affine", "reward_scale": 1.0}
# A reward of 0 becomes -2 and one of 1 becomes 2, as in CQL.
CQL_ANTMAZE: Row = {"gamma": 0.99, "reward_scale": 4.0, "reward_shift": -2.0}
# The authors standardise these rewards, which no transform here does: Q is divided by its own size.
SHORT_DQL: Row = {"train_steps": 1_000_000}
ADROIT_DQL: Row = SHORT_DQL | {"actor_learning_rate": 3e-5}


def dql_antmaze(maze: str) -> Row:
    """Diffusion-QL's row of one of D4RL's ant mazes, such as "large-play"."""
    eta, norm, rate = DQL_ANTMAZE[maze]
    chosen = {"eta": eta, "clip_norm": norm, "actor_learning_rate": rate}
    return CQL_ANTMAZE | SHORT_DQL | chosen | {"max_backup": maze != "umaze"}


def _dql() -> dict[str, Row]:
    rows = {name: RAW | {"clip_norm": norm} for name, norm in DQL_CLIP_NORM.items()}
    for name, (eta, norm) in DQL_ADROIT.items():
        rows[name] = ADROIT_DQL | {"eta": eta, "clip_norm": norm}
    for name, (norm, steps) in DQL_KITCHEN.items():
        rows[name] = {"eta": 0.005, "clip_norm": norm, "train_steps": steps}
    return rows


# --- By dataset, maze and family ------------------------------------------------------------------

DATASETS: Table = {name: {"dql": row} for name, row in _dql().items()}


def antmaze(maze: str) -> dict[str, Row]:
    """The rows of one of D4RL's ant mazes, such as "large-play"."""
    return {"dql": dql_antmaze(maze)}


# The middle of what the papers use: for tasks that they do not have.
FAMILIES: Table = {
    "locomotion": {"dql": RAW | {"clip_norm": 5.0}},
    "antmaze": {"dql": dql_antmaze("medium-diverse")},
    "adroit": {"dql": ADROIT_DQL | {"eta": 0.1, "clip_norm": 8.0}},
    "kitchen": {"dql": SHORT_DQL | {"eta": 0.005, "clip_norm": 10.0}},
}

# Ours, chosen for two CPU cores on one other seed.
SMALL: Row = {
    "normalize_observations": True,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "train_steps": 20_000,
}
PENDULUM: dict[str, Row] = {"dql": SMALL | {"eta": 30.0}}
