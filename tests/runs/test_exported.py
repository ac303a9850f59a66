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
from jaxrl_prefs.types import ImageSpec

CAMERA = ImageSpec("image", 16, 16, 2)  # two frames, grey
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


# --- Policies of images ---------------------------------------------------------------------------


def show(state: Any, seen: Any, key: Any) -> Any:
    """The corner of the older frame and that of the newer one, and what the vector adds."""
    del state, key
    return seen["image"][:, 0, 0].astype(np.float32) + seen["state"]


@pytest.fixture(params=["jaxexport", "onnx"])
def viewer(request: pytest.FixtureRequest, tmp_path: Path) -> ExportedPolicy:
    path = tmp_path / f"viewer.{request.param}"
    given: dict[str, Any] = {"images": (CAMERA,), "stack": 2}
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        path.write_bytes(to_onnx(show, {}, UNIT, UNIT, **given))
    else:
        path.write_bytes(export.exported(show, {}, UNIT, UNIT, ["cpu"], **given).serialize())
    return load_policy(path)


def seen(light: int, *batch: int) -> dict[str, Any]:
    return {
        "image": np.full((*batch, 16, 16, 1), light, np.uint8),
        "state": np.zeros((*batch, 2), np.float32),
    }


def test_frames_are_stacked_until_reset(viewer: ExportedPolicy) -> None:
    assert (viewer.images, viewer.frame_stack, viewer.observation_dim) == ((CAMERA,), 2, 2)
    assert "image 'image', [2] observations" in repr(viewer)
    assert viewer(seen(3)).tolist() == [3, 3]
    assert viewer(seen(5)).tolist() == [3, 5]
    viewer.observe(seen(7))
    assert viewer(seen(9)).tolist() == [7, 9]
    with pytest.raises(ValueError, match=r"'image' that are remembered .* call reset\(\)"):
        viewer(seen(1, 4))
    viewer.reset()
    assert viewer(seen(1, 4)).tolist() == [[1, 1]] * 4


def test_what_is_no_observation_with_images(viewer: ExportedPolicy) -> None:
    for whole, found in (({"image": seen(1)["image"]}, r"\['image'\]"), ([1, 2], "list")):
        with pytest.raises(ValueError, match=f"a dict with image, state, got {found}"):
            viewer(whole)
    bad: dict[str, dict[str, Any]] = {
        r"'image' is uint8 of shape \[16, 16, 1\].*got float32": {
            "image": np.zeros((16, 16, 1), np.float32)
        },
        r"got uint8 of \[16, 16, 2\]": {"image": np.zeros((16, 16, 2), np.uint8)},
        "a NaN or an infinity in dimension 1": {"state": [1, np.nan]},
        "the parts of an observation have different batches": {"state": np.zeros((3, 2))},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            viewer(seen(1) | change)
    assert viewer(seen(5)).tolist() == [5, 5]  # what was refused is not remembered


def test_latency_of_images(viewer: ExportedPolicy, tmp_path: Path) -> None:
    (path,) = tmp_path.iterdir()
    found = latency.timed(str(path), 20)
    assert 0 < found.median <= found.largest and found.calls == 20
