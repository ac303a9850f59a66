"""The command that writes a policy as one file; tests/test_readme.py runs what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrl_prefs.cli import export


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run names the folder of a run"),
        (["--run=nowhere"], "nowhere does not exist"),
        (["more", "--run=nowhere"], "unexpected argument 'more'"),
        (["--seed=x"], "seed"),
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
