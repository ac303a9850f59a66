"""Damaged and missing rows are found, wherever they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxrl_prefs.runs import ledger
from jaxrl_prefs.runs.workdir import EVALUATIONS, METRICS, TIMINGS, Rows

STEPS = (10, 20, 30, 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four log points of two seeds; evaluations at every second."""
    for step in STEPS:
        rows: dict[str, list[dict[str, Any]]] = {
            METRICS: [{"step": step, "seed": s, "metrics": {"loss": 1.5 * s}} for s in (0, 1)],
            EVALUATIONS: [{"step": step, "seed": s, "score": 7.94} for s in (0, 1)][: step // 20],
        }
        rows[EVALUATIONS] = rows[EVALUATIONS] if step % 20 == 0 else []
        for name, each in rows.items():
            Rows(tmp_path / name).append(each)
        timing = {"step": step, "updates": 10, "seconds": 0.1}
        Rows(tmp_path / TIMINGS).append([ledger.sealed(timing, rows)])
    return tmp_path


def lines(folder: Path, name: str) -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


def test_whole_files_lack_nothing(folder: Path) -> None:
    assert ledger.lost(folder, 40) == {} and ledger.lost(folder, 20) == {}
    assert all(ledger.complete(folder, step) for step in STEPS)
    assert not ledger.complete(folder, 50)


@pytest.mark.parametrize("name", [METRICS, EVALUATIONS])
def test_every_flipped_bit_is_seen(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (folder / name).write_bytes(damaged)
        assert ledger.lost(folder, 40).get(name), (place, bytes(damaged))
    (folder / name).write_bytes(whole)


def test_rows_after_the_damage_are_still_read(folder: Path) -> None:
    found = lines(folder, METRICS)
    found[2] = b"\x00" * 20 + b"\n"
    (folder / METRICS).write_bytes(b"".join(found))
    assert [row["step"] for row in Rows(folder / METRICS)] == [10, 10, 20, 30, 30, 40, 40]
    assert ledger.lost(folder, 40) == {METRICS: [20]}
    Rows(folder / METRICS).cut(30)
    assert [row["step"] for row in Rows(folder / METRICS)] == [10, 10, 20, 30, 30]


def test_a_lost_tail_and_a_hole_are_gaps(folder: Path) -> None:
    found = lines(folder, EVALUATIONS)
    (folder / EVALUATIONS).write_bytes(b"".join(found[:1]))
    assert ledger.lost(folder, 40) == {EVALUATIONS: [40]}
    assert not ledger.complete(folder, 40) and ledger.complete(folder, 30)
    timings = lines(folder, TIMINGS)
    (folder / TIMINGS).write_bytes(b"".join(timings[:1] + timings[2:]))
    assert ledger.lost(folder, 40) == {TIMINGS: [20], EVALUATIONS: [40]}


@pytest.mark.parametrize("name", [METRICS, EVALUATIONS, TIMINGS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert list(ledger.lost(folder, 40)) == [name]


def test_a_changed_timing_is_no_witness(folder: Path) -> None:
    text = (folder / TIMINGS).read_text()
    (folder / TIMINGS).write_text(text.replace('"seconds": 0.1', '"seconds": 0.2', 1))
    assert ledger.lost(folder, 40) == {TIMINGS: [10]}


def test_rows_of_earlier_versions_are_taken_as_they_are(folder: Path) -> None:
    rows = [json.loads(line) for line in lines(folder, TIMINGS)]
    old = [{k: v for k, v in row.items() if not k.startswith("checksum")} for row in rows]
    (folder / TIMINGS).unlink()
    Rows(folder / TIMINGS).append(old)
    assert ledger.lost(folder, 40) == {} and ledger.complete(folder, 40)
