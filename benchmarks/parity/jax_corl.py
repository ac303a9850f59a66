"""JAX-CORL's single-file methods, and the rows that its own function makes of a dataset."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parity import fql
from jaxrl_prefs import data
from jaxrl_prefs.data import Processing
from jaxrl_prefs.types import Params, Transition

UNUSED = ("d4rl", "gym", "wandb", "omegaconf")  # replaced by empty packages
ROWS = 2000


def imported(name: str, folder: str = "") -> Any:
    """One of its modules. `folder`: of its clone; "" if that is in `sys.path`."""
    if folder:
        sys.path.insert(0, folder)
    sys.modules.update({package: mock.MagicMock() for package in UNUSED})
    sys.modules["omegaconf"].OmegaConf.from_cli.return_value = {}
    with mock.patch.dict(os.environ):  # the module sets XLA_FLAGS
        return importlib.import_module(f"algos.{name}")


def with_params(state: Any, dtype: Any, descent: optax.GradientTransformation | None) -> Any:
    """A train state in `dtype`; with another optimiser where `descent` is given."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), state.params)
    tx = descent or state.tx
    return state.replace(params=params, tx=tx, opt_state=tx.init(params))


def layers(network: Params) -> Params:
    """The layers of one perceptron of theirs under the names of ours."""
    return fql.as_ours({"": network})


def dataset(module: Any, config: Any, name: str) -> tuple[Any, Any, Any]:
    """What its own function makes of a dataset: rows, shuffled, and the moments of observations."""
    recording = data.load(name)
    module.d4rl.qlearning_dataset.return_value = {
        "observations": recording.observation,
        "actions": recording.action.copy(),
        "rewards": recording.reward,
        "next_observations": recording.next_observation,
        "terminals": recording.terminal,
    }
    return module.get_dataset(None, config)


def recorded(module: Any, config: Any, name: str, dtype: Any) -> Any:
    """The first ROWS rows of its dataset."""
    rows, *_ = dataset(module, config, name)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[:ROWS], dtype), rows)


def data_rows(rows: Any, seed: int, name: str, processing: Processing) -> dict[str, float]:
    """Relative differences of those rows from ours, and the share whose discount differs."""
    prepared = data.prepare(data.load(name), processing).transitions
    order = jax.random.split(jax.random.key(seed), 3)[1]
    order = np.asarray(jax.random.permutation(order, len(prepared.reward)))[: len(rows.rewards)]
    ours: Transition = jax.tree.map(lambda leaf: leaf[order], prepared)
    found = {
        f"data, {what}": fql.largest(own, other, other)
        for what, own, other in (
            ("observations", ours.observation, rows.observations),
            ("actions", ours.action, rows.actions),
            ("rewards", ours.reward, rows.rewards),
        )
    }
    ended = (np.asarray(ours.discount) == 0) != (np.asarray(rows.dones) == 1)
    return found | {"data, rows that end in one code only": float(ended.mean())}
