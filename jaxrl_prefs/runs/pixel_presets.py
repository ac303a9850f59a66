"""Settings on datasets with images (docs/pixels.md).

Of V-D4RL (Lu et al. 2023, arXiv 2206.04779) the paper's baseline DrQ+BC, whose code is TD3+BC on
DrQ-v2's networks, and the same sizes for the others: BPR's paper names none. Of the pendulum's
pictures our own, for a CPU; and such as well, with `--preset=cpu`, of the sets of 20,000 steps that
`jaxrl-prefs data make vd4rl/...` makes.
"""

from __future__ import annotations

from typing import Any

from jaxrl_prefs.data.generate import vd4rl

Row = dict[str, Any]

# Rewards and discounts as of the pendulum without pictures (presets.py). Speed is read off frames.
PICTURES: Row = {
    "encoder": "two_layers",
    "encoder_learning_rate": 1e-3,
    "image_shift": 1,
    "eval_episodes": 20,
    "eval_every": 1_000,
    "log_every": 500,
    "checkpoint_every": 500,
}
SLIM: Row = {
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "batch_size": 128,
    "train_steps": 3_000,
}
NORMALISED: Row = {"critic_layer_norm": True}
EMBEDDED: dict[str, dict[str, Row]] = {
    "pendulum/pixels-v0": {
        "*": PICTURES,
        "bc": {
            name: SLIM[name]
            for name in ("actor_hidden", "actor_learning_rate", "batch_size", "train_steps")
        },
        "td3_bc": SLIM | NORMALISED | {"alpha": 160.0},
        "iql": SLIM | NORMALISED,
        "bpr": SLIM
        | {
            "behavior_width": 64,
            "behavior_blocks": 2,
            "negative_samples": 16,
            "behavior_batch_size": 128,
            "search_samples": 64,
            "behavior_learning_rate": 2e-3,
            "q_weight": 100.0,
            "pretrain_steps": 2_000,
        },
    }
}

# In 3,000 updates the values of a discount of 0.99 and targets at a rate of 0.005 reach a fifth of
# what they should be, and TD3+BC with an alpha of 2.5 falls below cloning (walker-walk-medium).
WALKER: Row = {
    "encoder": "two_layers",
    "encoder_learning_rate": 1e-3,
    "gamma": 0.97,
    "n_step": 3,
    "reward_scale": 0.1,
    "eval_episodes": 3,
    "eval_every": 3_000,
    "log_every": 500,
    "checkpoint_every": 500,
}
WIDE: Row = SLIM | {
    "actor_hidden": (256, 256),
    "critic_hidden": (256, 256),
    "batch_size": 64,
    "train_steps": 3_000,
    "tau": 0.02,
}
CPU: dict[str, dict[str, Row]] = {
    name: {
        "*": WALKER,
        "bc": {name: WIDE[name] for name in EMBEDDED["pendulum/pixels-v0"]["bc"]},
        "td3_bc": WIDE | NORMALISED | {"alpha": 1.0},
        "iql": WIDE | NORMALISED,
        "bpr": WIDE
        | {
            "behavior": "tilted",
            "behavior_width": 64,
            "behavior_blocks": 2,
            "negative_samples": 8,
            "behavior_batch_size": 64,
            "search_samples": 64,
            "behavior_learning_rate": 1e-3,
            "q_weight": 10.0,
            "pretrain_steps": 2_000,
        },
    }
    for name in vd4rl.SETS
    if "-full" not in name
}

_DRQ: Row = {
    "gamma": 0.99,
    "n_step": 3,
    "frame_stack": 3,
    "encoder": "drq",
    "encoder_features": 50,
    "image_shift": 4,
}
_HEADS: Row = {"actor_hidden": (1024, 1024), "critic_hidden": (1024, 1024), "tau": 0.01}
FAMILIES: dict[str, dict[str, Row]] = {
    "vd4rl": {
        "bc": _DRQ | {"actor_hidden": (1024, 1024)},
        "td3_bc": _DRQ | _HEADS | {"alpha": 2.5, "actor_interval": 1},
        "iql": _DRQ | _HEADS,
        "bpr": _DRQ | _HEADS,
    }
}
