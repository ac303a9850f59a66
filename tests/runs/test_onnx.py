"""Policies as ONNX files: the actions of the policy, for the same draw number, in onnxruntime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_prefs.data import ActionChunk, Affine
from jaxrl_prefs.errors import ConfigError, ExportError
from jaxrl_prefs.method import with_precision
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import export
from jaxrl_prefs.runs.exported import load_policy
from jaxrl_prefs.runs.onnx_export import to_onnx
from jaxrl_prefs.types import Array, Spec, Transition
from tests.test_contract import TINY

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

OBSERVATION = Affine(np.float32([1, 2, 3]), np.float32([0.5, 10, 1]))
ACTION = Affine(np.float32([0.25, -0.5]), np.float32([0.5, 2]))
RAW = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
POLICIES = {  # one of every kind: its method, and whether it draws
    "actor": ("td3_bc", False),  # deterministic
    "rounded": ("td3_bc", False),  # its hidden layers in bfloat16
    "sample": ("bc", True),  # Gaussian
    "chain": ("bdpo", True),  # a diffusion chain and the best of its candidates
    "implicit": ("arq", True),  # a score model's ODE, candidates by softmax
    "best_of": ("ifql", True),  # a flow and the best of its samples
    "search": ("ibc", True),  # an energy, searched without derivatives
}
NAMED = dict.fromkeys(("rounded", "chain", "best_of", "search"), "actor")


@pytest.mark.parametrize("kind", POLICIES)
def test_a_file_acts_as_its_policy(kind: str, tiny: Transition, tmp_path: Path) -> None:
    name, draws = POLICIES[kind]
    deep = {"actor_hidden": (8, 8)} if kind == "rounded" else {}
    method = METHODS[name].make(METHODS[name].Config(**TINY[name] | deep), Spec.of(tiny))
    method = with_precision(method, "bfloat16" if kind == "rounded" else "float32")
    row = jax.tree.map(lambda x: x[:1], tiny)
    state = jax.device_get(jax.jit(method.init)(jax.random.key(0), row))
    act = method.policies[NAMED.get(kind, kind)].act
    path = tmp_path / "policy.onnx"
    path.write_bytes(to_onnx(act, state, OBSERVATION, ACTION))
    policy = load_policy(path)
    program = jax.jit(export.exported(act, state, OBSERVATION, ACTION, ["cpu"]).call)
    expected = np.asarray(program(RAW, np.uint32(7)))
    np.testing.assert_allclose(policy(RAW, 7), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(policy(RAW[0], 7), expected[0], rtol=0, atol=1e-5)
    assert (policy(RAW, 8) != policy(RAW, 7)).any() == draws


def identity(size: int) -> Affine:
    return Affine(np.zeros(size, np.float32), np.ones(size, np.float32))


def exported(function: Any) -> bytes:
    """A policy without parameters, of two observations."""
    return to_onnx(lambda state, seen, key: function(seen, key), {}, identity(2), identity(2))


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(ExportError, match="the operation sort has no ONNX translation"):
        exported(lambda seen, key: jnp.sort(seen, -1))
    with pytest.raises(ExportError, match="a loop whose length depends on the observation"):
        exported(lambda seen, key: jax.lax.while_loop(lambda x: x[0, 0] > 1, lambda x: x / 2, seen))


def test_operations_with_known_answers(tmp_path: Path) -> None:
    """Products, gathers and choices that the methods' own policies do not all use."""

    def act(seen: Array, key: Array) -> Array:
        del key
        table = jnp.arange(12.0).reshape(3, 2, 2)
        index = jnp.argmax(jnp.concatenate([seen, -seen], -1), -1)  # 0..3, clipped to 2
        chosen = jnp.take(table, jnp.clip(index, 0, 2), axis=0)  # [B, 2, 2]
        product = jnp.einsum("bij,bj->bi", chosen, seen)
        positive = (seen > 0) & (seen < 2)
        return product + positive

    path = tmp_path / "known.onnx"
    path.write_bytes(exported(act))
    found = load_policy(path)(np.float32([[1, 0.5], [-1, -3]]))
    first = [[0, 1], [2, 3]] @ np.array([1, 0.5]) + 1
    second = [[8, 9], [10, 11]] @ np.array([-1, -3])  # the fourth entry, clipped to the third
    np.testing.assert_allclose(found, [first, second], rtol=1e-6)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxrl_prefs\[onnx\]'"):
        exported(lambda seen, key: seen)


# --- The example in C++ ---------------------------------------------------------------------------

SOURCE = Path(__file__).parents[2] / "examples" / "cpp" / "policy.cpp"
HEADER = "onnxruntime_cxx_api.h"


def headers() -> Path | None:
    """The folder of ONNX Runtime's C++ headers, which no Python package brings."""
    import os

    named = os.environ.get("ONNXRUNTIME_INCLUDE", "")
    places = [named, "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    places += [f"{place}/core/session" for place in places[1:]] + ["/usr/include"]
    return next((Path(x) for x in places if x and (Path(x) / HEADER).is_file()), None)


def test_the_example_in_cpp(tmp_path: Path) -> None:
    """It is built with the library of Python's onnxruntime, and answers what Python is answered."""
    compiler, include = shutil.which("g++") or shutil.which("clang++"), headers()
    if compiler is None or include is None:
        missing = (
            "compiler" if compiler is None else f"{HEADER} (ONNXRUNTIME_INCLUDE names its folder)"
        )
        pytest.skip(f"no {missing}")
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("this onnxruntime brings no shared library")
    (tmp_path / "libonnxruntime.so.1").symlink_to(found[-1])
    (tmp_path / "policy.onnx").write_bytes(exported(lambda seen, key: 2 * seen))
    program = tmp_path / "policy"
    flags = [f"-I{include}", f"-Wl,-rpath,{tmp_path}", "-std=c++17", "-o", program]
    command = [compiler, SOURCE, found[-1], *flags]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    command = [program, tmp_path / "policy.onnx", "0"]
    told = subprocess.run([*command, "1.5", "-2"], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["3", "-4"]
    refused = subprocess.run([*command, "nan", "1"], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    twice = to_onnx(
        lambda state, seen, key: jnp.concatenate([seen, -seen], -1),
        {},
        identity(2),
        identity(4),
        chunk=ActionChunk(2, 2),
    )
    (tmp_path / "policy.onnx").write_bytes(twice)
    told = subprocess.run([*command, "1.5", "-2"], capture_output=True, text=True, check=True)
    assert told.stdout == "1.5 -2\n-1.5 2\n"  # an action a line
