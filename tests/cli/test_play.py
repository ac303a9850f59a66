"""The command that plays a policy: returns as `evaluate` has them, and pictures of the episode."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxrl_prefs as jp
from jaxrl_prefs.cli import play
from jaxrl_prefs.runs import film


def test_returns_are_those_of_evaluate(short_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = jp.evaluate(jp.load_run(short_run).policy(seed=1), episodes=2)
    capsys.readouterr()
    assert play.main(["play", f"--run={short_run}", "--seed=1", "--episodes=2"]) == 0
    told = capsys.readouterr().out.splitlines()
    expected = found.returns["actor"][1]
    for place, (line, total) in enumerate(zip(told, expected, strict=False)):
        assert line == f"environment seed {10_000 + place}: return {total:.2f}, 200 steps"
    assert told[2].startswith("td3_bc's actor, seed 1, in Pendulum-v1: mean return")
    assert f"{expected.mean():.2f}" in told[2]


def test_a_gif_and_a_sheet(short_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pygame", reason="the extra video is not installed")
    out = tmp_path / "play.mp4"
    words = ["play", f"--run={short_run}", "--gif", f"--sheet={tmp_path / 'sheet.png'}"]
    video = []
    try:
        film.ffmpeg()
        video = [f"--video={out}"]
    except jp.DataError:
        words[-1] = words[-1].replace("sheet.png", "play.png")
    assert play.main([*words, *video] if video else [*words[:2], words[-1]]) == 0
    if not video:
        pytest.skip("no ffmpeg: only the sheet was written")
    assert out.read_bytes()[4:8] == b"ftyp"
    with Image.open(tmp_path / "play.gif") as gif:
        assert getattr(gif, "n_frames", 0) > 50
    with Image.open(tmp_path / "sheet.png") as sheet:  # four pictures across, three down
        assert sheet.size == (4 * 240 + 3 * film.GAP, 3 * 240 + 2 * film.GAP)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_long_episode_keeps_few_pictures(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.metadata, self.now = {"render_fps": 50}, 0

        def render(self) -> np.ndarray:
            return np.full((24, 48, 3), self.now % 256, np.uint8)

    reel, env = film.Film(None), Counter()
    for env.now in range(1000):
        reel.add(env, "Counter-v0", 0)
    assert film.MOST // 2 < len(reel._pictures) <= film.MOST
    reel.sheet(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        first, last = (sheet.convert("RGB").getpixel(at) for at in ((5, 5), (970, 365)))
    assert first == (0, 0, 0)
    assert isinstance(last, tuple) and last[0] > 992 % 256 - 8  # the last picture that was kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run names the folder of a run"),
        (["--run=nowhere"], "nowhere does not exist"),
        (["--run=.", "--video=film.avi"], "--video=film.avi: the file's name ends in .mp4"),
        (["--run=.", "--sheet=no/such.png"], "there is no such folder"),
        (["--run=.", "--env=none"], "a policy is played in an environment"),
        (["--run=.", "--episodes=0"], "episodes"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["play", *words]) == 2
    assert message in capsys.readouterr().err


def test_without_ffmpeg(
    short_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(film.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert play.main(["play", f"--run={short_run}", f"--video={tmp_path / 'play.mp4'}"]) == 2
    assert "pip install 'jaxrl_prefs[video]'" in capsys.readouterr().err
