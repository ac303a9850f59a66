"""Settings by dataset and algorithm, as plain data with their sources.

`PRESETS[dataset][algo]` holds fields of the run and of the method. A dataset without a row of its
own takes its robot's (`ROBOTS`), else its family's (`FAMILIES`). The key "*" holds what every
method shares. Defaults are the papers' for locomotion, so rows name only what differs.

`CPU` holds other rows, which only `--preset=cpu` takes: small networks and few updates, chosen for
two CPU cores. The sets that this library makes itself (`EMBEDDED`) appear in no paper; their rows
stand in both tables.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxrl_prefs.data.families import words
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.runs import baseline_presets, diffusion_presets, flow_presets, pixel_presets
from jaxrl_prefs.runs.baseline_presets import merged

Row = dict[str, Any]

DEFAULT, CPU_PRESET = "default", "cpu"  # values of the run's field `preset`

# BDPO, Gao et al. 2025 (arXiv 2502.04778), table 4, which agrees with scripts/d4rl/bdpo.sh of the
# authors' code. What all antmaze tasks share: table 3 and examples/offline/config/d4rl.
BDPO_HALFCHEETAH: Row = {"rho": 0.5, "eta": 0.05}
BDPO_HOPPER: Row = {"rho": 2.0, "eta": 0.2}
BDPO_WALKER: Row = {"rho": 1.0, "eta": 0.15}
ANTMAZE_ETA = {  # by maze and data
    "umaze": 0.5,
    "umaze-diverse": 0.5,
    "medium-play": 0.2,
    "medium-diverse": 0.2,
    "large-play": 1.0,
    "large-diverse": 1.0,
}
BDPO_ANTMAZE: Row = {
    "rho": 0.8,
    "max_backup": True,
    "critic_layer_norm": True,
    "actor_hidden": (512, 512, 512, 512),
    "behavior_learning_rate": 1e-4,
}

# ARQ, Goo and Niekum 2022 (arXiv 2206.00695), tables A.1 to A.3: one row for a whole family. Its
# defaults are those for locomotion. Rewards of antmaze: -1 except at the goal, gamma of its code.
ARQ_KITCHEN: Row = {"pretrain_steps": 300_000, "critic_learning_rate": 1e-4}
ARQ_ADROIT: Row = ARQ_KITCHEN | {"behavior_ensemble_size": 3, "alpha": 10.0, "actor_alpha": 10.0}
ARQ_ANTMAZE: Row = {
    "gamma": 0.99,
    "reward_scale": 1.0,
    "reward_shift": -1.0,
    "kth": 3,
    "alpha": 10.0,
    "policy": "deterministic",
    "actor_alpha": 10.0,
}
# Robomimic: -1 except at success; machine-generated data, and data of human operators.
ARQ_MACHINE: Row = {
    "reward_shift": -1.0,
    "behavior_ensemble_size": 3,
    "critic_learning_rate": 1e-4,
    "policy": "residual",
    "actor_hidden": (2048, 2048, 2048, 2048),
    "actor_alpha": 10.0,
    "actor_steps": 300_000,
}
ARQ_HUMAN: Row = ARQ_MACHINE | {"pretrain_steps": 150_000, "alpha": 0.1, "actor_alpha": 0.1}

# BPR, Srinivasan and Knottenbelt 2025 (arXiv 2503.00930): lam = 1 on every task is the paper's; all
# else is ours, the main text does not say. Its weight of Q is chosen on hopper/medium-v0 and
# halfcheetah/mixed-v0 (docs/methods/bpr.md); its behaviour is the tilted Gaussian, as an energy
# trained to separate the data from uniform negatives learns nothing where behaviour is narrow. IBC
# shares the inputs.
BPR_LOCOMOTION: Row = {
    "normalize_observations": True,
    "behavior": "tilted",
    "q_weight": 100.0,
}
IBC_LOCOMOTION: Row = {"normalize_observations": True}
BPR_ANTMAZE: Row = {"normalize_observations": True, "reward_scale": 1.0, "reward_shift": -1.0}

# TD3+BC, Fujimoto and Gu 2021 (arXiv 2106.06860), table 3: observations standardised, raw rewards.
# Its defaults elsewhere, and all of these rows for the methods around it, are ours: they share the
# data's form, so that a comparison shows the method.
NORMALISED: Row = {"normalize_observations": True}
STANDARDISED: Row = NORMALISED | {"reward": "affine", "reward_scale": 1.0}
# IQL, Kostrikov et al. 2022 (arXiv 2110.06169), section 5 and its code: antmaze rewards minus 1.
MINUS_ONE: Row = {"gamma": 0.99, "reward_scale": 1.0, "reward_shift": -1.0}
LAYER_NORM: Row = {"critic_layer_norm": True}  # ours
IQL_ANTMAZE: Row = {"expectile": 0.9}


def _around_td3(data: Row, critic: Row) -> dict[str, Row]:
    """BC, TD3+BC, one-step and TD3-BST on one form of the data."""
    return {"bc": data, **{name: data | critic for name in ("td3_bc", "one_step", "td3_bst")}}


# TD3-BST and IQL-BST: one setting for every set of a family. Locomotion's is chosen on
# hopper/medium-v0 and halfcheetah/mixed-v0 (docs/methods/td3_bst.md): certain where the data are
# denser than one action in half a box per dimension, and where they are not at all, pulled by a
# third of TD3+BC's weight. Other families but the pendulum: the configs' defaults, layer-normalised
# critics. With nine to 28 action dimensions half of the negatives are other rows' actions: no
# uniform one comes near the data, and certainty would not depend on the state
# (docs/methods/td3_bst.md).
BST_LOCOMOTION: Row = {"negative_weight": 2.0, "mu": 8.0}
SHUFFLED: Row = {"shuffled": 0.5}
AROUND: dict[str, dict[str, Row]] = {
    "locomotion": {
        **_around_td3(STANDARDISED, {}),
        "td3_bst": STANDARDISED | BST_LOCOMOTION,
        "iql": {},  # section 5 of its paper is the method's defaults
        "iql_bst": BST_LOCOMOTION,
    },
    "antmaze": {
        **_around_td3(MINUS_ONE, LAYER_NORM),
        "iql": MINUS_ONE | IQL_ANTMAZE | {"temperature": 10.0},
        "iql_bst": MINUS_ONE | IQL_ANTMAZE | LAYER_NORM,
    },
    # The paper's temperature; it also drops out a tenth of the policy's units, we do not.
    **{
        name: {
            **_around_td3(STANDARDISED, LAYER_NORM),
            "td3_bst": STANDARDISED | LAYER_NORM | SHUFFLED,
            "iql": {"temperature": 0.5},
            "iql_bst": LAYER_NORM | SHUFFLED,
        }
        for name in ("adroit", "kitchen")
    },
    # Ours. Goals far away and rewards of 0 to 1 per step, as in antmaze.
    **{
        name: {
            **_around_td3(STANDARDISED, LAYER_NORM),
            "iql": IQL_ANTMAZE,
            "iql_bst": IQL_ANTMAZE | LAYER_NORM,
        }
        for name in ("maze2d", "pointmaze")
    },
    # Ours. A step changes Q by little beside its level, which divides it: the policy must be pulled
    # weakly (sweeps are in docs/methods/td3_bst.md).
    "pendulum": {
        **_around_td3(NORMALISED, {}),
        "td3_bc": NORMALISED | {"alpha": 160.0},
        "td3_bst": NORMALISED | {"mu": 16.0},
        "iql": NORMALISED,
        "iql_bst": NORMALISED | {"mu": 16.0},
    },
}

# The middle of what the paper uses: for tasks that it does not have.
FAMILIES: dict[str, dict[str, Row]] = merged(
    {
        "locomotion": {
            "arq": {},  # tables A.1 to A.3 of its paper are the method's defaults
            "bdpo": {"rho": 1.0, "eta": 0.15},
            "bpr": BPR_LOCOMOTION,
            "ibc": IBC_LOCOMOTION,
            **AROUND["locomotion"],
        },
        "antmaze": {
            "*": {"eval_episodes": 100},
            "arq": ARQ_ANTMAZE,
            "bdpo": BDPO_ANTMAZE | {"eta": 0.5},
            "bpr": BPR_ANTMAZE | {"behavior": "tilted"},  # as in locomotion; not measured here
            "ibc": BPR_ANTMAZE,
            **flow_presets.FAMILIES["antmaze"],
            **AROUND["antmaze"],
        },
        "kitchen": {"arq": ARQ_KITCHEN, **AROUND["kitchen"]},
        "adroit": {"arq": ARQ_ADROIT, **flow_presets.FAMILIES["adroit"], **AROUND["adroit"]},
        "ogbench": {
            "*": {"eval_episodes": 50},
            **flow_presets.FAMILIES["ogbench"],
        },  # FQL's protocol
        "robomimic": {"*": {"eval_episodes": 50}, "arq": ARQ_HUMAN},  # 50: robomimic's own protocol
        **{name: AROUND[name] for name in ("maze2d", "pointmaze", "pendulum")},
    },
    baseline_presets.FAMILIES,
    diffusion_presets.FAMILIES,
    pixel_presets.FAMILIES,
)


TASKS = merged(flow_presets.TASKS, baseline_presets.TASKS, diffusion_presets.TASKS)
# Settings that depend on the robot, the maze or the task, whatever the dataset: words that the name
# of a dataset or its environment holds -> rows. The first that fits is taken.
ROBOTS: dict[str, dict[str, Row]] = {
    r"\w*halfcheetah": {"bdpo": BDPO_HALFCHEETAH},
    r"\w*hopper": {"bdpo": BDPO_HOPPER},
    r"walker(2d)?": {"bdpo": BDPO_WALKER},
    **{
        f"antmaze {maze.replace('-', ' ')}": {
            "bdpo": BDPO_ANTMAZE | {"eta": eta},
            **flow_presets.antmaze(maze),
            **baseline_presets.antmaze(maze),
            **diffusion_presets.antmaze(maze),
        }
        for maze, eta in sorted(ANTMAZE_ETA.items(), key=lambda each: -len(each[0]))
    },
    **TASKS,
}


def _arq_robomimic() -> dict[str, dict[str, Row]]:
    """Under the names of Robomimic's datasets (see `known_as`)."""
    tasks = {
        "mg": (ARQ_MACHINE, ("lift", "can")),
        "ph": (ARQ_HUMAN, ("lift", "can", "square", "transport", "tool_hang")),
        "mh": (ARQ_HUMAN, ("lift", "can", "square", "transport")),
    }
    return {
        f"robomimic/{task}/{quality}-v0": {"*": {"eval_episodes": 100}, "arq": row}
        for quality, (row, names) in tasks.items()
        for task in names
    }


def _bdpo_locomotion() -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    robots = {"halfcheetah": BDPO_HALFCHEETAH, "hopper": BDPO_HOPPER, "walker2d": BDPO_WALKER}
    for robot, row in robots.items():
        for quality in ("medium", "medium-replay", "medium-expert"):
            rows[f"{robot}-{quality}-v2"] = {"bdpo": row}
        # Minari's namespace mujoco: the same robots and qualities, other agents and simulator.
        rows[f"mujoco/{robot}/medium-v0"] = {"bdpo": row}
    for name in ("hopper-medium-v2", "mujoco/hopper/medium-v0"):  # table 4: only this dataset
        rows[name] = {"bdpo": BDPO_HOPPER | {"critic_ensemble_size": 20}}
    return rows


def _bdpo_antmaze() -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    for maze, eta in ANTMAZE_ETA.items():
        row = BDPO_ANTMAZE | {"eta": eta}
        if maze == "umaze-diverse":
            row = row | {"candidates": 1}
        # Table 4 prints umaze-v2, a typo: table 1 and the script use v0.
        rows[f"antmaze-{maze}-v0"] = {"bdpo": row}
        # Minari's D4RL namespace: the same mazes, collected anew.
        rows[f"D4RL/antmaze/{maze}-v1"] = {"bdpo": row}
    return {name: {"*": {"eval_episodes": 100}} | row for name, row in rows.items()}


# Ours, chosen for two CPU cores; the energy of full size costs 419 GFLOP a step. Twice the width
# ranks no better at twice the cost (docs/methods/bpr.md).
BPR_SMALL: Row = BPR_LOCOMOTION | {
    "behavior_width": 64,
    "behavior_blocks": 2,
    "negative_samples": 8,
    "behavior_batch_size": 128,
    "behavior_learning_rate": 2e-3,
    "search_samples": 64,
    "actor_hidden": (128, 128),
    "critic_hidden": (128, 128),
    "critic_learning_rate": 1e-3,
    "pretrain_steps": 10_000,
    "train_steps": 50_000,
    "eval_every": 5_000,
    "checkpoint_every": 5_000,
}
IBC_SMALL: Row = IBC_LOCOMOTION | {
    "behavior_width": 64,
    "behavior_blocks": 2,
    "negative_samples": 8,
    "batch_size": 128,
    "behavior_learning_rate": 2e-3,
    "search_samples": 64,
    "train_steps": 10_000,
}

AROUND_ENERGY: dict[str, Row] = {"bpr": BPR_SMALL, "ibc": IBC_SMALL}

# Ours, chosen for two CPU cores: small networks, ten candidates, one behaviour model for all seeds,
# the few-step sampler and fixed steps of the log-density.
ARQ_SMALL: Row = {
    "share_behavior": True,
    "behavior_blocks": 2,
    "behavior_batch_size": 256,
    "candidates": 10,
    "candidate_batch_size": 50,
    "sampler": "few_step",
    "sampler_steps": 24,
    "density": "fixed",
    "density_nodes": 24,
    "kth": 3,
    "batch_size": 256,
}
ARQ_TINY: Row = ARQ_SMALL | {
    "behavior_width": 64,
    "behavior_learning_rate": 1e-3,
    "pretrain_steps": 20_000,
    "critic_hidden": (64, 64),
    "critic_learning_rate": 1e-3,
    "train_steps": 20_000,
    "actor_hidden": (64, 64),
    "actor_learning_rate": 1e-3,
    "actor_steps": 10_000,
    "alpha": 10.0,
    "actor_alpha": 10.0,
    "implicit_last": False,
}
# One row for locomotion. In 30,000 updates of the critics their values must travel 100 steps back:
# fast averages. K and the alphas were chosen on hopper/medium-v0; the pilots are in
# docs/methods/arq.md.
ARQ_LOCOMOTION: Row = ARQ_SMALL | {
    "normalize_observations": True,
    "behavior_width": 128,
    "behavior_learning_rate": 5e-4,
    "pretrain_steps": 40_000,
    "critic_hidden": (128, 128),
    "critic_layer_norm": True,
    "critic_learning_rate": 1e-3,
    "tau": 0.02,
    "train_steps": 30_000,
    "actor_hidden": (128, 128),
    "actor_learning_rate": 1e-3,
    "actor_decays": True,
    "actor_steps": 30_000,
    "kth": 8,
    "alpha": 3.0,
    "actor_alpha": 3.0,
    "eval_every": 30_000,
    "log_every": 500,
    "checkpoint_every": 1_000,
}

# Ours, chosen for two CPU cores. Two critics score as ten do, and one sample costs half as much as
# four (docs/methods/bdpo.md); the rest was not searched. In 60,000 updates values must travel 100
# steps back: fast averages.
BDPO_SMALL: Row = {
    "normalize_observations": True,
    "actor_hidden": (128, 128, 128),
    "critic_hidden": (128, 128),
    "critic_layer_norm": True,
    "critic_ensemble_size": 2,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 1e-3,
    "tau": 0.02,
    "value_tau": 0.05,
    "q_samples": 1,
    "v_samples": 1,
    "actor_samples": 1,
    "pretrain_steps": 15_000,
    "train_steps": 60_000,
    "warmup_steps": 8_000,
    "actor_interval": 2,
    "candidates": 1,
    "eval_every": 4_000,
    "checkpoint_every": 4_000,
}
# Ten times the published eta: with 0.2, one seed's scores on hopper/medium-v0 swung between 2 and
# 59. Hopper's other sets were not tried.
BDPO_SMALL_HOPPER: Row = BDPO_HOPPER | BDPO_SMALL | {"eta": 2.0}
BDPO_SMALL_HALFCHEETAH: Row = BDPO_HALFCHEETAH | BDPO_SMALL

# Ours. Three numbers of observation and one of action need no wide networks, nor large steps.
NARROW_ACTOR: Row = {"actor_hidden": (64, 64)}
NARROW: Row = NARROW_ACTOR | {
    "critic_hidden": (64, 64),
    "critic_layer_norm": False,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
}
NARROW_MORSE: Row = NARROW | {"behavior_hidden": (64, 64)}

# The best of nine settings in NeoRL-2's search for TD3+BC, whose score it published (its
# repository, benchmark/results/SafetyHalfCheetah-td3bc/log.csv). With the paper's alpha of 2.5 the
# policy breaks the speed limit, which the data never do.
NEORL2: dict[str, dict[str, Row]] = {
    "neorl2/safetyhalfcheetah-train-v0": {"td3_bc": {"alpha": 0.05, "noise": 2.5}}
}

SMALL: dict[str, dict[str, Row]] = {
    "pendulum/mixed-v0": {
        "bc": NARROW_ACTOR,
        **dict.fromkeys(("td3_bc", "iql", "one_step"), NARROW),
        **dict.fromkeys(("td3_bst", "iql_bst"), NARROW_MORSE),
        **flow_presets.PENDULUM,
        **baseline_presets.PENDULUM,
        **diffusion_presets.PENDULUM,
        "*": {"eval_episodes": 20, "eval_every": 2_000, "log_every": 500, "checkpoint_every": 500},
        "arq": ARQ_TINY | {"eval_every": 10_000},
        "bdpo": {
            "actor_hidden": (64, 64, 64),
            "critic_hidden": (64, 64),
            "critic_ensemble_size": 4,
            "actor_learning_rate": 3e-4,
            "q_samples": 4,
            "v_samples": 4,
            "actor_samples": 4,
            "pretrain_steps": 10_000,
            "train_steps": 5_000,
            "warmup_steps": 2_000,
            "actor_interval": 2,
        },
        "bpr": {
            "behavior_width": 64,
            "behavior_blocks": 2,
            "negative_samples": 16,
            "behavior_batch_size": 256,
            "search_samples": 64,
            "actor_hidden": (64, 64),
            "critic_hidden": (64, 64),
            "behavior_learning_rate": 2e-3,
            "q_weight": 100.0,  # differences of Q and of the energy are then .8 nats each
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "pretrain_steps": 6_000,
            "train_steps": 8_000,
        },
        "ibc": {
            "behavior_width": 64,
            "behavior_blocks": 2,
            "negative_samples": 16,
            "behavior_learning_rate": 2e-3,
            "batch_size": 256,
            "search_samples": 64,
            "train_steps": 6_000,
        },
    },
    "maze2d/umaze-v0": {
        "arq": ARQ_TINY
        | {"eval_every": 10_000, "log_every": 500, "checkpoint_every": 500, "eval_episodes": 20},
    },
    "hopper/medium-v0": {
        "*": {"eval_episodes": 10, "eval_every": 10_000, "checkpoint_every": 1_000},
        # Its scores swing from 26 to 110 between episodes.
        "arq": ARQ_LOCOMOTION | {"eval_episodes": 30},
        "bdpo": BDPO_SMALL_HOPPER,
        **AROUND_ENERGY,
    },
    **{
        f"hopper/{quality}-v0": {"arq": ARQ_LOCOMOTION, "bdpo": BDPO_SMALL_HOPPER} | AROUND_ENERGY
        for quality in ("medium-replay", "mixed")
    },
    **{
        f"halfcheetah/{quality}-v0": {"arq": ARQ_LOCOMOTION, "bdpo": BDPO_SMALL_HALFCHEETAH}
        | AROUND_ENERGY
        for quality in ("medium", "medium-replay", "mixed")
    },
}

# The methods on TD3's and IQL's parts on the sets that a CPU serves: a twentieth of the updates, of
# networks of half the width, therefore larger steps and critics that bear them; the family's
# settings otherwise. TD3+BC on halfcheetah/mixed-v0 then ends at 45 after 50,000 updates; without
# layer normalisation at 37, with steps of 3e-4 too at 4. IQL learns from standardised observations:
# from raw ones it had 27 on hopper/medium-v0, from these 37.
SLIM_ACTOR: Row = {"actor_hidden": (128, 128)}
SLIM: Row = SLIM_ACTOR | {
    "critic_hidden": (128, 128),
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
SHORT_MORSE: Row = {
    "behavior_hidden": (128, 128, 128),
    "pretrain_steps": 10_000,
    "behavior_batch_size": 256,
    "negative_samples": 4,
    "behavior_learning_rate": 1e-3,
}
SHORT_RUN: Row = {"train_steps": 50_000, "eval_every": 5_000, "checkpoint_every": 5_000}
SHORT: dict[str, Row] = {
    "bc": SHORT_RUN | SLIM_ACTOR,
    "td3_bc": SHORT_RUN | SLIM | LAYER_NORM,
    "iql": SHORT_RUN | SLIM | NORMALISED,
    "one_step": SHORT_RUN | SLIM | LAYER_NORM | {"pretrain_steps": 50_000, "train_steps": 25_000},
    "td3_bst": SHORT_RUN | SLIM | LAYER_NORM | SHORT_MORSE,
    "iql_bst": SHORT_RUN | SLIM | LAYER_NORM | SHORT_MORSE | NORMALISED,
}
SHORT_SETS: dict[str, str] = {
    "pendulum/mixed-v0": "pendulum",
    "hopper/medium-v0": "locomotion",
    "hopper/mixed-v0": "locomotion",
    "hopper/medium-replay-v0": "locomotion",
    "halfcheetah/medium-v0": "locomotion",
    "halfcheetah/mixed-v0": "locomotion",
    "halfcheetah/medium-replay-v0": "locomotion",
    "neorl2/safetyhalfcheetah-train-v0": "locomotion",
    "adroit/pen-expert-v0": "adroit",
    "adroit/door-human-replay-v0": "adroit",
    "maze2d/umaze-v0": "maze2d",
    "pointmaze/umaze-v0": "pointmaze",
}


def _short() -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    for name, family in SHORT_SETS.items():
        settings = AROUND[family]
        own = SMALL.get(name, {}) | NEORL2.get(name, {})
        rows[name] = {
            algo: settings.get(algo, {}) | steps | own.get(algo, {})
            for algo, steps in SHORT.items()
        }
        rows[name] = own | rows[name]
    return rows


CPU: dict[str, dict[str, Row]] = SMALL | _short() | pixel_presets.EMBEDDED | pixel_presets.CPU
EMBEDDED = ("pendulum/mixed-v0", "pendulum/pixels-v0")

PRESETS: dict[str, dict[str, Row]] = merged(
    _bdpo_locomotion() | _bdpo_antmaze() | _arq_robomimic(),
    {name: {"td3_bc": STANDARDISED | rows["td3_bc"]} for name, rows in NEORL2.items()},
    baseline_presets.DATASETS,
    diffusion_presets.DATASETS,
    {name: CPU[name] for name in EMBEDDED},
)


# D4RL's antmaze tasks by the name of the file that each downloads (d4rl/locomotion/__init__.py).
ANTMAZE_FILES = {
    "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse": "antmaze-umaze-v0",
    "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse": "antmaze-umaze-diverse-v0",
    "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse": "antmaze-medium-play-v0",
    "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse": "antmaze-medium-diverse-v0",
    "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse": "antmaze-large-play-v0",
    "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse": "antmaze-large-diverse-v0",
}


def known_as(dataset: str) -> str:
    """The name under which a dataset's row is kept: an id as it is, a file by its task.

    >>> known_as("downloads/hopper_medium_replay-v2.hdf5")
    'hopper-medium-replay-v2'
    >>> known_as("datasets/lift/ph/low_dim_v15.hdf5#train")  # as robomimic's downloads lie
    'robomimic/lift/ph-v0'
    """
    path = PurePath(dataset.partition("#")[0])
    if path.suffix not in (".hdf5", ".h5"):
        return dataset
    if path.parent.name in ("ph", "mh", "mg"):
        return f"robomimic/{path.parent.parent.name}/{path.parent.name}-v0"
    stem = path.stem
    return ANTMAZE_FILES.get(stem.removesuffix("_fixed"), stem.replace("_", "-"))


class Preset(NamedTuple):
    """The fields that a method takes on a dataset, and where they come from."""

    fields: dict[str, Any]
    source: str  # for people: "the dataset's own row", "its robot's row (hopper)", ...


def overrides_for(
    dataset: str, family: str, algo: str, env_id: str = "", kind: str = DEFAULT
) -> dict[str, Any]:
    """As `preset`, without the source."""
    return preset(dataset, family, algo, env_id, kind).fields


def preset(dataset: str, family: str, algo: str, env_id: str = "", kind: str = DEFAULT) -> Preset:
    """Finds a method's settings for a dataset: its own row, else its robot's, else its family's.

    Args:
        dataset: its full name.
        family: as `data.families.family_of` says.
        algo: the method's name.
        env_id: of the environment that the dataset names, which may tell the robot.
        kind: DEFAULT, or CPU_PRESET for the dataset's row of `CPU` and no other.

    Raises:
        ConfigError: if `CPU` has no such row.
    """
    if kind == CPU_PRESET:
        check_cpu(dataset, algo)
        rows = CPU[known_as(dataset)]
        return Preset(rows.get("*", {}) | rows[algo], "the dataset's row for a CPU")
    own, by_family = PRESETS.get(known_as(dataset), {}), FAMILIES.get(family, {})
    shared = dict((by_family if algo not in own else {}).get("*", {})) | dict(own.get("*", {}))
    if algo in own:
        return Preset(shared | own[algo], "the dataset's own row")
    robot = _robot(dataset, env_id)
    if robot and algo in ROBOTS[robot]:
        name = re.sub(r"\\w\*|\(2d\)\?", "", robot)
        whose = "task" if robot in TASKS else "robot"
        return Preset(shared | ROBOTS[robot][algo], f"its {whose}'s row ({name})")
    if algo in by_family:
        return Preset(shared | by_family[algo], f"its family's row ({family})")
    return Preset(shared, "the method's defaults")


def has_cpu(dataset: str, algo: str) -> bool:
    """Whether `--preset=cpu` has settings of a method for a dataset, by its full name."""
    return algo in CPU.get(known_as(dataset), {})


def check_cpu(dataset: str, algo: str) -> None:
    """Raises ConfigError, naming the datasets that have one, where `CPU` lacks a row."""
    if has_cpu(dataset, algo):
        return
    others = [name for name, rows in CPU.items() if algo in rows]
    told = f"It has them for {', '.join(others)}" if others else "It has them for no dataset"
    raise ConfigError(
        f"--preset=cpu has no settings of {algo} for {dataset}. {told}. Leave it out, and set what "
        "should be smaller, such as train_steps"
    )


def _robot(dataset: str, env_id: str) -> str:
    """The key of ROBOTS that fits a dataset's name or its environment's; empty if none does."""
    for place in (known_as(dataset), env_id):
        found = words(re.sub(r"[-_]v\d+$", "", place))
        for robot in ROBOTS:
            parts, last = robot.split(), len(found) - len(robot.split())
            if any(
                all(re.fullmatch(part, found[at + i]) for i, part in enumerate(parts))
                for at in range(last + 1)
            ):
                return robot
    return ""
