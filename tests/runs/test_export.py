"""A policy as one file: at any batch size, with the maps of its data inside.

That every method's policies can be exported is part of the contract (tests/test_contract.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jaxrl_prefs.data import Affine
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import export
from jaxrl_prefs.types import Spec, Transition
from tests.test_contract import TINY

OBSERVATION = Affine(np.float32([1, 2, 3]), np.float32([0.5, 10, 1]))
ACTION = Affine(np.float32([1 / 3, -100]), np.float32([0.5, 200]))
RAW = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def actor(name: str, data: Transition) -> tuple[Any, Any]:
    """A method's first policy and a fresh state."""
    method = METHODS[name].make(METHODS[name].Config(**TINY[name]), Spec.of(data))
    row = jax.tree.map(lambda x: x[:1], data)
    state = jax.device_get(jax.jit(method.init)(jax.random.key(0), row))
    return next(iter(method.policies.values())).act, state


def test_a_program_acts_as_its_policy(tiny: Transition) -> None:
    """Of a policy that draws, with the maps of its data, for any number of rows."""
    act, state = actor("bdpo", tiny)
    exported = export.exported(act, state, OBSERVATION, ACTION)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    batch, width = exported.in_avals[0].shape
    assert (str(batch), width) == ("batch", 3)
    assert exported.out_avals[0].shape == (batch, 2)
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
    assert (other != actions).any()


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
    act, state = actor("td3_bc", tiny)
    whole = export.exported(act, state, OBSERVATION, ACTION)
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
