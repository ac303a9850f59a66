from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_prefs.data import Affine
from jaxrl_prefs.errors import LoadError
from jaxrl_prefs.keys import seed_keys
from jaxrl_prefs.methods import bdpo
from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import load
from jaxrl_prefs.runs.checkpoints import Checkpoints
from jaxrl_prefs.runs.load import load_run
from jaxrl_prefs.types import Spec, Transition

SEEDS = (3, 8)
CONFIG = bdpo.Config(
    actor_hidden=(8,),
    critic_hidden=(8,),
    critic_ensemble_size=2,
    diffusion_steps=2,
    candidates=3,
    policy="deterministic",
)
OBSERVATION = Affine(np.float32([1, 2, 3]), np.float32([0.1, 10, 1]))
ACTION = Affine(np.float32([1 / 3, -100]), np.float32([0.5, 200]))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the command line leaves it, with a fresh state as its checkpoint."""
    path = tmp_path_factory.mktemp("run")
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    spec = Spec(3, 2, 50, -one[:2], one[:2], zero, one * np.float32(0.7), zero[:2], one[:2])
    method = bdpo.make(CONFIG, spec)
    about = {
        "run": {"algo": "bdpo", "dataset": "made-up", "seeds": SEEDS},
        "method": dataclasses.asdict(CONFIG),
        "sweep": {},
        "data": dict.fromkeys(("env", "score_kind", "score", "reference_source"), ""),
        "versions": {},
        "release": load.describe(spec, OBSERVATION, ACTION),
    }
    (path / "config.json").write_text(json.dumps(about))
    mesh = seed_axis.seed_mesh()
    init = seed_axis.over_seeds(method.init, mesh, (0, None))
    state = init(seed_axis.pad(seed_keys(SEEDS), mesh), spec.example())
    with Checkpoints(path / "checkpoints") as checkpoints:
        checkpoints.save(7, seed_axis.trim(state, len(SEEDS)))
    with open(path / "evaluations.jsonl", "w") as file:
        for seed in SEEDS:
            row = {"step": 7, "policy": "actor", "candidates": 3, "rule": "first", "seed": seed}
            row |= {"phase": "train", "score": 10.0 * seed, "returns": [1.0], "lengths": [5]}
            file.write(json.dumps(row) + "\n")
    return path


def test_everything_but_the_data_comes_back(workdir: Path) -> None:
    run = load_run(workdir)
    assert (run.algo, run.config, run.seeds, run.step) == ("bdpo", CONFIG, SEEDS, 7)
    np.testing.assert_array_equal(run.spec.observation_std, np.full(3, np.float32(0.7)))
    for found, expected in ((run.observation, OBSERVATION), (run.action, ACTION)):
        np.testing.assert_array_equal(found.shift, expected.shift)
        np.testing.assert_array_equal(found.scale, expected.scale)
        assert found.shift.dtype == np.float32


def test_a_policy_takes_and_gives_raw_units(workdir: Path) -> None:
    run = load_run(workdir)
    raw = np.random.default_rng(0).normal(size=(4, 3))
    batch = run.policy(seed=8)(raw)
    assert batch.shape == (4, 2)
    # Deterministic actors act on what they see, scaled back to the box.
    seen = np.float32((np.float32(raw) - OBSERVATION.shift) / OBSERVATION.scale)
    state = seed_axis.one(run.state, 1)
    inside = run.method.policies["actor"].act(state, seen, jax.random.key(5))
    np.testing.assert_allclose(batch, np.asarray(inside) * ACTION.scale + ACTION.shift, rtol=1e-4)
    single = run.policy(seed=8)(raw[2])
    assert single.shape == (2,)
    np.testing.assert_allclose(single, batch[2], rtol=1e-4)


def test_seeds_and_policies_differ(workdir: Path) -> None:
    run = load_run(workdir)
    raw = np.ones((1, 3))
    actions = [
        run.policy(seed, name)(raw).tolist() for seed in SEEDS for name in ("actor", "behavior")
    ]
    assert actions[0] == run.policy(3)(raw).tolist()  # the first policy is the default
    assert actions[0] != actions[2] and actions[1] != actions[3]


def test_batches_of_another_width_are_refused(workdir: Path) -> None:
    policy = load_run(workdir).policy(3)
    for shape in ((4,), (2, 4), (), (1, 1, 3)):
        with pytest.raises(ValueError, match=r"shape \[3\] or \[batch, 3\]"):
            policy(np.zeros(shape))


def test_what_is_not_there_is_named(workdir: Path, tmp_path: Path) -> None:
    run = load_run(workdir)
    with pytest.raises(LoadError, match=r"no seed 4; it has \[3, 8\]"):
        run.policy(4)
    with pytest.raises(LoadError, match="no policy 'greedy'; the run has actor, behavior"):
        run.policy(3, "greedy")
    with pytest.raises(LoadError, match="holds no run"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match="damaged"):
        load_run(tmp_path)
    about = json.loads((workdir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(LoadError, match="no checkpoint yet"):
        load_run(tmp_path)
    for algo in ("future", ["bdpo"]):
        about["run"]["algo"] = algo
        (tmp_path / "config.json").write_text(json.dumps(about))
        with pytest.raises(LoadError, match=f"trained by {re.escape(repr(algo))}"):
            load_run(tmp_path)


def test_a_folder_chooses_no_code(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = tmp_path / "code_was_run"
    (tmp_path / "evil_method.py").write_text(f"open({str(marked)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    about = json.loads((workdir / "config.json").read_text())
    about["run"]["algo"] = "evil_method"
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(LoadError, match="'evil_method'"):
        load_run(tmp_path)
    assert not marked.exists()


def test_shapes_are_known_without_a_state(workdir: Path) -> None:
    run = load_run(workdir)
    abstract = load.abstract_state(run.method, run.spec, len(SEEDS))
    same = jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), abstract, run.state)
    assert all(jax.tree.leaves(same))


def test_an_example_has_the_fields_of_a_transition() -> None:
    one = np.ones(2, np.float32)
    row = Spec(2, 2, 5, -one, one, one, one, one, one).example()
    assert isinstance(row, Transition)
    assert {len(leaf) for leaf in row[:-1]} == {1}


# --- Whatever is in the folder, the error is a LoadError ------------------------------------------


def values(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of everything in a JSON value."""
    yield path
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from values(value, (*path, key))


def mutate_config(folder: Path, random: np.random.Generator) -> str:
    """Puts a value of another kind somewhere into config.json, or takes one away."""
    about = json.loads((folder / "config.json").read_text())
    paths = [path for path in values(about) if path]
    path = paths[random.integers(len(paths))]
    odd = [None, True, -1, 0, 3, 1.5, float("nan"), 10**30, "", "x", [], {}, [1, "a"], {"a": 1}]
    place = about
    for key in path[:-1]:
        place = place[key]
    choice = int(random.integers(len(odd) + 1))
    if choice == len(odd):
        del place[path[-1]]
    else:
        place[path[-1]] = odd[choice]
    (folder / "config.json").write_text(json.dumps(about))
    return f"{path} becomes {odd[choice] if choice < len(odd) else 'nothing'}"


def mutate_bytes(folder: Path, random: np.random.Generator) -> str:
    """Cuts a file short, empties it, flips a byte, or puts a folder or a link in its place."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[random.integers(len(files))]
    content, kind = bytearray(path.read_bytes()), int(random.integers(5))
    if kind == 0:
        path.write_bytes(content[: len(content) // 2])
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2 and content:
        content[random.integers(len(content))] ^= 1 + int(random.integers(255))
        path.write_bytes(content)
    else:
        path.unlink()
        path.mkdir() if kind == 3 else path.symlink_to("nowhere")
    return f"{path.relative_to(folder)}, kind {kind}"


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_folder_is_refused_or_works(workdir: Path, tmp_path: Path, seed: int) -> None:
    random, folder = np.random.default_rng(seed), tmp_path / "run"
    shutil.copytree(workdir, folder)
    what = (mutate_bytes if seed % 3 == 0 else mutate_config)(folder, random)
    try:
        run = load_run(folder)
        repr(run), run.scores, run.table()
        action = run.policy(run.seeds[0])(np.ones(run.spec.observation_dim))
    except LoadError as error:
        assert "\n" not in str(error) and str(error), what
    else:
        assert action.shape == (run.spec.action_dim,), what
