"""Files with images, each in the layout that its format publishes."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import jax
import numpy as np
import pytest
from PIL import Image

import jaxrl_prefs as jp
from jaxrl_prefs import data
from jaxrl_prefs.data import read_hints
from jaxrl_prefs.data.readers import vd4rl
from jaxrl_prefs.errors import DataError
from tests.data import files
from tests.data.test_images import shown

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
ACTIONS = np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
CUT = read_hints(episode_ends="timeout")
FIXTURE = Path(__file__).parents[1] / "fixtures/lerobot-v3.0"


def refused(path: Path, message: str, **hints: Any) -> None:
    with pytest.raises(DataError, match=message):
        data.load(path, hints=read_hints(**hints))


def assert_pairs(found: jp.Dataset, before: Any, after: Any, camera: str = "image") -> None:
    """Compares the frames of steps with rows of FRAMES; -1 where there is none after a step."""
    one, other = shown(found, camera)
    there = np.asarray(after) >= 0
    np.testing.assert_array_equal(one, FRAMES[np.asarray(before)])
    np.testing.assert_array_equal(other[there], FRAMES[np.asarray(after)[there]])


# --- V-D4RL ---------------------------------------------------------------------------------------


def rows_of_84px(**changes: Any) -> dict[str, Any]:
    """Two episodes of two steps in six rows, channels first as `npz_to_hdf5.py` writes them."""
    return {
        "observation": np.moveaxis(FRAMES, -1, 1),
        "action": np.where(np.arange(6)[:, None] % 3, ACTIONS, 0),
        "reward": np.float32([0, 1, 2, 0, 3, 4]),
        "discount": np.ones(6, np.float32),
        "step_type": np.float64([0, 1, 2, 0, 1, 2]),
        **changes,
    }


def episode_of_64px(rows: slice, **changes: Any) -> dict[str, Any]:
    """One episode as DreamerV2 keeps it."""
    size = len(FRAMES[rows])
    return {
        "image": FRAMES[rows],
        "action": np.where(np.arange(size)[:, None] > 0, ACTIONS[rows], 0),
        "reward": np.float32([0, 1, 2, 0, 3, 4])[rows],
        "discount": np.ones(size, np.float32),
        "is_first": np.arange(size) == 0,
        "is_last": np.arange(size) == size - 1,
        "is_terminal": np.zeros(size, bool),
        **changes,
    }


def check_two_episodes(found: jp.Dataset) -> None:
    assert_pairs(found, [0, 1, 3, 4], [1, 2, 4, 5])
    np.testing.assert_array_equal(found.action, ACTIONS[[1, 2, 4, 5]])
    np.testing.assert_array_equal(found.reward, [1, 2, 3, 4])
    assert found.lengths.tolist() == [2, 2] and not found.terminal.any()
    assert found.references == (0, 1000) and found.task is None and found.family == "vd4rl"
    assert any("dm_control's cheetah_run" in note for note in found.notes)
    assert len(found.images["image"].frames) == 6 and found.observation.shape == (4, 0)
    assert float(found.score(500.0)) == 50.0


def test_vd4rl_of_84px(tmp_path: Path) -> None:
    folder = tmp_path / "main/cheetah_run/medium_expert/84px"
    folder.mkdir(parents=True)
    files.write_d4rl(folder / "0.hdf5", **rows_of_84px())
    check_two_episodes(data.load(folder))
    check_two_episodes(data.load(folder / "0.hdf5"))
    assert data.load(folder).images["image"].frames.flags.c_contiguous
    split = {key: np.array_split(value, [2]) for key, value in rows_of_84px().items()}
    for shard in range(2):  # split_hdf5_shards.py cuts inside episodes
        files.write_d4rl(folder / f"{shard}.hdf5", **{key: x[shard] for key, x in split.items()})
    found = data.load(folder)
    assert found.lengths.tolist() == [1, 2]
    assert any("begins within an episode" in note for note in found.notes)


def test_vd4rl_of_64px(tmp_path: Path) -> None:
    folder = tmp_path / "distracting/cheetah_medium_expert/64px/easy"
    folder.mkdir(parents=True)
    for place, rows in enumerate((slice(0, 3), slice(3, 6))):
        files.write_npz(folder / f"20220101T00000{place}-a-3.npz", **episode_of_64px(rows))
    check_two_episodes(data.load(folder))
    older = episode_of_64px(slice(0, 3), discount=np.float32([1, 1, 0]))
    older = {key: value for key, value in older.items() if not key.startswith("is_")}
    found = data.load(files.write_npz(tmp_path / "a.npz", **older))
    assert found.terminal.tolist() == [False, True] and found.references is None
    assert vd4rl.task_of(Path("walker_walk/medium/84px")) == "walker_walk"
    assert vd4rl.task_of(Path("/data/humanoid-walk")) == "humanoid_walk"


@pytest.mark.parametrize("package", [True, False])
def test_vd4rl_is_evaluated_where_it_was_recorded(
    package: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        vd4rl.importlib.util, "find_spec", lambda name: object() if package else None
    )
    square = np.ascontiguousarray(FRAMES[:, :, :4])
    for place in ("main/humanoid_walk/medium", "distracting/humanoid_medium", "main/other"):
        folder = tmp_path / place / "64px"
        folder.mkdir(parents=True)
        file = files.write_npz(folder / "a.npz", **episode_of_64px(slice(0, 6), image=square))
        found = data.load(file)
        told = " ".join(found.notes)
        if package and "main/humanoid" in place:
            assert found.task is not None and not told
            assert found.task.env_id == "jaxrl_prefs/DmControl-humanoid-walk-4px-v0"
            assert found.task.max_episode_steps == 500
        else:
            assert found.task is None
            why = "pip install 'jaxrl_prefs" if place.startswith("main") else "its distracting"
            assert (why in told) == ("humanoid" in place)
        named = data.load(file, env="Pendulum-v1").task
        assert named is not None and named.env_id == "Pendulum-v1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_type": [0, 1, 2, 1, 1, 2]}, "row 3 follows the last row of an episode"),
        ({"step_type": [0, 1, 3, 0, 1, 2]}, "step_type holds other values"),
        ({"observation": np.zeros((6, 3, 4, 5))}, r"0\.hdf5: the images 'image' are float64"),
        ({"observation": np.zeros((5, 3, 4, 5), np.uint8)}, "image 5, action 6"),
        ({"action": ACTIONS * 2}, "outside the action space"),
    ],
)
def test_bad_vd4rl(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = files.write_d4rl(tmp_path / "0.hdf5", **rows_of_84px(**changes))
    with pytest.raises(DataError, match=message):
        data.prepare(data.load(path), data.Processing())


def test_vd4rl_with_channels_first_where_they_come_last(tmp_path: Path) -> None:
    wrong = episode_of_64px(slice(0, 3), image=np.moveaxis(FRAMES[:3], -1, 1))
    refused(files.write_npz(tmp_path / "a.npz", **wrong), r"a\.npz.*channels come last")
    for place, size in enumerate((5, 4)):
        rows = episode_of_64px(slice(0, 3), image=FRAMES[:3, :, :size])
        files.write_npz(tmp_path / f"{place}.npz", **rows)
    (tmp_path / "a.npz").unlink()
    refused(tmp_path, r"1\.npz has images 'image' of 4x4x3, .*0\.npz of 4x5x3: resize")


# --- OGBench --------------------------------------------------------------------------------------


def test_visual_ogbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {
        "observations": FRAMES,
        "actions": ACTIONS,
        "terminals": np.float32([0, 0, 1, 0, 0, 1]),
    }
    path = files.write_npz(tmp_path / "visual-cube-single-play-v0.npz", **arrays)
    monkeypatch.setenv("OGBENCH_DATASETS_PATH", str(tmp_path))
    for name in (path, "visual-cube-single-play-v0"):
        found = data.load(name)
        assert_pairs(found, [0, 1, 3, 4], [1, 2, 4, 5])
        assert len(found.images["image"].frames) == 6 and not found.has_rewards
    labelled = arrays | {"rewards": np.zeros(6), "masks": np.ones(6)}
    assert data.load(files.write_npz(tmp_path / "a.npz", **labelled)).has_rewards
    refused(
        files.write_npz(tmp_path / "b.npz", **(labelled | {"observations": FRAMES / 255})),
        r"b\.npz: the images 'image' are float64, .*\(images \* 255\)",
    )
    with pytest.raises(DataError, match=r"powderworld.*only those of robots and mazes"):
        data.load("powderworld-easy-play-v0")


# --- Robomimic ------------------------------------------------------------------------------------


def demos(**changes: Any) -> dict[str, dict[str, Any]]:
    """A demonstration with next observations and one without."""
    state = {"robot0_eef_pos": np.arange(9.0).reshape(3, 3), "robot0_eef_quat": np.zeros((3, 4))}
    state |= {"robot0_gripper_qpos": np.zeros((3, 2)), "object": np.zeros((3, 1))}
    demo = {"actions": ACTIONS[:3], "rewards": np.float32([0, 0, 1]), "dones": [0, 0, 1]}
    following = np.concatenate([FRAMES[1:3], FRAMES[5:]])
    first = state | {"agentview_image": FRAMES[:3]}
    second = state | {"agentview_image": FRAMES[3:], **changes}
    return {
        "demo_0": demo | {"obs": first, "next_obs": state | {"agentview_image": following}},
        "demo_1": demo | {"obs": second},
    }


def test_robomimic(tmp_path: Path) -> None:
    path = files.write_robomimic(tmp_path / "image.hdf5", demos())
    for keys in ("agentview_image,robot0_eef_pos", "images,robot0_eef_pos"):
        found = data.load(path, hints=read_hints(observation_keys=keys))
        assert_pairs(found, range(6), [1, 2, 5, 4, 5, -1], "agentview_image")
        assert found.observation.shape == (6, 3) and found.task is None
        assert len(found.images["agentview_image"].frames) == 7
    assert data.load(path, hints=read_hints(observation_keys="images")).observation.size == 0
    plain = data.load(path)
    assert not plain.images and plain.observation.shape == (6, 10)
    assert any("left out: agentview_image" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agentview_image": FRAMES[3:, :2]}, r"/data/demo_1: the images 'agentview_image' are 2x"),
        ({"agentview_image": FRAMES[3:5]}, "agentview_image 2"),
        ({"agentview_image": FRAMES[3:] / 255}, "'agentview_image'.*float64"),
        ({"agentview_image": None}, "missing agentview_image"),
    ],
)
def test_bad_images_of_robomimic(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    whole = demos(**changes)
    obs = {key: x for key, x in whole["demo_1"]["obs"].items() if x is not None}
    whole["demo_1"]["obs"] = obs
    path = files.write_robomimic(tmp_path / "image.hdf5", whole)
    refused(path, message, observation_keys="robot0_eef_pos,agentview_image")


# --- Minari ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_minari(alone: bool, root: Path) -> None:
    box = gymnasium.spaces.Box(0, 255, (4, 5, 3), np.uint8)
    low = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    space = box if alone else gymnasium.spaces.Dict({"cam": box, "low": low})
    seen = [FRAMES[:3], FRAMES[3:]]
    observations: list[Any] = seen if alone else [{"cam": x, "low": ACTIONS[:3]} for x in seen]
    episodes = [
        files.episode(x, [[0.0], [1.0]], [1.0, 2.0], terminated=False) for x in observations
    ]
    files.write_minari(root, "mine/images-v0", episodes, observation_space=space)
    found = data.load("mine/images-v0")
    assert_pairs(found, [0, 1, 3, 4], [1, 2, 4, 5], "image" if alone else "cam")
    assert found.observation.shape == (4, 0 if alone else 1)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gymnasium.spaces.Box(0, 1, (4, 5, 3), np.float32), "images of float32.*as uint8"),
        (gymnasium.spaces.Box(0, 255, (3, 4, 5), np.uint8), "5 channels.*channels come last"),
        (gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8), "episode 0 are uint8 of shape"),
    ],
)
def test_other_spaces_of_minari(space: gymnasium.Space, message: str, root: Path) -> None:
    frames: Any = np.moveaxis(FRAMES[:3], -1, 1) if space.shape == (3, 4, 5) else FRAMES[:3]
    one = files.episode(frames, [[0.0], [1.0]], [1.0, 2.0], terminated=False)
    files.write_minari(root, "mine/bad-v0", [one], observation_space=space)
    with pytest.raises(DataError, match=message):
        data.load("mine/bad-v0")


# --- LeRobot and Parquet --------------------------------------------------------------------------


def test_what_lerobot_wrote_with_images() -> None:
    found = data.load(FIXTURE, hints=CUT)
    frames, before, after = found.images["images.top"]
    assert frames.shape == (7, 4, 4, 3) and found.observation.shape == (5, 3)
    np.testing.assert_array_equal(frames[before][:, 0, 0, 0], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(frames[after][:, 0, 0, 0], [1, 2, 4, 5, 6])
    alone = data.load(FIXTURE, hints=CUT._replace(observation_keys=("observation.images",)))
    assert [*alone.images] == ["images.top"] and alone.observation.shape == (5, 0)
    keys = CUT._replace(observation_keys=("observation.state",))
    assert (
        "images that are left out: observation.images.top" in data.load(FIXTURE, hints=keys).notes
    )


def test_videos_without_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # importing it fails
    shutil.copytree(FIXTURE, tmp_path / "a")
    path = tmp_path / "a/meta/info.json"
    about = json.loads(path.read_text())
    about["features"]["observation.images.side"] = {"dtype": "video", "shape": [4, 4, 3]}
    path.write_text(json.dumps(about))
    for keys in ((), ("observation.images.side",)):
        with pytest.raises(
            DataError, match=r"side\): .*pip install 'jaxrl_prefs\[video\]'\. To tr"
        ):
            data.load(tmp_path / "a", hints=CUT._replace(observation_keys=keys))
    state = CUT._replace(observation_keys=("observation.state",))
    assert data.load(tmp_path / "a", hints=state).size == 5
    images = state._replace(action_keys=("observation.images.side",))
    with pytest.raises(DataError, match=r"side holds images, no numbers of an action \(--action_"):
        data.load(tmp_path / "a", hints=images)


def encoded(frame: np.ndarray, form: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, form, **more)
    return stream.getvalue()


def parquet(path: Path, contents: list[Any], name: str = "observation.cam") -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    rows = {
        name: [{"bytes": each, "path": "x.png"} for each in contents],
        "action": ACTIONS[: len(contents), 0],
    }
    pq.write_table(pyarrow.table(rows), path)
    return path


def test_parquet_with_encoded_images(tmp_path: Path) -> None:
    pngs: list[Any] = [encoded(each) for each in FRAMES]
    found = data.load(parquet(tmp_path / "a.parquet", pngs))
    assert_pairs(found, range(5), range(1, 6), "cam")
    grey = data.load(parquet(tmp_path / "b.parquet", [encoded(x[..., 0]) for x in FRAMES]))
    assert grey.images["cam"].frames.shape == (6, 4, 5, 1)
    path = parquet(tmp_path / "c.parquet", [encoded(x, "JPEG", quality=95) for x in FRAMES * 0 + 9])
    assert int(data.load(path).images["cam"].frames.max()) == 9
    other = parquet(tmp_path / "d.parquet", pngs, "front")
    refused(other, r"d\.parquet holds images \(front\).*--observation_keys=front,")
    named = data.load(other, hints=read_hints(observation_keys="front"))
    assert [*named.images] == ["front"]
    broken = [*pngs[:2], pngs[2][:40]]
    refused(
        parquet(tmp_path / "e.parquet", broken), r"e\.parquet: observation\.cam: the image at row 2"
    )
    refused(parquet(tmp_path / "f.parquet", [pngs[0], None]), "holds no image at row 1")
    sizes = [pngs[0], encoded(FRAMES[0, :2])]
    refused(parquet(tmp_path / "g.parquet", sizes), "2x5x3 at row 1, 4x5x3 before; resize")
    deep = [encoded(np.zeros((4, 5), np.uint16))] * 2
    refused(parquet(tmp_path / "h.parquet", deep), "of the mode I;16 at row 0: convert it")


# --- Tables in HDF5 and npz -----------------------------------------------------------------------


def test_hdf5_of_episodes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for episode in range(2):
            rows = slice(3 * episode, 3 * episode + 3)
            file[f"traj_{episode}/obs/top"] = FRAMES[rows]
            file[f"traj_{episode}/obs/low"] = ACTIONS[rows]
            file[f"traj_{episode}/actions"] = ACTIONS[:2]
    found = data.load(tmp_path / "a.hdf5")
    assert_pairs(found, [0, 1, 3, 4], [1, 2, 4, 5], "top")
    assert found.observation.shape == (4, 1) and len(found.images["top"].frames) == 6
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["traj_0/obs/top"], file["traj_0/actions"] = FRAMES[:3], ACTIONS[:2]
        file["traj_1/obs/top"], file["traj_1/actions"] = FRAMES[:3, :2], ACTIONS[:2]
    refused(tmp_path / "b.hdf5", r"b\.hdf5: /traj_1: the images 'obs/top' are 2x5x3, and 4x5x3 in")


def test_flat_hdf5_and_npz(tmp_path: Path) -> None:
    flags = {"terminals": [0, 0, 1, 0, 0, 0], "timeouts": [0, 0, 0, 0, 0, 1]}
    flat = {"actions": ACTIONS, "rewards": np.ones(6), **flags}
    found = data.load(files.write_d4rl(tmp_path / "a.hdf5", observations=FRAMES, **flat))
    assert_pairs(found, range(5), [1, 2, -1, 4, 5])
    twice = {"obs/cam": FRAMES, "next_obs/cam": FRAMES[::-1], "obs/x": ACTIONS}
    found = data.load(files.write_d4rl(tmp_path / "b.hdf5", **twice, **flat))
    assert_pairs(found, range(5), [5, 4, 3, 2, 1], "cam")
    path = files.write_npz(tmp_path / "c.npz", observations=ACTIONS, pixels=FRAMES[..., 0], **flat)
    found = data.load(path)
    assert found.images["pixels"].frames.shape == (6, 4, 5, 1)
    (tmp_path / "many").mkdir()
    for place, width in enumerate((5, 4)):
        seen = FRAMES[:, :, :width]
        files.write_npz(tmp_path / f"many/{place}.npz", observations=seen, **flat)
    refused(
        tmp_path / "many", r"1\.npz: the images 'observations' are 4x4x3, and 4x5x3 in .*0\.npz"
    )
    first = np.moveaxis(FRAMES, -1, 1)
    refused(
        files.write_npz(tmp_path / "d.npz", observations=first, **flat),
        r"d\.npz: observations: its images have 5 channels, .*channels come last",
    )
    refused(
        files.write_npz(tmp_path / "e.npz", observations=FRAMES / 255, **flat),
        r"e\.npz: observations: its images are float64, .*\(images \* 255\)",
    )


def test_images_of_a_folder_of_arrays_stay_in_their_file(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    arrays = {"actions": np.eye(6)[:, :2], "rewards": np.arange(6.0), "terminals": np.zeros(6)}
    arrays |= {"images": frames, "timeouts": np.arange(6) % 3 == 2}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    loaded = data.load(tmp_path)
    (found,) = loaded.images.values()
    assert isinstance(found.frames, np.memmap) and found.frames.filename == tmp_path / "images.npy"
    np.testing.assert_array_equal(found.frames[found.before], frames[[0, 1, 3, 4]])
    prepared = data.prepare(loaded, data.Processing(frame_stack=2)).transitions
    assert any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(prepared))


def test_rlds_flags_with_images(tmp_path: Path) -> None:
    last = np.array([0, 0, 1, 0, 0, 1])
    path = files.write_npz(
        tmp_path / "a.npz",
        observation=FRAMES,
        action=ACTIONS,
        reward=np.ones(6),
        is_first=np.roll(last, 1),
        is_last=last,
        is_terminal=last * 0,
    )
    assert_pairs(data.load(path), [0, 1, 3, 4], [1, 2, 4, 5])
