"""Settings of Diffusion-QL, IDQL and DAC by task, and of BDPO on OGBench, for `presets.py`.

- Diffusion-QL: Wang, Hunt and Zhou 2023 (arXiv 2208.06193), main.py of the authors' code, which
  has eta and the norm of clipped gradients for every dataset.
- IDQL: Hansen-Estruch et al. 2023 (arXiv 2304.10573), launcher/examples/train_ddpm_iql_offline.py
  of the authors' code. They evaluate 16, 64 and 256 candidates; the default here is 64. On OGBench
  the runs that Park, Li and Levine 2025 (arXiv 2502.02538, FQL) compare with, from its appendix E.2
  and table 6.
- DAC: Fang et al. 2024 (arXiv 2405.20555), runs.sh of the authors' code; on OGBench the runs that
  Li and Levine 2026 (arXiv 2601.14234, QAM) compare with, from their experiments/reproduce.py and
  agents/dcgql.py.
- BDPO on OGBench: RQL's authors (arXiv 2606.17551) published scores and what all methods of their
  table share, not BDPO's own settings. Its eta is ours.
"""

from __future__ import annotations

from typing import Any

from jaxrl_prefs.runs.baseline_presets import merged

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


# --- IDQL -----------------------------------------------------------------------------------------

IDQL_ANTMAZE: Row = {"gamma": 0.99, "reward_scale": 1.0, "reward_shift": -1.0, "expectile": 0.9}

# FQL's authors leave all else as the code has it. There the values make half as many updates as the
# diffusion model, here as many.
IDQL_LOCOMOTION: Row = {"expectile": 0.7, "critic_hidden": (512, 512), "candidates": 32}
IDQL_MANIPULATION: Row = {"expectile": 0.9, "critic_hidden": (256, 256), "candidates": 32}
FAR: Row = {"gamma": 0.995}  # as for all of FQL's methods (table 5)
IDQL_OGBENCH_ROWS: dict[str, Row] = {
    "antmaze large navigate": IDQL_LOCOMOTION,
    "antmaze giant navigate": IDQL_LOCOMOTION | FAR,
    "humanoidmaze medium navigate": IDQL_LOCOMOTION | FAR,
    "humanoidmaze large navigate": IDQL_LOCOMOTION | FAR,
    "antsoccer arena navigate": IDQL_LOCOMOTION | FAR,
    "cube single play": IDQL_MANIPULATION,
    "cube double play": IDQL_MANIPULATION,
    "scene play": IDQL_MANIPULATION,
    "puzzle 3x3 play": IDQL_MANIPULATION,
    "puzzle 4x4 play": IDQL_MANIPULATION,
}

# --- DAC ------------------------------------------------------------------------------------------

DAC_RHO = {"halfcheetah": 0.0, "hopper": 1.5, "walker2d": 1.0}
DAC_THRESHOLD: dict[str, Row] = {  # it is 1 elsewhere
    "halfcheetah-medium-expert-v2": {"bc_threshold": 0.1},
    "hopper-medium-expert-v2": {"bc_threshold": 0.05},
}
# eta does not move. Rewards and gamma are the family's, which are those of its paper.
DAC_ANTMAZE: Row = {"max_backup": True, "eta": 0.1, "eta_rate": 0.0, "rho": 1.0}
DAC_LARGE: dict[str, Row] = {  # by maze and data
    "large-play": {"rho": 1.1, "critic_learning_rate": 1e-3},
    "large-diverse": {"critic_learning_rate": 1e-3},
}


def dac_antmaze(maze: str) -> Row:
    """DAC's row of one of D4RL's ant mazes, such as "large-play"."""
    return DAC_ANTMAZE | DAC_LARGE.get(maze, {})


def _dac() -> dict[str, Row]:
    robots = {
        f"{robot}-{quality}-v2": {"rho": rho}
        for robot, rho in DAC_RHO.items()
        for quality in ("medium", "medium-replay", "medium-expert")
    }
    return {name: row | DAC_THRESHOLD.get(name, {}) for name, row in robots.items()}


# QAM's runs: Q's gradient is not divided by its size, eta does not move. They act in chunks of five
# actions in manipulation (cube, scene, puzzle), which is left to --set action_chunk=5.
DAC_OGBENCH: Row = {
    "normalize_q": False,
    "eta": 1.0,
    "eta_rate": 0.0,
    "rho": 0.5,
    "q_samples": 1,
    "candidates": 1,
    "diffusion_steps": 10,
    "actor_hidden": (512, 512, 512, 512),
    "critic_hidden": (512, 512, 512, 512),
    "critic_layer_norm": True,
    "activation": "gelu",
    "decays": False,
    "average_start": 0,
    "average_interval": 1,
    "train_steps": 1_000_000,
}
DAC_OGBENCH_ROWS: dict[str, Row] = {
    "antmaze large navigate": {"eta": 0.3},
    "antmaze giant navigate": FAR | {"eta": 0.3},
    "humanoidmaze medium navigate": FAR | {"rho": 0.0},
    "humanoidmaze large navigate": FAR | {"eta": 0.3, "rho": 0.0},
    "cube double play": {"eta": 3.0},
    "cube triple play": {"eta": 0.3},
    "cube quadruple play": {},
    "scene play": {},
    "puzzle 3x3 play": {},
    "puzzle 4x4 play": {},
}

# --- BDPO -----------------------------------------------------------------------------------------

# What all methods of RQL's table share: networks, the chain's steps, critics, pessimism, discounts,
# updates. The rest is ours: eta and the behaviour's rate are those of D4RL's antmaze, where Q spans
# about as much, others the defaults. Their runs in manipulation act in chunks of five:
# --set action_chunk=5.
BDPO_OGBENCH: Row = {
    "eta": 0.5,
    "rho": 0.5,
    "diffusion_steps": 10,
    "actor_hidden": (512, 512, 512, 512),
    "critic_hidden": (512, 512, 512, 512),
    "critic_layer_norm": True,
    "activation": "gelu",
    "behavior_learning_rate": 1e-4,
    "pretrain_steps": 1_000_000,
}
BDPO_OGBENCH_ROWS: dict[str, Row] = {
    "antmaze giant navigate": FAR,
    "humanoidmaze medium navigate": FAR | {"rho": 0.0},
    "humanoidmaze large navigate": FAR | {"rho": 0.0},
    "antsoccer arena navigate": FAR,  # ours, as FQL's: RQL does not have it
}

# --- By dataset, task, maze and family ------------------------------------------------------------

DATASETS: Table = {
    name: {
        algo: rows[name] for algo, rows in {"dql": _dql(), "dac": _dac()}.items() if name in rows
    }
    for name in _dql() | _dac()
}

# Words that the name of a dataset or of its environment holds -> rows.
TASKS: Table = merged(
    {task: {"dac": DAC_OGBENCH | row} for task, row in DAC_OGBENCH_ROWS.items()},
    {task: {"idql": row} for task, row in IDQL_OGBENCH_ROWS.items()},
    {task: {"bdpo": BDPO_OGBENCH | row} for task, row in BDPO_OGBENCH_ROWS.items()},
)


def antmaze(maze: str) -> dict[str, Row]:
    """The rows of one of D4RL's ant mazes, such as "large-play"."""
    return {"dql": dql_antmaze(maze), "idql": IDQL_ANTMAZE, "dac": dac_antmaze(maze)}


# The middle of what the papers use: for tasks that they do not have.
FAMILIES: Table = {
    "locomotion": {"dql": RAW | {"clip_norm": 5.0}, "idql": {}, "dac": {}},
    "antmaze": antmaze("medium-diverse"),
    "adroit": {"dql": ADROIT_DQL | {"eta": 0.1, "clip_norm": 8.0}},
    "kitchen": {"dql": SHORT_DQL | {"eta": 0.005, "clip_norm": 10.0}},
    "ogbench": {"dac": DAC_OGBENCH, "idql": IDQL_MANIPULATION, "bdpo": BDPO_OGBENCH},
}

# Ours, chosen for two CPU cores on one other seed.
SMALL: Row = {"normalize_observations": True, "critic_hidden": (64, 64), "train_steps": 20_000}
CHAIN: Row = SMALL | {"actor_hidden": (64, 64)}
PENDULUM: dict[str, Row] = {
    "dql": CHAIN | {"eta": 30.0},
    "idql": SMALL
    | {"behavior_width": 32, "behavior_blocks": 2, "batch_size": 256, "expectile": 0.9},
    "dac": CHAIN | {"critic_ensemble_size": 4, "q_samples": 4},
}
