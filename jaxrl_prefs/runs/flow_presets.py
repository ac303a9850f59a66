"""Settings of FQL and IFQL by task, for `presets.py`.

Source: Park, Li and Levine 2025 (arXiv 2502.02538); the flags of the published runs stand in the
readme of the authors' code. They choose FQL's alpha for every task; it is relative to Q under
unscaled rewards. IFQL's number of samples is the code's default, 32, but for two sets of adroit
(table 6) and antsoccer (table 7).
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

D4RL: Row = {"train_steps": 500_000, "eval_episodes": 50}
ANTMAZE: Row = {"train_steps": 500_000, "gamma": 0.99, "reward_scale": 1.0, "reward_shift": -1.0}
ADROIT: Row = D4RL | {"q_agg": "min"}
# Alphas of OGBench are for the rewards of its data; of sparse rewards `suites.py` has some.
OGBENCH: Row = {}
FAR: Row = {"gamma": 0.995}

ADROIT_ALPHAS = {
    **dict.fromkeys(("pen human", "pen cloned", "hammer cloned", "relocate human"), 10_000.0),
    **dict.fromkeys(("door human", "door cloned", "door expert", "hammer human"), 30_000.0),
    **dict.fromkeys(("hammer expert", "relocate cloned", "relocate expert"), 30_000.0),
    "pen expert": 3_000.0,
}
MORE_SAMPLES = {"door cloned": 128, "relocate human": 128, "antsoccer arena navigate": 64}
OGBENCH_ROWS: dict[str, tuple[Row, Row]] = {  # what both methods take, and FQL's own fields
    "antmaze large navigate": (OGBENCH, {"alpha": 10.0, "q_agg": "min"}),
    "antmaze giant navigate": (FAR, {"alpha": 10.0, "q_agg": "min"}),
    "humanoidmaze medium navigate": (FAR, {"alpha": 30.0}),
    "humanoidmaze large navigate": (FAR, {"alpha": 30.0}),
    "antsoccer arena navigate": (FAR, {"alpha": 10.0}),
    "cube single play": (OGBENCH, {"alpha": 300.0}),
    "cube double play": (OGBENCH, {"alpha": 300.0}),
    "scene play": (OGBENCH, {"alpha": 300.0}),
    "puzzle 3x3 play": (OGBENCH, {"alpha": 1_000.0}),
    "puzzle 4x4 play": (OGBENCH, {"alpha": 1_000.0}),
}


def _ifql(task: str, shared: Row) -> Row:
    return shared | ({"candidates": MORE_SAMPLES[task]} if task in MORE_SAMPLES else {})


# Words that the name of a dataset or of its environment holds -> rows.
TASKS: dict[str, dict[str, Row]] = {
    **{
        task: {"fql": ADROIT | {"alpha": alpha}, "ifql": _ifql(task, D4RL)}
        for task, alpha in ADROIT_ALPHAS.items()
    },
    **{
        task: {"fql": shared | own, "ifql": _ifql(task, shared)}
        for task, (shared, own) in OGBENCH_ROWS.items()
    },
}


def antmaze(maze: str) -> dict[str, Row]:
    """The rows of one of D4RL's ant mazes, such as "large-play"."""
    alpha = 3.0 if maze.startswith("large") else 10.0
    return {"fql": ANTMAZE | {"alpha": alpha}, "ifql": ANTMAZE}


# Ours, chosen for two CPU cores; on one seed, alphas of 0.003 to 0.03 scored 102.0 to 102.2.
SMALL: Row = {
    "normalize_observations": True,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "train_steps": 20_000,
}
PENDULUM: dict[str, Row] = {
    "fql": SMALL | {"alpha": 0.03, "normalize_q_loss": True},
    "ifql": SMALL,
}

# For tasks that the paper does not have: one of its alphas, and for OGBench the code's default, 10.
FAMILIES: dict[str, dict[str, Row]] = {
    "antmaze": antmaze(""),
    "adroit": {"fql": ADROIT | {"alpha": 30_000.0}, "ifql": D4RL},
    "ogbench": {"fql": OGBENCH, "ifql": OGBENCH},
}
