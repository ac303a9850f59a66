"""Settings of ReBRAC, XQL, AWAC and CQL by task, for `presets.py`.

ReBRAC: the penalties of the authors' published configs (tinkoff-ai/ReBRAC, configs/rebrac), for
every dataset of D4RL; defaults are theirs for locomotion. For OGBench, those that FQL's authors
(Park, Li and Levine 2025, arXiv 2502.02538) chose on the default task of each dataset: table 6, of
antsoccer table 7, which is of the same tasks before fine-tuning online.
XQL: the temperatures, clips and batches of the authors' scripts (Div99/XQL, offline/reproduce),
without their noise on actions (halfcheetah-medium), uniform actions (hopper-medium-expert,
antmaze-umaze-diverse) and further V steps (antmaze-medium-diverse). AWAC: the lambdas of CORL
(Tarasov et al. 2022, arXiv 2210.07105), with its weights. CQL: the readme and the scripts of the
authors' code.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Rows = dict[str, dict[str, Row]]  # a dataset's name, or words that it holds -> method -> fields


def merged(*tables: Rows) -> Rows:
    """Tables as one: rows of different methods under one name stand beside each other."""
    found: Rows = {}
    for table in tables:
        for name, rows in table.items():
            found[name] = found.get(name, {}) | rows
    return found


# --- ReBRAC ---------------------------------------------------------------------------------------


def _penalties(actor: float, critic: float) -> Row:
    return {"actor_penalty": actor, "critic_penalty": critic}


REBRAC_LOCOMOTION = {  # robot -> quality -> (beta_1, beta_2)
    "halfcheetah": {
        "random": (0.001, 0.1),
        "medium": (0.001, 0.01),
        "medium-replay": (0.01, 0.001),
        "medium-expert": (0.01, 0.1),
        "full-replay": (0.001, 0.1),
        "expert": (0.01, 0.01),
    },
    "hopper": {
        "random": (0.001, 0.01),
        "medium": (0.01, 0.01),
        "medium-replay": (0.05, 0.5),
        "medium-expert": (0.1, 0.01),
        "full-replay": (0.01, 0.01),
        "expert": (0.1, 0.1),
    },
    "walker2d": {
        "random": (0.01, 0.0),
        "medium": (0.05, 0.1),
        "medium-replay": (0.05, 0.01),
        "medium-expert": (0.01, 0.01),
        "full-replay": (0.01, 0.01),
        "expert": (0.01, 0.5),
    },
}
REBRAC_ANTMAZE = {
    "umaze": (0.003, 0.002),
    "umaze-diverse": (0.003, 0.001),
    "medium-play": (0.001, 0.0005),
    "medium-diverse": (0.001, 0.0),
    "large-play": (0.002, 0.001),
    "large-diverse": (0.002, 0.002),
}
REBRAC_ADROIT = {
    "pen human": (0.1, 0.5),
    "pen cloned": (0.05, 0.5),
    "pen expert": (0.01, 0.01),
    "door human": (0.1, 0.1),
    "door cloned": (0.01, 0.1),
    "door expert": (0.05, 0.01),
    "hammer human": (0.01, 0.5),
    "hammer cloned": (0.1, 0.5),
    "hammer expert": (0.01, 0.01),
    "relocate human": (0.1, 0.01),
    "relocate cloned": (0.1, 0.01),
    "relocate expert": (0.05, 0.01),
}
UNTUNED = (0.1, 0.01)  # ours, from the middle: for tasks of OGBench that the table does not have
REBRAC_OGBENCH = {
    **dict.fromkeys(("antmaze large navigate", "antmaze giant navigate"), (0.003, 0.01)),
    **dict.fromkeys(("humanoidmaze medium navigate", "humanoidmaze large navigate"), (0.01, 0.01)),
    "antsoccer arena navigate": (0.01, 0.01),
    "cube single play": (1.0, 0.0),
    "cube double play": (0.1, 0.0),
    "scene play": (0.1, 0.01),
    **dict.fromkeys(("puzzle 3x3 play", "puzzle 4x4 play"), (0.3, 0.01)),
}
RAW: Row = {"reward": "affine", "reward_scale": 1.0}
ANTMAZE: Row = {
    "gamma": 0.999,
    "reward_scale": 100.0,
    "reward_shift": 0.0,
    "batch_size": 256,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 5e-5,
}
ADROIT: Row = {"batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
OGBENCH: Row = {
    "batch_size": 256,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "actor_hidden": (512, 512, 512, 512),
    "critic_hidden": (512, 512, 512, 512),
    "activation": "gelu",
}
FAR: Row = {"gamma": 0.995}
FAR_TASKS = ("giant", "humanoidmaze", "antsoccer")


def _rebrac_datasets() -> Rows:
    """D4RL's locomotion by dataset, and Minari's sets of the same robots and qualities."""
    names = ("{robot}-{quality}-v2", "mujoco/{robot}/{quality}-v0")
    return {
        name.format(robot=robot, quality=quality): {"rebrac": RAW | _penalties(*pair)}
        for robot, qualities in REBRAC_LOCOMOTION.items()
        for quality, pair in qualities.items()
        for name in names
    }


# --- XQL ------------------------------------------------------------------------------------------


def _xql(temperature: float, clip: float, batch: int = 1024) -> Row:
    return {"value_temperature": temperature, "max_exponent": clip, "batch_size": batch}


XQL_LOCOMOTION = {
    "halfcheetah-medium-v2": _xql(1.0, 7.0),
    "halfcheetah-medium-replay-v2": _xql(1.0, 5.0, 256),
    "halfcheetah-medium-expert-v2": _xql(1.0, 5.0),
    "hopper-medium-v2": _xql(5.0, 7.0),
    "hopper-medium-replay-v2": _xql(2.0, 7.0, 256),
    "hopper-medium-expert-v2": _xql(2.0, 7.0),
    "walker2d-medium-v2": _xql(10.0, 7.0),
    "walker2d-medium-replay-v2": _xql(5.0, 5.0),
    "walker2d-medium-expert-v2": _xql(2.0, 5.0, 256),
}
XQL_ANTMAZE = {
    "umaze": _xql(2.0, 7.0, 256),
    "umaze-diverse": _xql(5.0, 7.0, 256),
    "medium-play": _xql(0.8, 5.0, 256),
    "medium-diverse": _xql(0.6, 7.0, 256),
    "large-play": _xql(0.6, 5.0),
    "large-diverse": _xql(0.55, 5.0),
}
XQL_KITCHEN = {
    "kitchen complete": _xql(2.0, 7.0),
    "kitchen mixed": _xql(8.0, 7.0),
    "kitchen partial": _xql(5.0, 7.0),
}
MINUS_ONE: Row = {"gamma": 0.99, "reward_scale": 1.0, "reward_shift": -1.0}
SHARP: Row = MINUS_ONE | {"temperature": 10.0}  # the policy's in antmaze, as IQL's
HUMAN: Row = {"temperature": 0.5}  # the policy's in kitchen and adroit

# --- AWAC, CQL ------------------------------------------------------------------------------------

AWAC: Row = {"weights": "exponential", "temperature": 3.0}
AWAC_SHARP: Row = AWAC | {"temperature": 10.0}
CQL_ANTMAZE: Row = {  # rewards (r - 1/2) 4
    "gamma": 0.99,
    "reward_scale": 4.0,
    "reward_shift": -2.0,
    "lagrange": True,
    "target_gap": 1.0,  # the authors' 5 is of alpha times the gap
}

# --- by name --------------------------------------------------------------------------------------

DATASETS: Rows = merged(
    _rebrac_datasets(), {name: {"xql": row} for name, row in XQL_LOCOMOTION.items()}
)
TASKS: Rows = {
    **{task: {"rebrac": ADROIT | _penalties(*pair)} for task, pair in REBRAC_ADROIT.items()},
    **{
        task: {
            "rebrac": OGBENCH
            | (FAR if any(word in task for word in FAR_TASKS) else {})
            | _penalties(*pair)
        }
        for task, pair in REBRAC_OGBENCH.items()
    },
    **{task: {"xql": HUMAN | row} for task, row in XQL_KITCHEN.items()},
}


def antmaze(maze: str) -> dict[str, Row]:
    """The rows of one of D4RL's ant mazes, such as "large-play"."""
    return {
        "rebrac": ANTMAZE | _penalties(*REBRAC_ANTMAZE[maze]),
        "xql": SHARP | XQL_ANTMAZE[maze],
    }


# Ours, chosen for two CPU cores and measured on seeds that the results do not have.
SMALL: Row = {
    "normalize_observations": True,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "batch_size": 256,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "train_steps": 20_000,
}
PENDULUM: dict[str, Row] = {
    "rebrac": SMALL | _penalties(0.005, 0.001),
    "xql": SMALL | {"value_temperature": 1.0},
    "awac": SMALL | AWAC,
    "cql": SMALL
    | {"action_samples": 4, "conservatism": 0.2, "train_steps": 10_000, "eval_every": 1_000},
}

# For tasks that the papers do not have: penalties from the middle of theirs, and the temperatures
# with which XQL's authors ran a whole family.
FAMILIES: Rows = {
    "locomotion": {
        "rebrac": RAW | _penalties(0.01, 0.01),
        "xql": {},  # the method's defaults, on returns that span 1000
        "awac": RAW | AWAC,
        "cql": RAW,
    },
    "antmaze": {
        "rebrac": ANTMAZE | _penalties(0.002, 0.001),
        "xql": SHARP | _xql(0.6, 7.0, 256),
        "awac": MINUS_ONE | AWAC_SHARP,
        "cql": CQL_ANTMAZE,
    },
    "kitchen": {"xql": HUMAN | _xql(5.0, 7.0, 256)},
    "adroit": {
        "rebrac": ADROIT | _penalties(0.05, 0.1),
        "xql": HUMAN | _xql(5.0, 7.0, 256),
        "awac": AWAC_SHARP,
    },
    "ogbench": {"rebrac": OGBENCH | _penalties(*UNTUNED)},
    **{name: {"awac": AWAC_SHARP} for name in ("maze2d", "pointmaze")},
}
