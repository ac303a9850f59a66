"""Fields of a run and of its method under the names that folders of earlier releases hold.

A folder with an earlier name is read as if it held the present one. On a command line an earlier
name is refused, with the present one named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrl_prefs.runs import cpu_presets, presets

_MORSE = {
    "morse_hidden": "behavior_hidden",
    "morse_learning_rate": "behavior_learning_rate",
    "pretrain_batch_size": "behavior_batch_size",
    "negatives": "negative_samples",
}
RENAMED: dict[str, dict[str, str]] = {  # method -> {earlier name: present name}
    "bdpo": {"ensemble_size": "critic_ensemble_size"},
    "arq": {
        "behavior_members": "behavior_ensemble_size",
        "behavior_steps": "pretrain_steps",
        "critics": "critic_ensemble_size",
        "critic_steps": "train_steps",
        "policy_hidden": "actor_hidden",
        "policy_learning_rate": "actor_learning_rate",
        "policy_decays": "actor_decays",
        "policy_steps": "actor_steps",
        "policy_alpha": "actor_alpha",
        "weight_limit": "max_weight",
    },
    "td3_bst": _MORSE,
    "iql_bst": _MORSE,
    "bpr": {
        "ensemble_size": "critic_ensemble_size",
        "energy_width": "behavior_width",
        "energy_blocks": "behavior_blocks",
        "energy_learning_rate": "behavior_learning_rate",
        "energy_batch_size": "behavior_batch_size",
    },
    "iql": {"largest_weight": "max_weight"},
    "one_step": {"largest_weight": "max_weight"},
    "ibc": {
        "width": "behavior_width",
        "blocks": "behavior_blocks",
        "learning_rate": "behavior_learning_rate",
    },
}


# Fields that folders of earlier releases lack, at the value that those runs had.
ADDED: dict[str, Any] = {  # of the run; of `preset` see `_preset`
    "preset": presets.DEFAULT,
    "clip_actions": False,
    "holdout": 0.0,
    "n_step": 1,
    "action_chunk": 1,
    "replan": 0,
    "precision": "float32",
    "deterministic": False,
    "checkpoint_minutes": 0.0,
    "frame_stack": 3,
    "encoder": "drq",
    "encoder_features": 50,
    "encoder_learning_rate": 3e-4,
    "image_shift": 4,
    "encoder_sharing": "shared",
}
_BST = {
    "weight_floor": 0.0,
    "near": 0.0,
    "near_width": 2.0,
    "input_noise": 0.0,
    "behavior_weight_decay": 0.0,
    "stop_uncertainty": 0.0,
    "clone_steps": 0,
}
ADDED_TO_METHOD: dict[str, dict[str, Any]] = {
    "bdpo": {"value_step_hidden": 64},
    "td3_bst": _BST,
    "iql_bst": _BST,
}
RUN = {"tensorboard": "log"}  # a field of the run, true for what is now log=tensorboard


def present_names(algo: str) -> dict[str, str]:
    """The fields of a method and of its run that have another name now: {earlier: present}."""
    return RUN | RENAMED.get(algo, {})


def present(about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json with the present names of its run's and its method's fields.

    Sections that are missing or no mappings are left as they are.
    """
    run = about.get("run")
    algo = run.get("algo") if isinstance(run, Mapping) else None
    names = RENAMED.get(algo, {}) if isinstance(algo, str) else {}
    found = dict(about)
    if isinstance(run, Mapping):
        run = {name: value for name, value in run.items() if name != "tensorboard"}
        run = ADDED | {"preset": _preset(run)} | run
        if about["run"].get("tensorboard") is not None:
            run["log"] = ["tensorboard"] if about["run"]["tensorboard"] else []
        found["run"] = run
    for section in ("method", "sweep"):
        fields = about.get(section)
        if isinstance(fields, Mapping):
            found[section] = {names.get(name, name): value for name, value in fields.items()}
    if isinstance(algo, str) and isinstance(found.get("method"), Mapping):
        found["method"] = ADDED_TO_METHOD.get(algo, {}) | found["method"]
    return found


def _preset(run: Mapping[str, Any]) -> str:
    """The preset of a run of earlier releases, which took a CPU's settings where there are some.

    The sets of `cpu_presets.EMBEDDED` have one kind of settings.
    """
    algo, dataset = (str(run.get(name, "")) for name in ("algo", "dataset"))
    is_cpu = dataset not in cpu_presets.EMBEDDED and presets.has_cpu(dataset, algo)
    return presets.CPU_PRESET if is_cpu else presets.DEFAULT
