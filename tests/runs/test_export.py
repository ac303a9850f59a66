"""A policy as one file: every method's, at any batch size, with the maps of its data inside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

from jaxrl_prefs.data import Affine
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import export
from jaxrl_prefs.types import Spec, Transition
from tests.test_contract import TINY

OBSERVATION = Affine(np.float32([1, 2, 3]), np.float32([0.5, 10, 1]))
ACTION = Affine(np.float32([1 / 3, -100]), np.float32([0.5, 200]))
RAW = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def policies(name: str, data: Transition, *, zeros: bool = False) -> tuple[dict[str, Any], Any]:
    """A method's policies and a state: a fresh one, or zeros, which compile nothing."""
    spec = Spec.of(data)
    method = METHODS[name].make(METHODS[name].Config(**TINY[name]), spec)
    key, row = jax.random.key(0), jax.tree.map(lambda x: x[:1], data)
    if zeros:
        shapes = jax.eval_shape(method.init, key, row)
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    else:
        state = jax.device_get(jax.jit(method.init)(key, row))
    return {key: policy.act for key, policy in method.policies.items()}, state


@pytest.mark.parametrize("name", METHODS)
def test_every_policy_becomes_one_program(name: str, tiny: Transition) -> None:
    acts, state = policies(name, tiny, zeros=True)
    for act in acts.values():
        whole = export.exported(act, state, OBSERVATION, ACTION)
        assert whole.platforms == ("cpu", "cuda", "tpu")
        batch, width = whole.in_avals[0].shape
        assert (str(batch), width) == ("batch", 3)
        assert whole.out_avals[0].shape == (batch, 2)


@pytest.mark.parametrize("name", ["bdpo", "td3_bc", "iql"])
def test_a_program_acts_as_its_policy(name: str, tiny: Transition) -> None:
    acts, state = policies(name, tiny)
    act = next(iter(acts.values()))
    exported = export.exported(act, state, OBSERVATION, ACTION, ["cpu"])
    whole = jax.export.deserialize(exported.serialize())
    actions = np.asarray(whole.call(RAW, np.uint32(7)))
    part = np.asarray(whole.call(RAW[:2], np.uint32(7)))  # a row does not see the others
    np.testing.assert_allclose(part, actions[:2], rtol=1e-4, atol=1e-4)
    # The same policy, a row at a time, with the maps of the data around it.
    act, inside = jax.jit(act), []
    for place, raw in enumerate(RAW):
        key = jax.random.fold_in(jax.random.key(7), place)
        inside.append(np.asarray(act(state, np.float32(OBSERVATION.apply(raw[None])), key))[0])
    np.testing.assert_allclose(actions, ACTION.invert(np.array(inside)), rtol=1e-4, atol=1e-4)
    other = np.asarray(whole.call(RAW, np.uint32(8)))
    assert (other != actions).any() == (name == "bdpo")  # the one that draws


LOADER = """
import sys
import jax, jax.export
import numpy as np
with open(sys.argv[1], "rb") as file:
    policy = jax.export.deserialize(bytearray(file.read()))
print(np.asarray(policy.call(np.ones((2, 3), np.float32), np.uint32(0))).tolist())
strangers = {"jaxrl_prefs", "flax", "optax", "chex", "distrax", "gymnasium"} & set(sys.modules)
assert not strangers, strangers
"""


def test_a_file_needs_jax_alone(tiny: Transition, tmp_path: Path) -> None:
    acts, state = policies("td3_bc", tiny)
    whole = export.exported(acts["actor"], state, OBSERVATION, ACTION)
    (tmp_path / "policy").write_bytes(whole.serialize())
    run = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path / "policy")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    expected = np.asarray(whole.call(np.ones((2, 3), np.float32), np.uint32(0)))
    assert run.stdout.strip() == str(expected.tolist())
