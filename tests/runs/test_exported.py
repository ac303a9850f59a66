"""Opening exported policies: both formats, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.data import Affine
from jaxrl_prefs.errors import LoadError
from jaxrl_prefs.runs import export, latency
from jaxrl_prefs.runs.exported import ExportedPolicy, load_policy
from jaxrl_prefs.runs.onnx_export import to_onnx

UNIT = Affine(np.zeros(2, np.float32), np.ones(2, np.float32))


def act(state: Any, seen: Any, key: Any) -> Any:
    del state, key
    return 3 * seen


@pytest.fixture(scope="module", params=["jaxexport", "onnx"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("exported") / f"policy.{request.param}"
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        path.write_bytes(to_onnx(act, {}, UNIT, UNIT))
    else:
        path.write_bytes(export.exported(act, {}, UNIT, UNIT, ["cpu"]).serialize())
    return load_policy(path)


def test_one_observation_or_a_batch(policy: ExportedPolicy) -> None:
    assert policy([1, 2]).tolist() == [3, 6]
    assert policy(np.ones((4, 2))).shape == (4, 2)
    assert "[2] observations" in repr(policy)


@pytest.mark.parametrize("draw", [0, 2**32 - 1, np.int64(3), np.uint32(7), True])
def test_whole_numbers_are_draws(policy: ExportedPolicy, draw: Any) -> None:
    assert policy([1, 2], draw).tolist() == [3, 6]


@pytest.mark.parametrize("draw", [-1, 2**32, 1.0, "1", None])
def test_what_is_no_draw(policy: ExportedPolicy, draw: Any) -> None:
    with pytest.raises(ValueError, match="a draw is a whole number from 0 to 4294967295"):
        policy([1, 2], draw)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([1, np.nan], "a NaN or an infinity in dimension 1;"),
        ([[1, 1], [np.inf, 1]], "a NaN or an infinity in dimension 0 of row 1;"),
        ([1e39, 0], "a NaN or an infinity in dimension 0"),  # beyond a float32
        ([1, 2, 3], r"an observation has shape \[2\] or \[batch, 2\], got \[3\]"),
        ([[[1, 2]]], r"got \[1, 1, 2\]"),
        ("x", "could not convert"),
    ],
)
def test_what_is_no_observation(policy: ExportedPolicy, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(observation)


@pytest.mark.parametrize("name", ["policy.jaxexport", "policy.onnx"])
def test_a_damaged_file(name: str, tmp_path: Path) -> None:
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    with pytest.raises(LoadError, match="is not a file; jaxrl-prefs export writes one"):
        load_policy(tmp_path / name)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(LoadError, match="is no exported policy"):
        load_policy(tmp_path / name)
    with pytest.raises(OSError, match="does not run in a process of its own"):
        latency.measured(tmp_path / name, 2)


def test_latency_in_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    (tmp_path / "policy.onnx").write_bytes(to_onnx(act, {}, UNIT, UNIT))
    found = latency.measured(tmp_path / "policy.onnx", 100)
    assert 0 < found.median <= found.p99 <= found.largest < 60_000
    assert found.calls == 100 and found.runtime.startswith("onnxruntime")
    assert "median of 100" in str(found)
