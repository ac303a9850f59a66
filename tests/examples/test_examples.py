"""Every example runs as it stands, with fewer updates."""

from __future__ import annotations

import os
import py_compile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrl_prefs as jp
from examples import own_arrays, own_method, quickstart
from jaxrl_prefs.data.generate import pendulum
from tests.small_runs import brisk  # noqa: F401 - for the runs here too

FOLDER = Path(__file__).parents[2] / "examples"
SMALL: dict[str, Any] = {"train_steps": 4, "eval_episodes": 2, "log_every": 2, "batch_size": 16}
TESTED = {"quickstart.py", "quickstart.ipynb", "own_arrays.py", "own_method.py"}
COMPILED = {"ros2_policy_node.py"}  # needs ROS 2
BUILT = {"cpp/policy.cpp"}  # by tests/runs/test_onnx.py


@pytest.fixture(autouse=True)
def ten_episodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The embedded dataset with 10 episodes, made here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("examples")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # may hold the whole
        patch.setattr(pendulum.generate, "__kwdefaults__", {"episodes": 10, "seed": 0})
        yield


def test_every_example_has_a_test() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    names = {path.relative_to(FOLDER).as_posix() for path in files}
    assert names == TESTED | COMPILED | BUILT


@pytest.mark.parametrize("name", COMPILED)
def test_other_examples_compile(name: str, tmp_path: Path) -> None:
    py_compile.compile(str(FOLDER / name), str(tmp_path / "compiled"), doraise=True)


def test_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = quickstart.main(str(tmp_path / "run"), **SMALL)
    assert trained.seeds == (0, 1, 2) and list(trained.scores) == ["actor"]
    assert (tmp_path / "run" / "learning_curves.png").exists()
    assert "an action: [" in capsys.readouterr().out


def test_own_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    trained = own_arrays.main(**SMALL)
    assert trained.workdir is None and set(trained.scores["actor"]) == {0, 1}
    out = capsys.readouterr().out
    assert "2,000 transitions of 50 episodes, 2 observations, 1 action" in out
    assert trained.policy(0)(np.zeros(2)).shape == (1,)


def test_own_method_learns(tmp_path: Path) -> None:
    """A bandit: rewards -(a - 0.5)^2 of uniform actions, so the best action is 0.5."""
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (2000, 1))
    rewards = -np.square(actions[:, 0] - 0.5)
    data = jp.Dataset.from_arrays(
        random.normal(size=(2000, 2)), actions, rewards, np.ones(2000), name="bandit"
    )
    fields: dict[str, Any] = {"actor_hidden": (32,), "critic_hidden": (32,), "batch_size": 256}
    fields |= {"actor_learning_rate": 1e-3, "critic_learning_rate": 3e-3}
    fields |= {"train_steps": 2000, "log_every": 500}
    trained = jp.train(own_method, data, seeds=1, workdir=tmp_path / "run", **fields)
    action = trained.policy(0)(random.normal(size=(100, 2)))
    assert np.abs(action - 0.5).mean() < 0.1
    again = jp.load_run(tmp_path / "run", method=own_method)
    np.testing.assert_array_equal(again.policy(0)(np.ones(2)), trained.policy(0)(np.ones(2)))
    # With equal weights it clones the data, whose mean action is 0.
    held = jp.train(
        own_method, data, seeds=1, **{**fields, "other_weight": 1.0, "train_steps": 1000}
    )
    assert np.abs(held.policy(0)(random.normal(size=(100, 2)))).mean() < 0.15


INJECTED = """
from jaxrl_prefs.data.generate import pendulum
pendulum.generate.__kwdefaults__ = {"episodes": 10, "seed": 0}
import jax
_ = jax.numpy.zeros(3).block_until_ready()  # as in a notebook that has used JAX before
"""


def test_the_notebook_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / "quickstart.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len([line for cell in code for line in cell.source.splitlines() if line]) <= 10
    assert all(not cell.outputs for cell in code)  # kept without what it printed
    written = "train_steps=5_000, eval_every=1_000"
    (training,) = [cell for cell in code if written in cell.source]
    small = 'train_steps=4, eval_episodes=1, log_every=2, batch_size=16, mapping="loop"'
    training.source = training.source.replace(written, small)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(INJECTED))
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [x for x in shown if x.output_type == "error"]
    told = "".join(x.text for x in shown if x.output_type == "stream").splitlines()
    assert len(told) == 1 and "is stored in" in told[0]  # where the dataset is; quiet otherwise
    texts = [x.data["text/plain"] for x in shown if x.output_type == "execute_result"]
    assert texts[0].startswith("Dataset 'pendulum/mixed-v0': 2,000 transitions")
    assert texts[1].startswith("Run of td3_bc on pendulum/mixed-v0, seeds 0, 1, 2, 4 updates")
    assert len(texts[1].splitlines()) <= 5
    assert any("image/png" in x.data for x in shown if x.output_type == "execute_result")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ipython"]
