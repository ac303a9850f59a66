"""LeRobot's videos: frames in the order of the rows, and files that are refused.

Videos are H.264 of RGB at quantiser 0, which is lossless, so frames are compared to the bit. The
datasets around them are those that LeRobot's own library wrote (fixtures/write_lerobot.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs import data
from jaxrl_prefs.data import read_hints, videos
from jaxrl_prefs.data.images import ALIGNMENT
from jaxrl_prefs.errors import DataError
from tests.data.test_images import shown

av = pytest.importorskip("av", reason="the extra video is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
import pyarrow as pa  # noqa: E402

FIXTURES = Path(__file__).parents[1] / "fixtures"
CAMERA = "observation.images.side"
CUT = read_hints(episode_ends="timeout", observation_keys=f"observation.state,{CAMERA}")
FRAMES = np.random.default_rng(0).integers(0, 256, (7, 20, 24, 3), np.uint8)
FIRST, SECOND = FRAMES[:3], FRAMES[3:]  # the episodes
FEATURE = {"dtype": "video", "shape": [20, 24, 3], "names": ["height", "width", "channels"]}


def encode(
    path: Path, frames: np.ndarray, codec: str = "libx264rgb", kind: str = "rgb24", fps: int = 10
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream(codec, rate=fps, options={"qp": "0"} if "264" in codec else {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], kind
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def describe(folder: Path, feature: Any = FEATURE, name: str = CAMERA, **changes: Any) -> None:
    path = folder / "meta/info.json"
    about = json.loads(path.read_text()) | changes
    about["features"][name] = feature
    path.write_text(json.dumps(about))


def old(folder: Path) -> Path:
    """A dataset v2.1 with a video of each episode."""
    shutil.copytree(FIXTURES / "lerobot-v2.1", folder)
    describe(folder)
    for episode, frames in enumerate((FIRST, SECOND)):
        encode(film(folder, episode), frames)
    return folder


def film(folder: Path, episode: int = 1) -> Path:
    return folder / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"


def new(folder: Path, **changes: Any) -> Path:
    """A dataset v3.0, whose second episode comes before the first one in its only video."""
    shutil.copytree(FIXTURES / "lerobot-v3.0", folder)
    describe(folder)
    place = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(place)
    told = {
        "chunk_index": [0, 0],
        "file_index": [0, 0],
        "from_timestamp": [0.4, 0.0],
        "to_timestamp": [0.7, 0.4],
    }
    for key, column in (told | changes).items():
        table = table.append_column(f"videos/{CAMERA}/{key}", pa.array(column))
    pq.write_table(table, place)
    encode(single(folder), np.concatenate([SECOND, FIRST]))
    return folder


def single(folder: Path, number: int = 0) -> Path:
    return folder / f"videos/{CAMERA}/chunk-000/file-{number:03d}.mp4"


def check(folder: Path, hints: Any = CUT) -> None:
    """The frames of five steps: the last of each episode has no successor."""
    found = data.load(folder, hints=hints)
    before, after = shown(found, "images.side")
    np.testing.assert_array_equal(found.observation[:, 0], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(before, FRAMES[[0, 1, 3, 4, 5]])
    np.testing.assert_array_equal(after, FRAMES[[1, 2, 4, 5, 6]])
    frames = found.images["images.side"].frames
    assert len(frames) == 7 and frames.ctypes.data % ALIGNMENT == 0  # each kept once


def test_a_video_of_each_episode(tmp_path: Path) -> None:
    folder = old(tmp_path / "a")
    check(folder)
    check(folder, CUT._replace(observation_keys=()))
    notes = data.load(folder, hints=CUT._replace(observation_keys=("observation.state",))).notes
    assert f"images that are left out: {CAMERA}" in notes
    describe(folder, FEATURE | {"shape": [3, 20, 24], "names": ["channels", "height", "width"]})
    check(folder)
    describe(folder, chunks_size=1)
    film(folder).parents[1].with_name("chunk-001").mkdir()
    shutil.move(film(folder).parent, film(folder).parents[2] / "chunk-001")
    encode(film(folder, 0), FIRST)
    check(folder)


def test_many_episodes_in_a_video(tmp_path: Path) -> None:
    check(new(tmp_path / "a"))
    two = new(tmp_path / "b", file_index=[1, 0], from_timestamp=[0.0, 0.0], to_timestamp=[0.3, 0.4])
    encode(single(two), SECOND)
    encode(single(two, 1), FIRST)
    check(two)


def test_colours_of_an_ordinary_video(tmp_path: Path) -> None:
    """Luma has 219 levels, so that grey is off by one at most; quantiser 0 adds nothing to it."""
    grey = np.broadcast_to(np.arange(20, 250, 10)[:, None, None, None], (23, 20, 24, 3))
    encode(tmp_path / "a.mp4", np.ascontiguousarray(grey, np.uint8), "libx264", "yuv420p")
    found = np.zeros((23, 20, 24, 3), np.uint8)
    videos.read(tmp_path / "a.mp4", 10, np.arange(23), found)
    np.testing.assert_allclose(found.astype(int), grey, atol=1)


def other(frames: np.ndarray = SECOND, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: encode(film(folder), frames, **changes)


def holding(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: film(folder).write_bytes(change(film(folder).read_bytes()))


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nepisode_000000.mp4\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: film(folder).unlink(), r"no video videos/chunk-000/.*episode_000001\.mp4"),
        (holding(lambda x: x[: len(x) // 2]), r"000001\.mp4 cannot be decoded at frame 0, .*cut"),
        (holding(lambda x: b"no video"), r"000001\.mp4 cannot be decoded at frame 0"),
        (holding(lambda x: b""), r"000001\.mp4 cannot be decoded at frame 0"),
        (holding(lambda x: PLAYLIST), r"000001\.mp4 cannot be decoded at frame 0"),
        (other(SECOND[:3]), r"000001\.mp4 has 3 frames, and its episodes have 4 rows in data/"),
        (other(FRAMES), r"000001\.mp4 has more than 4 frames, and its episodes have 4 rows"),
        (other(SECOND[:, :18]), r"has frames of 18x24, and meta/info\.json tells of 20x24"),
        (other(fps=20), r"shows frame 1 at 0\.05 s, and 10 frames per second .*put it at 0\.1 s"),
        (other(codec="mpeg4", kind="yuv420p"), r"is a video of the codec mpeg4: encode it as H"),
        (lambda folder: describe(folder, fps=0), "tells of fps=0, expected the frames per second"),
        (lambda folder: describe(folder, fps=20), "row 1 falls on frame 2, and the next .* is 1"),
        (lambda folder: describe(folder, fps=15), "falls on frame 1.5, between two frames"),
        (lambda folder: describe(folder, chunks_size=0), "tells of chunks_size=0"),
        (
            lambda folder: describe(folder, FEATURE | {"shape": [10**6, 10**6, 3]}),
            r"side, decoded, takes 2\.1e\+04 GB of memory",
        ),
        (lambda folder: describe(folder, FEATURE | {"shape": [20, 24]}), r"expected \[height, wi"),
        (
            lambda folder: describe(folder, FEATURE | {"info": {"video.is_depth_map": True}}),
            "side is a video of depths",
        ),
    ],
)
def test_what_is_refused(change: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    change(folder := old(tmp_path / "a"))
    with pytest.raises(DataError, match=message) as caught:
        data.load(folder, hints=CUT)
    assert "\n" not in str(caught.value)


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    """PyAV itself follows such a list, which begins with no more than its own name."""
    encode(tmp_path / "real.mp4", SECOND)
    (tmp_path / "list.mp4").write_bytes(b"ffconcat version 1.0\nfile real.mp4\n")
    with av.open(str(tmp_path / "list.mp4")) as followed:
        assert len(list(followed.decode(video=0))) == 4
    frames = np.zeros((4, 20, 24, 3), np.uint8)
    videos.read(tmp_path / "real.mp4", 10, np.arange(4), frames)
    with pytest.raises(DataError, match=r"list\.mp4 cannot be decoded at frame 0"):
        videos.read(tmp_path / "list.mp4", 10, np.arange(4), frames)


def test_the_decoder_refuses_larger_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size in a header may change later; what FFmpeg allocates is limited besides."""
    monkeypatch.setattr(videos, "PADDING", -10)
    encode(tmp_path / "a.mp4", SECOND)
    with pytest.raises(DataError, match=r"a\.mp4 cannot be decoded at frame 0"):
        videos.read(tmp_path / "a.mp4", 10, np.arange(4), np.zeros((4, 20, 24, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to_timestamp": [0.6, 0.4]}, "episode 0 at 0.4 to 0.6 s, and data/ holds 3 rows of it"),
        ({"to_timestamp": [float("nan"), 0.4]}, "episode 0 at 0.4 to nan s"),
        (
            {"from_timestamp": [0.3, 0.0], "to_timestamp": [0.6, 0.4]},
            r"file-000\.mp4: row 6 falls on frame 3, and the next frame without a row is 4",
        ),
        ({"file_index": [0, 1]}, r"there is no video videos/observation.*file-001\.mp4"),
        ({"file_index": ["../../x", "0"]}, r"file_index.* are not numbers"),
        ({"file_index": [0.5, 0.0]}, r"file_index of meta/episodes are float64, no whole numbers"),
    ],
)
def test_places_that_are_refused(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        data.load(new(tmp_path / "a", **changes), hints=CUT)


def test_meta_that_was_not_downloaded(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "lerobot-v3.0", tmp_path / "a")
    describe(tmp_path / "a")
    with pytest.raises(DataError, match=r"file-000\.parquet lacks the column videos/.*chunk_index"):
        data.load(tmp_path / "a", hints=CUT)
    shutil.rmtree(tmp_path / "a/meta/episodes")
    with pytest.raises(DataError, match=r"meta/episodes holds no chunk-\*/\*\.parquet"):
        data.load(tmp_path / "a", hints=CUT)


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    """The video is there, outside of the dataset's folder, and is not read."""
    folder, name = old(tmp_path / "a"), "observation.x/../../../../b"
    for episode, frames in enumerate((FIRST, SECOND)):
        encode(tmp_path / f"b/episode_{episode:06d}.mp4", frames)
    describe(folder, name=name)
    for keys in ("", f"{name},observation.state"):
        with pytest.raises(DataError, match="which is no name of a folder"):
            data.load(folder, hints=read_hints(episode_ends="timeout", observation_keys=keys))


def test_names_that_are_no_observation(tmp_path: Path) -> None:
    folder = old(tmp_path / "a")
    describe(folder, name="wrist")
    with pytest.raises(DataError, match=r"holds images \(wrist\).*--observation_keys=wrist,"):
        data.load(folder, hints=CUT._replace(observation_keys=()))
