from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_prefs.parallel import seed_axis
from jaxrl_prefs.runs import columns
from jaxrl_prefs.training import chunk, loop
from jaxrl_prefs.types import Spec, Transition
from tests import probes


@pytest.mark.parametrize("shared", [False, True])
def test_a_fill_goes_on_from_disk(tiny: Transition, tmp_path: Path, shared: bool) -> None:
    method = probes.make(probes.Config(model_steps=2, shared=shared), Spec.of(tiny))
    mesh, seeds = seed_axis.seed_mesh(), (0, 1, 2)
    log_points = list(loop.run(method, tiny, seeds, mesh, every=100))
    whole = log_points[-1].columns["guess"].copy()

    for log_point in loop.run(method, tiny, seeds, mesh, every=3):
        columns.write(tmp_path, method, log_point)
        if log_point.phase == "guess":
            state, step = seed_axis.trim(log_point.state, len(seeds)), log_point.step
            break
    read = {"seeds": len(seeds), "size": len(tiny.reward)}
    found = columns.read(tmp_path, method, step, **read).columns
    assert not np.array_equal(found["guess"], whole)
    rest = loop.run(method, tiny, seeds, mesh, every=3, state=state, columns=found, start=step)
    for log_point in rest:
        columns.write(tmp_path, method, log_point)
    found = columns.read(tmp_path, method, log_point.step, **read).columns
    np.testing.assert_array_equal(found["guess"], whole)


def test_a_phase_that_was_not_begun_has_no_columns(tiny: Transition, tmp_path: Path) -> None:
    method = probes.make(probes.Config(model_steps=2), Spec.of(tiny))
    assert columns.read(tmp_path, method, 2, seeds=3, size=96).columns == {}


# --- Damage ---------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["own", "shared"])
def filled(
    request: pytest.FixtureRequest,
    tiny: Transition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Any, Any, np.ndarray, dict[str, list[int]], int]:
    """A method, its state after filling, the column, its checksums by eight rows, and the step."""
    monkeypatch.setattr(columns, "BLOCK", 8)
    method = probes.make(probes.Config(model_steps=2, shared=request.param), Spec.of(tiny))
    for log_point in loop.run(method, tiny, SEEDS, seed_axis.seed_mesh(), every=100):
        columns.write(tmp_path, method, log_point)
        if log_point.phase == "guess":
            state = seed_axis.trim(log_point.state, len(SEEDS))
            whole = log_point.columns["guess"].copy()
            checksums = columns.Checksums(method)(log_point.columns, log_point.step)
            return method, state, whole, checksums, log_point.step
    raise AssertionError


SEEDS = (0, 1, 2)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


FAULTS: dict[str, Any] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "head": lambda path: path.write_bytes(b"no array" + path.read_bytes()[8:]),
    "shape": lambda path: np.save(path, np.zeros((3, 5), np.float32)),
    "type": lambda path: np.save(path, np.load(path).astype(np.float64)),
    "first": lambda path: flip(path, 128),
    "last": lambda path: flip(path, -1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_rows_are_found_and_filled_again(
    filled: Any, tiny: Transition, tmp_path: Path, fault: str
) -> None:
    method, state, whole, checksums, step = filled
    read = {"seeds": len(SEEDS), "size": len(tiny.reward), "checksums": checksums}
    assert not columns.read(tmp_path, method, step, **read).damaged
    FAULTS[fault](tmp_path / "guess.npy")
    found = columns.read(tmp_path, method, step, **read)
    assert list(found.damaged) == [1] and len(found.faults) == 1
    steps = sum(last - first for first, last in found.damaged[1])
    assert (steps < method.phases[1].steps) == (fault in ("first", "last")), found.damaged
    placement = chunk.SeedPlacement(SEEDS, seed_axis.seed_mesh())
    loop.refill_columns(
        method, 1, tiny, placement, state=state, columns=found.columns, spans=found.damaged[1]
    )
    np.testing.assert_array_equal(found.columns["guess"], whole)
    columns.rewrite(tmp_path, "guess", found.columns["guess"])
    assert not columns.read(tmp_path, method, step, **read).damaged


def test_rows_without_checksums_are_taken_unless_the_file_is_unusable(
    filled: Any, tiny: Transition, tmp_path: Path
) -> None:
    method, _, whole, _, step = filled
    read = {"seeds": len(SEEDS), "size": len(tiny.reward)}
    np.testing.assert_array_equal(
        columns.read(tmp_path, method, step, **read).columns["guess"], whole
    )
    (tmp_path / "guess.npy").unlink()
    assert columns.read(tmp_path, method, step, **read).damaged == {
        1: [(0, method.phases[1].steps)]
    }
