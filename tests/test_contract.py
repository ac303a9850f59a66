"""Every method of ours under the checks of jaxrl_prefs/testing/.

A new method needs three entries: a tiny config in TINY, the state fields that each phase's updates
may change in CHANGES, and those that entering a phase may change in ENTERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import pytest

from jaxrl_prefs import testing
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.testing import Subject
from tests import probes

SUBJECTS: dict[str, Any] = {**METHODS, "probe": probes}

# Fields of Config that make a method small; every phase takes a few steps.
TINY: dict[str, dict[str, Any]] = {
    "arq": {
        "behavior_width": 8,
        "behavior_blocks": 1,
        "behavior_batch_size": 8,
        "pretrain_steps": 4,
        "candidates": 3,
        "candidate_batch_size": 8,
        "sampler": "few_step",
        "sampler_steps": 4,
        "density": "fixed",
        "density_nodes": 6,
        "kth": 2,
        "critic_hidden": (8,),
        "actor_hidden": (8,),
        "batch_size": 8,
        "train_steps": 4,
        "actor_steps": 4,
    },
    "bdpo": {
        "pretrain_steps": 4,
        "train_steps": 8,
        "warmup_steps": 4,
        "batch_size": 8,
        "diffusion_steps": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "critic_ensemble_size": 2,
        "q_samples": 2,
        "v_samples": 2,
        "actor_samples": 2,
        "candidates": 2,
        "actor_interval": 3,
    },
    "bpr": {
        "pretrain_steps": 4,
        "train_steps": 4,
        "batch_size": 8,
        "behavior_batch_size": 24,  # with `epoch`, the held-out rows are in every batch
        "batches": "epoch",
        "behavior_width": 8,
        "behavior_blocks": 1,
        "negative_samples": 3,
        "search_samples": 4,
        "search_rounds": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "ibc": {
        "train_steps": 4,
        "batch_size": 24,
        "batches": "epoch",
        "behavior_width": 16,
        "behavior_blocks": 1,
        "negative_samples": 8,  # fewer, and a unit may be active for all: a gradient of rounding
        "search_samples": 4,
        "search_rounds": 2,
    },
    "bc": {"policy": "gaussian", "train_steps": 4, "batch_size": 8, "actor_hidden": (8,)},
    "td3_bc": {"train_steps": 5, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "rebrac": {"train_steps": 5, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "td3_bst": {
        "pretrain_steps": 3,
        "train_steps": 5,
        "batch_size": 8,
        "behavior_batch_size": 128,  # every batch must hold some of the held-out rows
        "negative_samples": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "behavior_hidden": (8,),
    },
    "iql": {"train_steps": 4, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "xql": {"train_steps": 4, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "awac": {"train_steps": 4, "batch_size": 8, "actor_hidden": (8,), "critic_hidden": (8,)},
    "cql": {  # with every option
        "lagrange": True,
        "max_backup": True,
        "action_samples": 2,
        "train_steps": 4,
        "batch_size": 8,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "one_step": {
        "pretrain_steps": 3,
        "train_steps": 3,
        "batch_size": 8,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "fql": {
        "train_steps": 4,
        "batch_size": 8,
        "flow_steps": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "ifql": {
        "train_steps": 4,
        "batch_size": 8,
        "flow_steps": 2,
        "candidates": 3,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "dql": {
        "train_steps": 4,
        "batch_size": 8,
        "diffusion_steps": 2,
        "candidates": 3,
        "average_start": 0,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "idql": {
        "train_steps": 4,
        "batch_size": 8,
        "diffusion_steps": 2,
        "candidates": 3,
        "behavior_width": 8,
        "behavior_blocks": 1,
        "critic_hidden": (8,),
    },
    "dac": {
        "train_steps": 4,
        "batch_size": 8,
        "diffusion_steps": 2,
        "critic_ensemble_size": 2,
        "q_samples": 2,
        "candidates": 3,
        "average_start": 0,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
    },
    "iql_bst": {  # with every option that its supervisor shares with td3_bst
        "clone_steps": 3,
        "distance": "standardised",
        "near": 0.5,
        "input_noise": 0.1,
        "stop_uncertainty": 1.0,  # after the first update
        "pretrain_steps": 3,
        "train_steps": 3,
        "batch_size": 8,
        "behavior_batch_size": 128,
        "negative_samples": 2,
        "actor_hidden": (8,),
        "critic_hidden": (8,),
        "behavior_hidden": (8,),
    },
    "probe": {"model_steps": 4, "train_steps": 4},
}

# Phase -> fields of the state that it may change; every other field keeps its bits.
CHANGES: dict[str, dict[str, set[str]]] = {
    "arq": {
        "behavior": {"behavior"},
        "candidates": set(),
        "critic": {"critic"},
        "policy": {"policy"},
    },
    "bdpo": {
        "behavior": {"behavior"},
        "critic": {"critic", "value"},
        "train": {"critic", "value", "actor", "behavior"},
    },
    "bpr": {"behavior": {"behavior", "vectors"}, "train": {"actor", "critic"}},
    "ibc": {"train": {"behavior", "vectors"}},
    "bc": {"train": {"actor"}},
    "td3_bc": {"train": {"actor", "critic"}},
    "rebrac": {"train": {"actor", "critic"}},
    "td3_bst": {"morse": {"morse"}, "train": {"actor", "critic"}},
    "iql": {"train": {"actor", "critic", "value"}},
    "xql": {"train": {"actor", "critic", "value"}},
    "awac": {"train": {"actor", "critic"}},
    "cql": {"train": {"actor", "critic", "temperature", "multiplier"}},
    "one_step": {"critic": {"critic"}, "train": {"actor"}},
    "fql": {"train": {"behavior", "actor", "critic"}},
    "ifql": {"train": {"behavior", "critic", "value"}},
    "dql": {"train": {"actor", "critic"}},
    "idql": {"train": {"behavior", "critic", "value"}},
    "dac": {"train": {"actor", "critic", "eta"}},
    "iql_bst": {
        "clone": {"clone"},
        "morse": {"morse", "stopped_at"},
        "train": {"actor", "critic", "value"},
    },
    "probe": {"model": {"model"}, "guess": set(), "train": {"critic", "actor"}},
}

# Phase -> fields that its `enter` may change; not listed: none.
ENTERS: dict[str, dict[str, set[str]]] = {
    "arq": {},
    "bdpo": {"critic": {"actor"}},
    "bpr": {},
    "ibc": {},
    "bc": {},
    "td3_bc": {},
    "rebrac": {},
    "td3_bst": {},
    "iql": {},
    "xql": {},
    "awac": {},
    "cql": {},
    "one_step": {},
    "fql": {},
    "ifql": {},
    "dql": {},
    "idql": {},
    "dac": {},
    "iql_bst": {},
    "probe": {"train": {"critic"}},
}


@pytest.fixture(scope="module", params=list(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Subject:
    name = request.param
    config = SUBJECTS[name].Config(**TINY[name])
    return Subject(SUBJECTS[name], config, changes=CHANGES[name], enters=ENTERS[name])


@pytest.mark.parametrize("check", testing.CHECKS.values(), ids=testing.CHECKS)
def test_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


def test_a_field_of_every_method_is_swept(subject: Subject) -> None:
    """Or the check of sweeps would sweep nothing. The probe has one rate for all its phases."""
    assert (subject.swept is None) == (subject.module is probes)


def test_every_method_is_declared() -> None:
    assert set(TINY) == set(CHANGES) == set(ENTERS) == set(SUBJECTS)


def test_seeds_are_spread_over_devices() -> None:
    """Or the checks of sharding would check nothing."""
    assert len(jax.devices()) == testing.DEVICES == 4
