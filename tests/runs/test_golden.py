"""Golden files: what the command line wrote for small runs, as text below tests/golden/.

Refactoring may change no number in them. On the kind of machine that wrote a file (its first line)
every number must be equal bit for bit, elsewhere up to rounding, since XLA generates other code for
another processor. `make test` compares bits for the files of BITS alone, and compiles all other
programs quickly, which halves the time. `python -m pytest tests/runs/test_golden.py` compares bits
for every file that this kind of machine wrote. After a change that is meant to change numbers,
write the files anew, without XLA_FLAGS, and read the difference before committing it:

    python -m pytest tests/runs/test_golden.py --write-golden
    git diff --stat tests/golden

To compare bits on another kind of machine, write them there at the commit before the change.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_prefs.cli import commandline, run, sweep
from jaxrl_prefs.data.generate import pendulum
from jaxrl_prefs.methods import METHODS
from jaxrl_prefs.runs.load import load_run
from jaxrl_prefs.training import loop

FOLDER = Path(__file__).parents[1] / "golden"
Line = list[Any]  # [name of the file or of what was computed, a row of it]
Check = Callable[[str, list[Line]], None]

# --- What is run ----------------------------------------------------------------------------------

EVERY = {"log_every": 2, "checkpoint_every": 2, "eval_episodes": 2}
HIDDEN = {"actor_hidden": 8, "critic_hidden": 8, "batch_size": 16}
MORSE = {
    "behavior_hidden": 8,
    "negative_samples": 2,
    "behavior_batch_size": 64,
    "pretrain_steps": 4,
}
SEARCH = {"negative_samples": 8, "search_samples": 4, "search_rounds": 2}
FIELDS: dict[str, dict[str, Any]] = {
    "bdpo": {
        **HIDDEN,
        **dict.fromkeys(("q_samples", "v_samples", "actor_samples", "candidates"), 2),
        "diffusion_steps": 2,
        "critic_ensemble_size": 2,
        "actor_interval": 2,
        "pretrain_steps": 4,
        "warmup_steps": 2,
        "train_steps": 6,
    },
    "arq": {
        "behavior_width": 8,
        "behavior_blocks": 1,
        "behavior_batch_size": 16,
        "candidates": 3,
        "candidate_batch_size": 500,  # of 2000 rows: 4 updates
        "sampler": "few_step",
        "sampler_steps": 2,
        "density": "fixed",
        "density_nodes": 6,
        "kth": 2,
        "critic_hidden": 8,
        "actor_hidden": 8,
        "batch_size": 16,
        **dict.fromkeys(("pretrain_steps", "train_steps", "actor_steps"), 4),
    },
    "td3_bst": {**HIDDEN, **MORSE, "train_steps": 4},
    "iql_bst": {**HIDDEN, **MORSE, "train_steps": 4},
    "bpr": {
        **HIDDEN,
        **SEARCH,
        "behavior_batch_size": 64,
        "behavior_width": 8,
        "behavior_blocks": 1,
        "pretrain_steps": 4,
        "train_steps": 4,
    },
    "td3_bc": {**HIDDEN, "train_steps": 6, "eval_every": 4},
    "rebrac": {**HIDDEN, "train_steps": 4},
    "iql": {**HIDDEN, "train_steps": 4},
    "xql": {**HIDDEN, "train_steps": 4},
    "awac": {**HIDDEN, "train_steps": 4},
    "cql": {**HIDDEN, "action_samples": 2, "lagrange": True, "train_steps": 4},
    "one_step": {**HIDDEN, "pretrain_steps": 4, "train_steps": 4},
    "fql": {**HIDDEN, "flow_steps": 2, "train_steps": 4},
    "ifql": {**HIDDEN, "flow_steps": 2, "candidates": 3, "train_steps": 4},
    # One candidate: a draw among several turns a difference of rounding into another action, and
    # scores on two processors would differ by more than rounding.
    "dql": {**HIDDEN, "diffusion_steps": 2, "candidates": 1, "train_steps": 4},
    "idql": {
        "behavior_width": 8,
        "behavior_blocks": 1,
        "critic_hidden": 8,
        "batch_size": 16,
        "diffusion_steps": 2,
        "candidates": 3,
        "train_steps": 4,
    },
    "dac": {
        **HIDDEN,
        **dict.fromkeys(("q_samples", "candidates", "critic_ensemble_size"), 2),
        "diffusion_steps": 2,
        "train_steps": 4,
    },
    "bc": {"actor_hidden": 8, "batch_size": 16, "train_steps": 4},
    "ibc": {
        **SEARCH,
        "behavior_width": 8,
        "behavior_blocks": 1,
        "batch_size": 64,
        "train_steps": 4,
    },
}
GRID = {"alpha": "1,10"}  # of td3_bc
STOP = 6  # updates of td3_bst, whose last phase begins with the fifth
RESUMED, SWEPT = "td3_bst", "sweep"
BITS = {"bdpo", "arq", "td3_bst", "iql_bst", "bpr", SWEPT}  # whose bits `make test` compares


def command(algo: str, workdir: Path) -> list[str]:
    fields = EVERY | FIELDS[algo]
    return [
        "run",
        f"--algo={algo}",
        "--dataset=pendulum-mixed",
        "--seeds=2",
        f"--workdir={workdir}",
        *(f"--set={name}={value}" for name, value in fields.items()),
    ]


@pytest.fixture(scope="module", autouse=True)
def ten_episodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The embedded dataset with 10 episodes, made here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("golden")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # may hold the whole
        patch.setattr(pendulum.generate, "__kwdefaults__", {"episodes": 10, "seed": 0})
        yield


@pytest.fixture
def part(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Gives `part(name)`, which skips a file outside of its part of `make test`.

    A file is in the second part if its bits are compared on this processor, else in the first.
    """

    def skip_outside(name: str) -> None:
        if pytestconfig.getoption("--write-golden"):
            assert not machine()["xla_flags"], "unset XLA_FLAGS to write golden files"
            return
        written = read(FOLDER / f"{name}.jsonl")[0][1]
        bits = name in BITS and written == machine() | {"xla_flags": ""}
        if bits and os.environ.get("XLA_FLAGS"):
            pytest.skip("this processor wrote the file: bits are compared, without XLA_FLAGS")
        if not bits and os.environ.get("GOLDEN") == "bits":
            pytest.skip("compared up to rounding, in the first part of `make test`")

    return skip_outside


@pytest.mark.parametrize("algo", METHODS)
def test_a_run_gives_its_golden_file(
    algo: str, tmp_path: Path, check: Check, part: Callable[[str], None]
) -> None:
    part(algo)
    assert run.main(command(algo, tmp_path / "run")) == 0
    check(algo, [*lines(tmp_path / "run"), *loaded(tmp_path / "run")])


def test_a_resumed_run_gives_the_same_golden_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: Check,
    part: Callable[[str], None],
) -> None:
    part(RESUMED)
    argv, original = command(RESUMED, tmp_path / "run"), loop.run

    def stopped(*args: Any, **kwargs: Any) -> Any:
        for log_point in original(*args, **kwargs):
            yield log_point
            if log_point.step == STOP and kwargs["every"] == EVERY["log_every"]:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", stopped)
        assert run.main(argv) == commandline.INTERRUPTED
    assert load_run(tmp_path / "run").step <= STOP
    assert run.main(argv) == 0
    check(RESUMED, [*lines(tmp_path / "run"), *loaded(tmp_path / "run")])


def test_a_sweep_gives_its_golden_file(
    tmp_path: Path, check: Check, part: Callable[[str], None]
) -> None:
    part(SWEPT)
    _, *argv = command("td3_bc", tmp_path)
    assert sweep.main(["sweep", *argv, *(f"--grid={k}={v}" for k, v in GRID.items())]) == 0
    (path,) = (result.parent for result in tmp_path.rglob("result.json"))
    found = lines(path)
    found.append(["sweep.json", json.loads((tmp_path / "sweep.json").read_text())])
    check(SWEPT, [without_fields(line) for line in found])


# --- What is compared -----------------------------------------------------------------------------

ACTING = ("bc", "td3_bst")  # whose policies compile fast; evaluations have those of all methods
OF_THE_CLOCK = ("wall_seconds", "updates_per_second")


def lines(workdir: Path) -> list[Line]:
    """Everything that a run computed, but for what depends on the clock or names a version."""
    found = [
        [name, json.loads(row)]
        for name in ("metrics.jsonl", "evaluations.jsonl")
        for row in (workdir / name).read_text().splitlines()
    ]
    result = json.loads((workdir / "result.json").read_text())
    for name in (*OF_THE_CLOCK, "versions"):
        result.pop(name)
    return [*found, ["result.json", result]]


def loaded(workdir: Path) -> list[Line]:
    """What `load_run` reads: every seed's state, and actions of the policies that compile fast."""
    trained = load_run(workdir)
    seen = np.float32([[1, 0, 0], [0, 1, 2], [-0.6, 0.8, -5]])
    names = trained.method.policies if trained.algo in ACTING else ()
    policies = {name: trained.policy(trained.seeds[0], name) for name in names}
    acted = [["actions", {"policy": k, "actions": v(seen).tolist()}] for k, v in policies.items()]
    return [*states(trained.state, len(trained.seeds)), *acted]


def states(state: Any, seeds: int) -> Iterator[Line]:
    """A row for each seed, which depends neither on the names nor on the order of the leaves."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    for place in range(seeds):
        own = [np.ascontiguousarray(leaf[place]) for leaf in leaves]
        values = np.concatenate([leaf.ravel().astype(np.float64) for leaf in own])
        heads = [f"{leaf.dtype}{list(leaf.shape)}".encode() for leaf in own]
        digests = sorted(
            hashlib.sha256(head + leaf.tobytes()).hexdigest()
            for head, leaf in zip(heads, own, strict=True)
        )
        yield [
            "state",
            {
                "place": place,
                "leaves": len(own),
                "numbers": len(values),
                # Rounded once, so that no order of summation shows.
                "sum": math.fsum(values),
                "sum_abs": math.fsum(abs(values)),
                "sum_squares": math.fsum(values**2),
                "sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
            },
        ]


def without_fields(content: Any) -> Any:
    """The fields of the grid by their places: a golden file names no field of a config."""
    if isinstance(content, dict):
        return {without_fields(k): without_fields(v) for k, v in content.items()}
    if isinstance(content, list):
        return [without_fields(each) for each in content]
    if isinstance(content, str):
        for place, name in enumerate(GRID):
            content = re.sub(rf"\b{name}\b", f"grid[{place}]", content)
    return content


def machine() -> dict[str, Any]:
    """What the last bits depend on: the processor and who generates code for it."""
    cpu: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
        pairs = (line.partition(":") for line in first.splitlines())
        cpu = {key.strip(): value.strip() for key, _, value in pairs}
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    vector = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "asimd", "sve")
    packages = ("jax", "jaxlib", "optax", "numpy", "gymnasium")
    named = ("model name", "cpu family", "model", "stepping", "CPU part")
    return {
        "processor": {name: cpu[name] for name in named if name in cpu} or platform.processor(),
        "machine": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}",
        "instructions": " ".join(sorted(flag for flag in flags if flag.startswith(vector))),
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


# --- How it is compared ---------------------------------------------------------------------------

# How far apart two processors may be, relative to the larger number and 1; scores relative to 100,
# the range that normalises them, since a score near 0 comes from returns near -1,000. Without AVX
# and fused multiplication metrics moved by 3e-6, sums of states by 3e-5, and the return of one
# episode in 160 by 0.013 (200 steps of a pendulum amplify rounding). Between AMD's
# processors dql's loss of the actor moved by 3.6e-5, alone of all metrics. What the training
# computes is in the metrics and states, so a return need only be plausible.
ROUNDING = {"metrics.jsonl": 1e-4, "state": 3e-4, "actions": 3e-4}
ROUNDING |= dict.fromkeys(("evaluations.jsonl", "result.json", "sweep.json"), 5e-2)


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """Gives `check(name, found)`: compares with a golden file, or writes it if that was asked."""

    def compare(name: str, found: list[Line]) -> None:
        path = FOLDER / f"{name}.jsonl"
        if request.config.getoption("--write-golden") and "resumed" not in request.node.name:
            FOLDER.mkdir(exist_ok=True)
            written = [["machine", machine()], *found]
            path.write_text("".join(json.dumps(line) + "\n" for line in written))
        (_, there), *expected = read(path)
        exact = there == machine()
        assert [kind for kind, _ in found] == [kind for kind, _ in expected]
        different = [
            text
            for (kind, one), (_, other) in zip(expected, json.loads(json.dumps(found)), strict=True)
            for text in differences(one, other, 0.0 if exact else ROUNDING[kind], kind)
        ]
        shown = "\n".join(different[:20])
        assert not different, f"{len(different)} numbers differ from {path.name}:\n{shown}"

    return compare


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", sorted(BITS))
def test_bits_are_compared_here(name: str) -> None:
    """Skipped where numbers are compared up to rounding, so that the report says so."""
    (_, there), here = read(FOLDER / f"{name}.jsonl")[0], machine()
    if other := [part for part in here if there.get(part) != here[part]]:
        pytest.skip(f"written with other {', '.join(other)}: compared up to rounding")


def differences(expected: Any, found: Any, rounding: float, where: str = "") -> Iterator[str]:
    """Says where two JSON values differ.

    Args:
        expected, found: the values.
        rounding: how far numbers with a fraction may be apart, relative to the larger of the two
            and 1; at 0 they must be equal, and digests are compared as well.
        where: the place in the values, for the message.
    """
    if isinstance(expected, dict) and isinstance(found, dict) and list(expected) == list(found):
        for name in expected:
            if name != "rule" and (name != "sha256" or not rounding):  # a rule is words
                yield from differences(expected[name], found[name], rounding, f"{where} {name}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, rounding, f"{where}[{place}]")
    elif rounding and isinstance(expected, float) and isinstance(found, float):
        least = 100 if "score" in where else 1
        if abs(expected - found) > rounding * max(least, abs(expected), abs(found)):
            yield f"{where}: {expected!r} in the file, {found!r} found"
    elif repr(expected) != repr(found):  # tells -0.0 from 0.0, and 1 from 1.0
        yield f"{where}: {expected!r} in the file, {found!r} found"


def test_one_bit_is_a_difference() -> None:
    one, next_to_it = [["state", {"sum": 1.0, "n": 3}]], [["state", {"sum": 1 + 2**-52, "n": 3}]]
    assert list(differences(one, one, 0)) == []
    assert len(list(differences(one, next_to_it, 0))) == 1
    assert list(differences(one, next_to_it, 1e-3)) == []
    assert len(list(differences(one, [["state", {"sum": 1.0, "n": 4}]], 1e-3))) == 1
    assert len(list(differences([0.0], [-0.0], 0))) == 1
    assert len(list(differences({"a": 1}, {"b": 1}, 1e-3))) == 1
    assert len(list(differences({"sha256": "x"}, {"sha256": "y"}, 0))) == 1
    assert list(differences({"sha256": "x"}, {"sha256": "y"}, 1e-3)) == []
