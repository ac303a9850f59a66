"""Pictures of an episode: a video, an animated GIF, and a contact sheet."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_prefs.environments.task import WAYS_OUT
from jaxrl_prefs.errors import DataError

EXTRA = "pip install 'jaxrl_prefs[video]'"
WIDE = 240  # pixels of a picture in a GIF or on a sheet
MOST = 200  # pictures that are kept of an episode
TILES, ACROSS, GAP = 12, 4, 4
BACKGROUND = (120, 120, 120)  # between the pictures
USUAL = 30.0  # frames a second of an environment that does not say
SLOWEST = 5  # frames a second of a GIF


def prepare() -> None:
    """Lets simulators draw without a display; call it before an environment is made."""
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        for name, value in {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"}.items():
            os.environ[name] = os.environ.get(name) or value


def follow(env: Any) -> None:
    """Lets the camera follow the robot, where a MuJoCo model has a camera for that."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    with contextlib.suppress(AttributeError, KeyError):
        camera = env.unwrapped.model.camera("track").id
        if renderer is not None:
            renderer.camera_id = camera


def frame(env: Any, env_id: str) -> np.ndarray:
    """Draws an environment: uint8 [H, W, 3].

    Raises:
        DataError: if it cannot be drawn; the message names what is missing.
    """
    try:
        drawn = env.render()
    except Exception as fault:  # a simulator may fail in any way
        raise DataError(f"{env_id} cannot be drawn: {advice(fault)}") from fault
    if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.shape[-1] != 3:
        raise DataError(f"{env_id} cannot be drawn: it has no render mode 'rgb_array'")
    return drawn.astype(np.uint8, copy=False)


def advice(fault: Exception) -> str:
    """What went wrong in drawing, and what to install."""
    text = " ".join(str(fault).split()).partition(f". {WAYS_OUT}")[0].rstrip(".")
    text = text or type(fault).__name__
    if "pygame" in text:
        return f"{text}. The extra brings it: {EXTRA}"
    backend = os.environ.get("MUJOCO_GL", "")
    return (
        f"{text}. MuJoCo drew with MUJOCO_GL={backend or '(not set)'}: egl needs libEGL (Debian: "
        "apt install libegl1), osmesa needs libOSMesa (apt install libosmesa6), glfw a display"
    )


class Film:
    """Takes the frames of episodes; small pictures of the first episode are kept.

    A long episode keeps every second, fourth, ... frame, so that at most `MOST` are held.
    """

    def __init__(self, video: Path | None) -> None:
        self._per_second, self._every, self._count = USUAL, 1, 0
        self._pictures: list[Any] = []
        self._video = None if video is None else _Video(video)

    def add(self, env: Any, env_id: str, episode: int) -> None:
        """Adds the environment as it looks; small pictures are kept of episode 0.

        Raises:
            DataError: if it cannot be drawn.
        """
        drawn = frame(env, env_id)
        self._per_second = float(env.metadata.get("render_fps") or USUAL)
        if self._video is not None:
            self._video.add(drawn, self._per_second)
        if episode:
            return
        if self._count % self._every == 0:
            self._pictures.append(_small(drawn))
        self._count += 1
        if len(self._pictures) > MOST:
            self._pictures, self._every = self._pictures[::2], 2 * self._every

    def close(self) -> None:
        """Finishes the video."""
        if self._video is not None:
            self._video.close()

    def abandon(self) -> None:
        """Removes a video that was not finished."""
        if self._video is not None:
            self._video.abandon()

    def gif(self, path: Path) -> None:
        """Writes the kept pictures as an animated GIF."""
        shown = max(SLOWEST, self._per_second / self._every)
        first, *others = self._pictures
        draft = path.with_name(f".{path.name}")
        first.save(draft, "GIF", save_all=True, append_images=others, duration=1000 / shown, loop=0)
        draft.replace(path)

    def sheet(self, path: Path) -> None:
        """Writes a contact sheet: pictures at equal distances, first and last among them."""
        places = np.linspace(0, len(self._pictures) - 1, min(TILES, len(self._pictures)))
        _tiled([self._pictures[round(place)] for place in places], path)


def _small(drawn: np.ndarray) -> Any:
    from PIL import Image

    picture = Image.fromarray(drawn)
    height = round(WIDE * picture.height / picture.width)
    return picture.resize((WIDE, height), Image.Resampling.LANCZOS)


def _tiled(pictures: Sequence[Any], path: Path) -> None:
    from PIL import Image

    width, height = pictures[0].size
    across = min(ACROSS, len(pictures))
    down = -(-len(pictures) // across)
    size = (across * (width + GAP) - GAP, down * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, across)
        sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    draft = path.with_name(f".{path.name}")
    sheet.quantize(128).save(draft, "PNG", optimize=True)
    draft.replace(path)


class _Video:
    """An MP4 file in the making, written by ffmpeg; its name appears when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f".{path.stem}.part{path.suffix}")
        self._program = ffmpeg()
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, drawn: np.ndarray, per_second: float) -> None:
        height, width = (2 * (size // 2) for size in drawn.shape[:2])  # the codec wants even sizes
        if self._process is None:
            self._process = self._started(width, height, per_second)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(drawn[:height, :width]).data)
        except BrokenPipeError:
            raise self._failed() from None

    def close(self) -> None:
        if self._process is None:
            return
        _, told = self._process.communicate()
        if self._process.returncode:
            raise OSError(f"ffmpeg could not write {self._path}: {_last(told)}")
        self._draft.replace(self._path)

    def abandon(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._draft.unlink(missing_ok=True)

    def _started(self, width: int, height: int, per_second: float) -> subprocess.Popen[bytes]:
        frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        source = ["-r", f"{per_second:g}", "-i", "-"]
        film = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        command = [self._program, "-y", "-loglevel", "error", *frames, *source, *film]
        return subprocess.Popen(
            [*command, str(self._draft.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends this program first
        )

    def _failed(self) -> OSError:
        assert self._process is not None and self._process.stderr is not None
        return OSError(f"ffmpeg could not write {self._path}: {_last(self._process.stderr.read())}")


def _last(told: bytes) -> str:
    lines = told.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def ffmpeg() -> str:
    """The program ffmpeg: the system's, or the one that the package imageio-ffmpeg brings.

    Raises:
        DataError: if there is neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise DataError(
            f"a video needs ffmpeg, of the system or of the package imageio-ffmpeg: {EXTRA}. "
            "--gif and --sheet need none"
        ) from error
    return str(imageio_ffmpeg.get_ffmpeg_exe())
