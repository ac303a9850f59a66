"""Runs on logs: without rewards, and with the columns and bounds that they were begun with."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxrl_prefs as jp
from jaxrl_prefs.cli import run as command
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.types import Spec

FIELDS = ("actor_hidden=8", "batch_size=8", "train_steps=2", "log_every=1")
COLUMNS = ("--observation_keys=level,flow", "--action_keys=valve", "--episode_ends=timeout")


def words(logs: Path, workdir: Path, *more: str, algo: str = "bc") -> list[str]:
    fixed = ("run", f"--algo={algo}", f"--dataset={logs}", "--seeds=1", f"--workdir={workdir}")
    return [*fixed, *(f"--set={field}" for field in FIELDS), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs without rewards, and a run of bc that was trained on them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "logs").mkdir()
    rows = np.random.default_rng(0).uniform(0, 1, (20, 3))
    lines = ["level,flow,valve", *(",".join(map(str, row)) for row in rows.tolist())]
    (folder / "logs/a.csv").write_text("\n".join(lines))
    bounds = ("--action_low=0", "--action_high=1")
    assert command.main(words(folder / "logs", folder / "run", *COLUMNS, *bounds)) == 0
    return folder


def test_methods_without_rewards_train_on_logs_without_them(folder: Path) -> None:
    about = json.loads((folder / "run/config.json").read_text())
    assert about["layout"]["observation_names"] == ["level", "flow"]
    assert about["layout"]["action_high"] == [1.0]
    action = jp.load_run(folder / "run").policy(seed=0)(np.float32([0.2, 0.3]))
    assert action.shape == (1,) and 0 <= action[0] <= 1


def test_others_say_so_and_name_those_that_do(folder: Path, fails: Callable[..., str]) -> None:
    told = fails(words(folder / "logs", folder / "other", *COLUMNS, algo="td3_bc"))
    assert "has no rewards, from which td3_bc learns" in told
    assert "name their column (--reward_key)" in told and told.endswith(": bc, ibc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = {"obs": [[0.0], [1.0], [2.0]], "action": [0.0, 0.5, 1.0]}
        data = jp.Dataset.from_frame(frame, episode_ends="timeout")
    with pytest.raises(jp.ConfigError, match=r"column \(reward_key\), or take"):
        jp.train("iql", data, train_steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--observation_keys=flow,level",), "another order of observations .* number 0 is 'flow'"),
        (("--action_high=10",), "other bounds of actions .* action 0 is 10, and 1 there"),
        (("--observation_keys=flow",), "has 2 observations, .* 1: they do not fit"),
    ],
)
def test_a_run_goes_on_with_the_layout_that_it_was_begun_with(
    changes: tuple[str, ...], message: str, folder: Path, fails: Callable[..., str]
) -> None:
    bounds = ("--action_low=0", "--action_high=1")
    again = words(folder / "logs", folder / "run", *COLUMNS, *bounds)
    told = fails([*again, *changes])
    assert re.search(message, told), told
    assert command.main(again) == 0


@pytest.mark.parametrize("name", ["bc", "ibc", "td3_bc"])
def test_methods_tell_whether_they_use_rewards(name: str) -> None:
    """Follows the rewards of a batch through the updates, which are traced and not run."""
    spec = Spec(2, 1, 8, -np.ones(1, "f"), np.ones(1, "f"), *[np.zeros(2)] * 2, *[np.zeros(1)] * 2)
    module = METHODS[name]
    config = dataclasses.replace(module.Config(), batch_size=8)
    method = module.make(config, spec)
    key = jax.random.key(0)
    batch = jax.tree.map(lambda x: np.repeat(x, 8, 0), spec.example())
    state = jax.eval_shape(method.init, key, batch)
    assert method.uses_rewards == any(
        follows(phase.update, state, batch, key) for phase in method.phases
    )


def follows(update: Any, state: Any, batch: Any, key: Any) -> bool:
    """Whether a state after an update may depend on the rewards."""

    def after(reward: Any, state: Any) -> Any:
        return update(state, batch._replace(reward=reward), key, np.int32(0))[0]

    jaxpr = jax.make_jaxpr(after)(batch.reward, state).jaxpr
    reached = {jaxpr.invars[0]}
    for each in jaxpr.eqns:
        if any(x in reached for x in each.invars if not hasattr(x, "val")):
            reached |= set(each.outvars)
    return any(x in reached for x in jaxpr.outvars if not hasattr(x, "val"))
