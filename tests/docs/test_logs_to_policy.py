"""The tutorial from a folder of logs to an exported policy, command by command."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jaxrl_prefs.__main__ import main
from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.runs import off_policy_evaluation
from tests.small_runs import brisk  # noqa: F401 - for the runs here too

PAGE = (Path(__file__).parents[2] / "docs/tutorials/logs_to_policy.md").read_text()
LESS = [f"--set={text}" for text in ("actor_hidden=8", "batch_size=16", "log_every=2")]


def test_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnxruntime", "plotly"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    small = fqe.Config(hidden=(8,), updates=20, batch_size=32)
    monkeypatch.setattr(off_policy_evaluation, "DEFAULT", small)
    make_logs, control = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(make_logs, {})
    assert len(list(Path("logs").iterdir())) == 20
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    commands = [line.split() for line in text.splitlines() if line]
    assert [words[1] for words in commands] == ["data", "data", "compare", "report", "export"]
    told = []
    for words in commands:
        less = LESS if words[1] == "compare" else []
        short = [word.replace("train_steps=20000", "train_steps=4") for word in words]
        assert main([*short, *less]) == 0, words
        told.append(capsys.readouterr().out)
    assert "20 episodes" in told[0] or re.search(r"episodes +20\b", told[0])
    assert "fqe chooses" in told[2] and "an estimate is not a score" in told[2]
    page = Path("runs/cart/report.html").read_text()
    assert "fqe chooses" in page
    names: dict = {}
    exec(control, names)
    assert np.abs(names["action"]).max() <= 1 and names["action"].shape == (1, 1)
