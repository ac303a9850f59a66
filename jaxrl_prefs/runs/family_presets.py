"""Settings of BDPO, ARQ, BPR, IBC and those around TD3 by family, robot and dataset.

For `presets.py`. Defaults of the methods are the papers' for locomotion, so rows name only what
differs.
"""

from __future__ import annotations

from jaxrl_prefs.runs import baseline_presets, diffusion_presets, flow_presets, pixel_presets
from jaxrl_prefs.runs.baseline_presets import Row, merged

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


# TD3-BST and IQL-BST: one setting for every family but the pendulum. mu was chosen on
# hopper/medium-v0 and halfcheetah/mixed-v0, the unit of the distance on two datasets more, and nine
# were scored, with the Morse network of --preset=cpu (docs/methods/td3_bst.md); none was of antmaze
# or kitchen. Half of the network's negatives are near the data, so that its certainty falls off
# gradually; distances are in standard deviations of a clone. With nine to 28 action dimensions half
# of the other negatives are other rows' actions: no uniform one comes near the data, and certainty
# would not depend on the state.
BST: Row = {
    "near": 0.5,
    "clone_steps": 3_000,
    "pretrain_steps": 3_000,
    "weight_gradient": "detached",
    "distance": "standardised",
    "mu": 4.0,
}
SHUFFLED: Row = {"shuffled": 0.5}


def _around_td3(data: Row, critic: Row) -> dict[str, Row]:
    """BC, TD3+BC, one-step and TD3-BST on one form of the data."""
    rows = dict.fromkeys(("td3_bc", "one_step"), data | critic)
    return {"bc": data, **rows, "td3_bst": data | critic | BST}


AROUND: dict[str, dict[str, Row]] = {
    "locomotion": {
        **_around_td3(STANDARDISED, {}),
        "iql": {},  # section 5 of its paper is the method's defaults
        "iql_bst": BST,
    },
    "antmaze": {
        **_around_td3(MINUS_ONE, LAYER_NORM),
        "iql": MINUS_ONE | IQL_ANTMAZE | {"temperature": 10.0},
        "iql_bst": MINUS_ONE | IQL_ANTMAZE | LAYER_NORM | BST,
    },
    # The paper's temperature; it also drops out a tenth of the policy's units, we do not.
    **{
        name: {
            **_around_td3(STANDARDISED, LAYER_NORM),
            "td3_bst": STANDARDISED | LAYER_NORM | BST | SHUFFLED,
            "iql": {"temperature": 0.5},
            "iql_bst": LAYER_NORM | BST | SHUFFLED,
        }
        for name in ("adroit", "kitchen")
    },
    # Ours. Goals far away and rewards of 0 to 1 per step, as in antmaze.
    **{
        name: {
            **_around_td3(STANDARDISED, LAYER_NORM),
            "iql": IQL_ANTMAZE,
            "iql_bst": IQL_ANTMAZE | LAYER_NORM | BST,
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


# The best of nine settings in NeoRL-2's search for TD3+BC, whose score it published (its
# repository, benchmark/results/SafetyHalfCheetah-td3bc/log.csv). With the paper's alpha of 2.5 the
# policy breaks the speed limit, which the data never do.
NEORL2: dict[str, dict[str, Row]] = {
    "neorl2/safetyhalfcheetah-train-v0": {"td3_bc": {"alpha": 0.05, "noise": 2.5}}
}

DATASETS: dict[str, dict[str, Row]] = merged(
    _bdpo_locomotion() | _bdpo_antmaze() | _arq_robomimic(),
    {name: {"td3_bc": STANDARDISED | rows["td3_bc"]} for name, rows in NEORL2.items()},
)
