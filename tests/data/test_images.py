"""Datasets with images: of arrays and episodes, joined, cut at bad rows, written, described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxrl_prefs as jp
from jaxrl_prefs import data
from jaxrl_prefs.cli import data as command
from jaxrl_prefs.data import health, health_figure, images, layout, writers
from jaxrl_prefs.data.joined import joined
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.parallel import seed_axis

FRAMES = images.empty((6, 4, 5, 3))  # frames that begin elsewhere are copied once
FRAMES[:] = np.arange(FRAMES.size).astype(np.uint8).reshape(FRAMES.shape)
STATES = np.arange(6.0)[:, None]
ACTIONS = np.linspace(-1, 1, 6)[:, None]
TERMINALS, TIMEOUTS = np.array([0, 0, 1, 0, 0, 0]), np.array([0, 0, 0, 0, 0, 1])


def of_arrays(observations: Any, **options: Any) -> jp.Dataset:
    ends = TERMINALS, TIMEOUTS
    return jp.Dataset.from_arrays(observations, ACTIONS, np.ones(6), *ends, **options)


def episode(frames: np.ndarray = FRAMES, **observations: Any) -> dict[str, Any]:
    seen = {"image": frames, **observations}
    return {"observations": seen, "actions": ACTIONS[:5], "rewards": np.ones(5)}


def shown(found: jp.Dataset, camera: str = "image") -> tuple[np.ndarray, np.ndarray]:
    """The frames before and after each step."""
    frames, before, after = found.images[camera]
    return frames[before], frames[after]


def test_arrays_of_images_are_kept_as_they_are() -> None:
    found = of_arrays({"image": FRAMES, "state": STATES})
    assert found.images["image"].frames is FRAMES
    before, after = shown(found)
    np.testing.assert_array_equal(before, FRAMES[:5])  # the last step was cut off
    np.testing.assert_array_equal(after[[0, 1, 3, 4]], FRAMES[[1, 2, 4, 5]])
    np.testing.assert_array_equal(found.observation, STATES[:5])
    assert of_arrays(FRAMES).observation.shape == (5, 0)
    assert repr(of_arrays(FRAMES)).count("images 'image' of 4x5x3, 1 action") == 1
    vector = of_arrays({"b": {"y": STATES, "x": STATES + 10}, "a": np.ones((6, 2, 2))})
    np.testing.assert_array_equal(vector.observation[1], [1, 1, 1, 1, 11, 1])
    assert not vector.images


@pytest.mark.parametrize("mapped", [True, False])
def test_devices_of_a_cpu_share_the_frames(mapped: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", FRAMES)
    frames = np.load(tmp_path / "frames.npy", mmap_mode="r" if mapped else None)
    prepared = jp.prepare(of_arrays(frames), jp.Processing())
    kept: Any = prepared.transitions.observation["image"].frames
    assert np.shares_memory(kept, frames) or not mapped
    placed = seed_axis.replicate(kept, seed_axis.seed_mesh())
    places = [shard.data.unsafe_buffer_pointer() for shard in placed.addressable_shards]
    assert places == [kept.ctypes.data] * 4


def test_what_followed_is_kept_once() -> None:
    following = np.roll(FRAMES, -1, axis=0).copy()
    following[[2, 5]] = 77
    found = of_arrays(FRAMES, next_observations=following)
    np.testing.assert_array_equal(shown(found)[1], following)
    assert len(found.images["image"].frames) == 8
    with pytest.raises(DataError, match="next observations lack the images 'image'"):
        of_arrays({"image": FRAMES, "state": STATES}, next_observations={"state": STATES})
    with pytest.raises(DataError, match=r"'image' have shape .* before the steps, and"):
        of_arrays(FRAMES, next_observations=FRAMES[:, :2])


def test_episodes_with_a_frame_more_than_steps() -> None:
    found = jp.Dataset.from_episodes([episode(wrist={"grey": FRAMES[..., 0]})] * 2)
    assert [*found.images] == ["image", "wrist/grey"] and found.size == 10
    assert found.images["wrist/grey"].frames.shape == (12, 4, 5, 1)
    np.testing.assert_array_equal(shown(found)[1], np.concatenate([FRAMES[1:]] * 2))
    less = jp.Dataset.from_episodes([episode(FRAMES[:5]) | {"terminal": True}, episode(FRAMES[:5])])
    assert less.size == 9 and len(less.images["image"].frames) == 10
    prepared = data.prepare(found, data.Processing(frame_stack=2))
    assert prepared.spec.images[0].shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES / 255, r"are float64, .* 0 to 1: \(images \* 255\)\.round\(\)\.astype\(np\.uint8"),
        (FRAMES * 1.0, r"lie in 0 to 255: images\.round\(\)"),
        (FRAMES * 2.0 - 9, "lie in -9 to 501: scale them to 0 to 255"),
        (FRAMES * np.nan, "some are NaN or infinite: replace or drop"),
        (np.moveaxis(FRAMES, -1, 1), r"5 channels, .*channels come last: np\.moveaxis"),
        (np.repeat(np.repeat(FRAMES, 3, 1), 3, 3), r"9 channels, .* newest: images\[\.\.\., -3:\]"),
        (FRAMES[:4], "'image' are 4 frames for 6 steps"),
        (FRAMES[:, :0], "expected .frames, height, width, C."),
        ({"state": FRAMES}, "'state' is the name of the vector"),
        ({"image": FRAMES, "x": STATES[:4]}, "different lengths: image 6, x 4"),
        ({"image": FRAMES, "x": 3}, "x is a single value"),
        ({}, "different lengths: none"),
    ],
)
def test_other_images_are_refused(frames: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        of_arrays(frames)


def test_episodes_of_other_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"episode 1: the images 'image' are 2x5x3, and 4x5x3 in"):
        jp.Dataset.from_episodes([episode(), episode(FRAMES[:, :2])])
    with pytest.raises(DataError, match="episode 1 has no images 'image'"):
        jp.Dataset.from_episodes([episode(), episode() | {"observations": STATES}])
    with pytest.raises(DataError, match="'image' are 3 frames for 5 steps"):
        jp.Dataset.from_episodes([episode(FRAMES[:3])])


def test_bad_rows_cut_the_episode() -> None:
    broken = np.where(STATES == 1, np.nan, STATES)
    with pytest.warns(UserWarning, match="2 bad rows"):
        found = jp.Dataset.from_episodes([episode(state=broken)], bad_rows="drop")
    before, after = shown(found)
    np.testing.assert_array_equal(before, FRAMES[2:5])
    np.testing.assert_array_equal(after, FRAMES[3:])
    assert len(found.images["image"].frames) == 6


def test_joined_datasets() -> None:
    parts = [of_arrays(FRAMES)._replace(name=name) for name in "ab"]
    found = joined("whole", parts)
    np.testing.assert_array_equal(shown(found)[1], np.concatenate([shown(parts[0])[1]] * 2))
    with pytest.raises(DataError, match="b has images 'image' of 4x4x3, a of 4x5x3: resize"):
        joined("whole", [parts[0], of_arrays(FRAMES[:, :, :4])._replace(name="b")])
    with pytest.raises(DataError, match="b has no images 'image', and a has some"):
        joined("whole", [parts[0], of_arrays(STATES)._replace(name="b")])


def test_layouts_with_images() -> None:
    here = layout.of(of_arrays(FRAMES))
    assert layout.from_json(json.loads(json.dumps(layout.to_json(here))), "here") == here
    assert "images" not in layout.to_json(layout.of(of_arrays(STATES)))
    for damage in (3, {"image": [1, 2]}, {"image": [1, 2, 0]}, {}):
        with pytest.raises(DataError, match="here is damaged"):
            layout.from_json(layout.to_json(here) | {"images": damage}, "here")


def test_what_info_says(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    many = np.random.default_rng(0).integers(0, 256, (201, 4, 5, 3), np.uint8)
    actions = np.random.default_rng(1).uniform(-1, 1, (200, 1))
    for seen in ({"image": many}, {"image": many, "x": np.arange(201.0)}):
        found = jp.Dataset.from_episodes(
            [{"observations": seen, "actions": actions, "rewards": actions[:, 0]}]
        )
        measured = health.of(found)
        health_figure.draw(found, Figure())
        assert json.dumps(health.described(found, measured), allow_nan=False)
        assert command.facts(found)["images image"] == "4x5x3, 201 frames, 0.0 MB"
    assert measured.measures["states_repeated"] == 0
    alone = of_arrays(FRAMES)
    assert command.facts(alone)["observations"] == "images alone"
    told = health.told(alone, health.of(alone))
    assert told["states"].startswith("not measured")
    writers.minari(alone, "mine/images-v0")
    assert command.main(["data", "info", "mine/images-v0", "--random=0"]) == 0
    assert "images alone" in capsys.readouterr().out


@pytest.mark.parametrize("seen", [FRAMES, {"image": FRAMES, "x": STATES, "b": {"c": FRAMES}}])
def test_written_to_minari(root: Path, seen: Any) -> None:
    written = of_arrays(seen)
    writers.minari(written, "mine/images-v0")
    found = data.load("mine/images-v0")
    for camera in written.images:
        for one, other in zip(shown(found, camera), shown(written, camera), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.observation, written.observation)
    assert {*found.images} == {*written.images}


def test_other_formats_take_one_camera_or_none(tmp_path: Path) -> None:
    alone = jp.Dataset.from_episodes([episode()] * 2)
    writers.ogbench(alone, tmp_path / "a.npz")
    found = data.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(shown(found)[1], shown(alone)[1])
    np.testing.assert_array_equal(found.action, alone.action)
    forms: dict[str, Any] = {
        "b.hdf5": writers.d4rl,
        "c.hdf5": writers.robomimic,
        "d.npz": writers.neorl2,
        "e": writers.lerobot,
    }
    for name, write in forms.items():
        with pytest.raises(DataError, match=r"has images \(image\), which .* take Minari's"):
            write(alone, tmp_path / name)
    with pytest.raises(DataError, match=r"has images \(image\), which OGBench's"):
        writers.ogbench(of_arrays({"image": FRAMES, "x": STATES}), tmp_path / "f.npz")
    assert [each.name for each in tmp_path.iterdir()] == ["a.npz"]


def test_frames_that_are_not_there() -> None:
    rows = np.arange(3)
    with pytest.raises(DataError, match="not among the 2 there"):
        images.check("a", "front", images.Images(FRAMES[:2], rows, rows), 3)
