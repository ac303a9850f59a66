"""Policies as ONNX files: the actions of the policy, for the same draw number, in onnxruntime.

That the policies of every method can be written is part of the contract (tests/test_contract.py).
"""

from __future__ import annotations

import functools
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
from jaxrl_prefs.encoded import EncoderConfig, on_images
from jaxrl_prefs.errors import ConfigError, ExportError
from jaxrl_prefs.method import Method, with_precision
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs import export
from jaxrl_prefs.runs.exported import load_policy
from jaxrl_prefs.runs.onnx_export import to_onnx
from jaxrl_prefs.types import Array, ImageSpec, Spec, Transition
from tests.test_contract import TINY

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

OBSERVATION = Affine(np.float32([1, 2, 3]), np.float32([0.5, 10, 1]))
ACTION = Affine(np.float32([0.25, -0.5]), np.float32([0.5, 2]))
RAW = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "policy", "precision"), [("td3_bc", "actor", "bfloat16"), ("bc", "sample", "float32")]
)
def test_a_file_acts_as_its_policy(
    name: str, policy: str, precision: str, tiny: Transition, tmp_path: Path
) -> None:
    """With the maps of its data: hidden layers in bfloat16, and a policy that draws."""
    deep = TINY[name] | {"actor_hidden": (8, 8)}
    method = METHODS[name].make(METHODS[name].Config(**deep), Spec.of(tiny))
    method = with_precision(method, precision)
    row = jax.tree.map(lambda x: x[:1], tiny)
    state = jax.device_get(jax.jit(method.init)(jax.random.key(0), row))
    act = method.policies[policy].act
    path = tmp_path / "policy.onnx"
    path.write_bytes(to_onnx(act, state, OBSERVATION, ACTION))
    found = load_policy(path)
    program = jax.jit(export.exported(act, state, OBSERVATION, ACTION, ["cpu"]).call)
    expected = np.asarray(program(RAW, np.uint32(7)))
    np.testing.assert_allclose(found(RAW, 7), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found(RAW[0], 7), expected[0], rtol=0, atol=1e-5)
    assert (found(RAW, 8) != found(RAW, 7)).any() == (policy == "sample")


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


# --- Policies of images ---------------------------------------------------------------------------

IMAGES = (ImageSpec("left", 17, 16, 2),)  # an odd side as well


@pytest.mark.parametrize(
    ("name", "encoder", "precision", "sharing"),
    [
        ("td3_bc", "drq", "float32", "shared"),
        ("bc", "impala_small", "float32", "shared"),
        ("bpr", "two_layers", "float32", "separate"),  # three, one with normalised kernels
        ("td3_bc", "two_layers", "bfloat16", "shared"),
    ],
)
def test_a_policy_of_images(
    name: str, encoder: str, precision: str, sharing: Any, tiny: Transition, tmp_path: Path
) -> None:
    spec = Spec.of(tiny)._replace(images=IMAGES)
    made = functools.partial(METHODS[name].make, METHODS[name].Config(**TINY[name]))
    method = on_images(made, spec, EncoderConfig(encoder, features=4, sharing=sharing))
    method = with_precision(method, precision)
    state = random_state(method, spec)
    act = next(iter(method.policies.values())).act
    path = tmp_path / "policy.onnx"
    path.write_bytes(to_onnx(act, state, OBSERVATION, ACTION, images=IMAGES, stack=2))
    policy, rng = load_policy(path), np.random.default_rng(1)
    shown = {each.name: rng.integers(256, size=(5, *each.shape), dtype=np.uint8) for each in IMAGES}
    seen = {**shown, "state": np.float32(OBSERVATION.apply(RAW))}
    expected = ACTION.invert(np.asarray(jax.jit(act)(state, seen, jax.random.key(7))))
    for frame in (slice(0, 1), slice(1, 2)):  # the older one first
        newest = {camera: image[..., frame] for camera, image in shown.items()}
        found = policy({**newest, "state": RAW}, 7)
    atol = 1e-5 if precision == "float32" else 5e-3  # half a step of bfloat16 may fall either way
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert np.ptp(expected, 0).min() > 1e-3  # the actions depend on what is seen


def random_state(method: Method, spec: Spec) -> Any:
    """Parameters of about the sizes that an initialisation gives, which take no time to compile."""
    rng, shapes = (
        np.random.default_rng(0),
        jax.eval_shape(method.init, jax.random.key(0), spec.example()),
    )

    def leaf(x: Any) -> np.ndarray:
        size = max(1.0, float(np.prod(x.shape[:-1])))
        return np.asarray(rng.normal(size=x.shape) * size**-0.5, x.dtype)

    return jax.tree.map(leaf, shapes)


def test_convolutions_and_borders(tmp_path: Path) -> None:
    """Strides, borders of either kind and dilated kernels; and what is refused."""

    def act(state: Any, seen: Any, key: Array) -> Array:
        del state, key
        image = seen["left"].astype(jnp.float32) / 255
        kernel = jnp.arange(2 * 3 * 2 * 4.0).reshape(2, 3, 2, 4) / 48
        axes = ("NHWC", "HWIO", "NHWC")
        whole = jax.lax.conv_general_dilated(
            image, kernel, (2, 3), ((1, 0), (2, 3)), rhs_dilation=(1, 2), dimension_numbers=axes
        )
        cut = jax.lax.pad(whole, -jnp.inf, ((0, 0, 0), (-1, 2, 0), (1, -2, 0), (0, 0, 0)))
        return jnp.concatenate([whole.max((1, 2)), cut.max((1, 2))], -1)

    none, plain = identity(0), identity(8)
    given: dict[str, Any] = {"images": IMAGES, "stack": 1}
    path = tmp_path / "known.onnx"
    path.write_bytes(to_onnx(act, {}, none, plain, **given))
    shown = {"left": np.random.default_rng(0).integers(256, size=(3, 17, 16, 2), dtype=np.uint8)}
    expected = act({}, shown, jax.random.key(0))
    np.testing.assert_allclose(load_policy(path)(shown), expected, rtol=0, atol=1e-5)

    def dilated(state: Any, seen: Any, key: Array) -> Array:
        image, kernel = seen["left"].astype(jnp.float32), jnp.ones((1, 1, 2, 8))
        axes = ("NHWC", "HWIO", "NHWC")
        found = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), [(0, 0)] * 2, (2, 2), dimension_numbers=axes
        )
        return found.sum((1, 2))

    with pytest.raises(ExportError, match=r"a convolution with a dilated image .* has no ONNX"):
        to_onnx(dilated, {}, none, plain, **given)


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
