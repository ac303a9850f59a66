"""Checks of what is done with trained policies: acting, export, off-policy evaluation."""

from __future__ import annotations

import importlib.util
import tempfile
import unittest
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.data import Affine
from jaxrl_prefs.errors import ExportError
from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import export
from jaxrl_prefs.runs.exported import load_policy
from jaxrl_prefs.runs.onnx_export import to_onnx
from jaxrl_prefs.testing.checks import check
from jaxrl_prefs.testing.random_data import DISCOUNT, fitted_data
from jaxrl_prefs.testing.subject import Subject, fixed_key

FITTED = fqe.Config(critics=2, hidden=(8,), layer_norm=False, batch_size=8, updates=3)
FILED, DRAW = 2, 7  # observations on which an exported policy is compared, and its draw number


@check("clip or squash actions to the Spec's bounds, as float32, and draw only from the key")
def policies_act_inside_the_bounds_and_repeat_themselves(subject: Subject) -> None:
    """An evaluation is repeated by a resumed run."""
    state, data, spec = subject.history.steps[-1].after, subject.data, subject.spec
    assert subject.method.policies, "there is no policy"
    for name, policy in subject.method.policies.items():
        act = jax.jit(policy.act)
        action = act(state, subject.batch.observation, fixed_key())
        chex.assert_shape(action, data.action.shape)
        assert action.dtype == jnp.float32, (name, action.dtype)
        assert bool((action >= spec.action_low[None]).all()), f"{name} acts below the bounds"
        assert bool((action <= spec.action_high[None]).all()), f"{name} acts above the bounds"
        again = act(state, subject.batch.observation, fixed_key())
        chex.assert_trees_all_equal(action, again)
        assert policy.candidates >= 1, f"{name} draws no candidate"
        assert policy.rule, f"{name} does not say how an action is chosen"


@check("return {name: (sum, count)} of finite scalars from diagnose")
def a_diagnosis_measures_finite_numbers(subject: Subject) -> None:
    """It is measured at every evaluation."""
    state = subject.history.steps[-1].after
    metrics = jax.jit(subject.method.diagnose)(state, subject.batch, fixed_key())
    for total, count in metrics.values():
        chex.assert_shape((total, count), ())
    chex.assert_tree_all_finite(metrics)


@check("compute actions by JAX from the state, the observation and the key alone")
def an_exported_policy_acts_as_the_policy(subject: Subject) -> None:
    """As a file that JAX runs without this library."""
    for name, act in _acts(subject).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "policy.jaxexport")
            path.write_bytes(export.exported(*act, images=subject.spec.images).serialize())
            _acts_alike(subject, name, path)


@check("use operations that have an ONNX translation; the message names the one that has none")
def an_onnx_file_acts_as_the_policy(subject: Subject) -> None:
    """Where the packages onnx and onnxruntime are installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise unittest.SkipTest(f"it needs {package}: pip install 'jaxrl_prefs[onnx]'")
    for name, act in _acts(subject).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "policy.onnx")
            try:
                path.write_bytes(to_onnx(*act, images=subject.spec.images))
            except ExportError as error:
                raise AssertionError(f"{name}: {error}") from error
            _acts_alike(subject, name, path)


def _acts(subject: Subject) -> dict[str, tuple]:
    """What is exported of each policy; raw units are those of the method."""
    state = subject.history.steps[-1].after
    width = subject.spec.observation_dim, subject.spec.action_dim
    maps = [Affine(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in width]
    return {name: (each.act, state, *maps) for name, each in subject.method.policies.items()}


def _acts_alike(subject: Subject, name: str, path: Path) -> None:
    """Compares the policy of a file with that of the method, which sees a row at a time."""
    seen = jax.tree.map(lambda leaf: np.asarray(leaf[:FILED]), subject.batch.observation)
    act, state = jax.jit(subject.method.policies[name].act), subject.history.steps[-1].after
    expected = []
    for row in range(FILED):
        own = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], seen)
        expected.append(act(state, own, jax.random.fold_in(jax.random.key(DRAW), row))[0])
    np.testing.assert_allclose(load_policy(path)(seen, DRAW), expected, rtol=1e-4, atol=1e-4)


@check("act on every state, with finite actions, and give finite densities")
def off_policy_evaluation_takes_every_policy(subject: Subject) -> None:
    """Fitted Q evaluation on a table of its actions; densities of recorded actions. Of vectors."""
    if subject.spec.images:
        return
    state, (rows, unit) = subject.history.steps[-1].after, fitted_data(subject.data, DISCOUNT)
    batch = subject.batch
    mesh = seed_axis.seed_mesh(jax.devices()[:1])
    for name, policy in subject.method.policies.items():
        act = jax.jit(policy.act)

        def table(observation: Any, act: Any = act) -> np.ndarray:
            drawn = [act(state, jnp.asarray(observation), jax.random.key(n)) for n in range(2)]
            return np.stack(drawn, 1)[None]

        actions = fqe.Actions(table(rows.next_observation), table(rows.observation)[:, rows.first])
        found = fqe.fit(rows, actions, FITTED, unit, mesh)
        assert np.isfinite(found.members).all(), f"{name} has no estimate: {found.members}"
        if policy.log_density is not None:
            density = jax.jit(policy.log_density)(state, batch.observation, batch.action)
            assert density.shape == (len(rows.reward),), (name, density.shape)
            assert np.isfinite(density).all(), f"{name} has densities that are not finite"
