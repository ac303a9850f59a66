"""Frames of MP4 videos, decoded by PyAV, which LeRobot uses too.

A video is somebody else's file: it opens nothing but itself, and only the decoders of LeRobot's own
codecs see its bytes. Frames larger than `meta/info.json` promises are never allocated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxrl_prefs.data.readers import container
from jaxrl_prefs.errors import DataError

DECODERS = "h264,hevc,libdav1d,av1"  # FFmpeg's names
SLACK = 0.25  # of a frame, by which times may differ from those of an even rate
PADDING = 128  # pixels that codecs add to a side, to fill their blocks


def package() -> Any:
    """The module `av`.

    Raises:
      DataError: naming what to install.
    """
    try:
        import av
    except ImportError as fault:
        raise DataError(
            "videos are decoded by the package av: pip install 'jaxrl_prefs[video]'"
        ) from fault
    return av


def read(path: Path, fps: float, rows: np.ndarray, frames: np.ndarray) -> None:
    """Decodes the MP4 file `path`, its k-th frame into row `rows[k]` of `frames`.

    Args:
      path: of the file, whose frame k must be shown k / fps seconds after the beginning.
      fps: frames per second.
      rows: [K], as many as the video has frames.
      frames: [N, H, W, 3] uint8, of the video's own size.

    Raises:
      DataError: if there is no such file, it is no whole MP4 video of H.264, HEVC or AV1, or it has
        another number, size or rate of frames.
    """
    container.check_exists(path)
    av, count = package(), 0
    try:
        with path.open("rb") as file, _opened(av, file, frames.shape[1:3]) as video:
            stream = _stream(path, video, frames.shape[1:3])
            for frame in video.decode(stream):
                if count == len(rows):
                    raise DataError(_miscounted(path, f"more than {count} frames", len(rows)))
                _check_frame(path, frame, count, fps, frames.shape[1:3])
                frames[rows[count]] = frame.to_ndarray(format="rgb24")
                count += 1
    except DataError:
        raise
    except MemoryError as fault:
        raise DataError(f"{path} does not fit in memory: {container.first_line(fault)}") from fault
    except Exception as fault:  # PyAV raises errors of many kinds on a damaged file
        why = getattr(fault, "strerror", None) or container.first_line(fault)
        raise DataError(
            f"{path} cannot be decoded at frame {count}, it is no MP4 video of H.264, HEVC or AV1, "
            f"or was cut short or damaged; download it again: {why}"
        ) from fault
    if count < len(rows):
        raise DataError(_miscounted(path, f"{count} frames", len(rows)))


def _opened(av: Any, file: BinaryIO, size: tuple[int, ...]) -> Any:
    """The video in an open file, read as MP4 whatever its bytes look like.

    The format is not guessed, so a playlist is no video. PyAV reads the file object itself, so that
    no name is ever looked up as an address; references from a video to other files are ignored.
    """
    options = {
        "codec_whitelist": DECODERS,
        "enable_drefs": "0",
        "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2",
        "protocol_whitelist": "file",
    }
    # FFmpeg decodes some frames already when it opens a file, so limits are set here and below.
    return av.open(
        file, "r", format="mp4", options=_limits(size), container_options=options, buffer_size=2**18
    )


def _limits(size: tuple[int, ...]) -> dict[str, str]:
    """Options of the decoder: the largest frame, and that damage is an error."""
    height, width = size
    return {
        "codec_whitelist": DECODERS,
        "err_detect": "explode",
        "max_pixels": str((height + PADDING) * (width + PADDING)),
    }


def _stream(path: Path, video: Any, size: tuple[int, ...]) -> Any:
    """The stream of pictures, whose size and codec are the expected ones."""
    streams = video.streams.video
    if not streams or streams[0].codec_context is None:
        raise DataError(f"{path} holds no video of H.264, HEVC or AV1: encode it with one of these")
    codec = streams[0].codec_context
    if codec.codec.name not in DECODERS.split(","):
        raise DataError(
            f"{path} is a video of the codec {codec.codec.name}: encode it as H.264, HEVC or AV1"
        )
    _check_size(path, (codec.height, codec.width), size)
    codec.options = _limits(size)
    codec.thread_type = "AUTO"
    return streams[0]


def _check_size(path: Path, found: tuple[int, int], size: tuple[int, ...]) -> None:
    if found != tuple(size):
        raise DataError(
            f"{path} has frames of {found[0]}x{found[1]}, and meta/info.json tells of "
            f"{size[0]}x{size[1]}: correct the shape there if the video is right"
        )


def _check_frame(path: Path, frame: Any, count: int, fps: float, size: tuple[int, ...]) -> None:
    _check_size(path, (frame.height, frame.width), size)
    if frame.is_corrupt:
        raise DataError(f"{path} is damaged at frame {count}: download it again")
    if frame.pts is None or not abs(float(frame.pts * frame.time_base) * fps - count) < SLACK:
        when = "no time" if frame.pts is None else f"{float(frame.pts * frame.time_base):.6g} s"
        raise DataError(
            f"{path} shows frame {count} at {when}, and {fps:g} frames per second (meta/info.json) "
            f"put it at {count / fps:.6g} s: frames are missing, or the rate is another one"
        )


def _miscounted(path: Path, found: str, rows: int) -> str:
    return (
        f"{path} has {found}, and its episodes have {rows} rows in data/: the video was cut short, "
        "or belongs to another dataset"
    )
