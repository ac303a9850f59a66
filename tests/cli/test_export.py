"""The command that writes a policy as one file; tests/test_readme.py runs what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import export


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run names the folder of a run"),
        (["--run=nowhere"], "nowhere does not exist"),
        (["more", "--run=nowhere"], "unexpected argument 'more'"),
        (["--seed=x"], "seed"),
        (["--run=.", "--onnx=maybe"], "onnx"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["export", *words]) == 2
    assert message in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["export", "--help"]) == 0
    assert "--policy: one of the method's policies" in capsys.readouterr().out


def test_a_seed_and_a_policy_by_name(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jaxrl_prefs.cli import run

    small = {"pretrain_steps": 2, "train_steps": 0, "warmup_steps": 0}
    assert run.main(command(**small)) == 0
    capsys.readouterr()
    out = tmp_path / "behaviour"
    words = [f"--run={tmp_path / 'run'}", "--policy=behavior", "--seed=1", f"--out={out}"]
    assert export.main(["export", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "bdpo's behavior of seed 1 after 2 updates, 3 observations to 1 actions" in said
    assert out.stat().st_size > 1000
    assert export.main(["export", *words[:1], "--seed=9"]) == 2
    assert "no seed 9; it has [0, 1]" in capsys.readouterr().err


def test_onnx_with_its_check(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    out = tmp_path / "policy.onnx"
    capsys.readouterr()
    assert export.main(["export", f"--run={short_run}", f"--out={out}", "--check"]) == 0
    first, compared, timed = capsys.readouterr().out.splitlines()
    assert "td3_bc's actor of seed 0 after 4 updates" in first
    assert compared.startswith("same actions as the run's policy on 64 of 64 observations")
    assert "with onnxruntime" in timed and "99th percentile" in timed
    policy = jp.load_run(short_run).policy(seed=0)
    assert jp.load_policy(out)([1, 0, 0.5]) == pytest.approx(policy([1, 0, 0.5]), abs=1e-5)
    with pytest.raises(ValueError, match="a NaN or an infinity in dimension 2"):
        policy([1, 0, float("nan")])


def test_a_format_and_a_name_that_disagree(
    short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", f"--run={short_run}", "--noonnx", "--out=policy.onnx"]
    assert export.main(words) == 2
    assert "the names of ONNX files, and of no others, end in .onnx" in capsys.readouterr().err
