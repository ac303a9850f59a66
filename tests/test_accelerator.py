"""The benchmark of an accelerator: its file, its budget, and what it reads off a profile."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import accelerator, accelerator_cases, traces
from benchmarks.accelerator_cases import SIZES, Case, Skipped


def event(name: str, start: float = 0, duration: float = 1) -> Any:
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration)


def plane(name: str, **lines: list[Any]) -> Any:
    return SimpleNamespace(
        name=name, lines=[SimpleNamespace(name=k, events=v) for k, v in lines.items()]
    )


def test_kernels_copies_and_waits_are_counted_per_update() -> None:
    kernels = [event("gemm", 0, 10), event("gemm", 5, 10), event("fusion", 30, 5)]
    copies = [event("MemcpyD2H", 35, 5), event("MemcpyH2D", 45, 5)]
    calls = ["cuStreamSynchronize", "cuLaunchKernel", "cuEventSynchronize", "cuEventRecord"]
    found = traces.summary(
        [
            plane("/device:GPU:0", Stream_1=kernels, Stream_2=copies, Steps=[event("0", 0, 99)]),
            plane("/host:CPU", main=[event(name) for name in calls]),
        ],
        updates=2,
    )
    assert found["kernels per update"] == 1.5
    assert found["copies per update"] == 1.0
    assert found["copies to the host per update"] == 0.5
    assert found["host waits per update"] == 1.0
    assert found["busy"] == pytest.approx((15 + 10 + 5) / 50)
    assert found["longest"][0] == {"name": "gemm", "launches": 2, "share": 20 / 25}


def test_a_profile_without_a_device_says_so() -> None:
    assert set(traces.summary([plane("/host:CPU", main=[event("cuInit")])], 1)) == {"note"}


def test_every_bit_is_compared() -> None:
    one = {"a": np.array([0.0, 1.0]), "b": np.array([np.nan]), "c": np.array([3.0])}
    other = {"a": np.array([-0.0, 1.0]), "b": np.array([np.nan]), "c": np.array([3.5])}
    assert accelerator_cases.different(one, other) == {"['a']": 0.0, "['c']": 0.5}


def case(run: Any, expected: float = 0.0) -> Case:
    return Case("rate", run.__name__, 1, "float32", expected, run)


def test_a_failure_is_recorded_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path, seen = tmp_path / "out.json", []

    def reads(bench: Any) -> dict[str, Any]:
        seen.extend(entry["status"] for entry in json.loads(path.read_text())["cases"])
        return {"rate": 1.0, "unit": "updates"}

    def fails(bench: Any) -> dict[str, Any]:
        raise ValueError("first line\nsecond line")

    def skips(bench: Any) -> dict[str, Any]:
        raise Skipped("no such package")

    def never(bench: Any) -> dict[str, Any]:
        raise AssertionError("there is no time for this")

    cases = [case(reads), case(never, 1e6), case(fails), case(skips), case(reads, 1.0)]
    record = accelerator.Record(path, cases, 100.0, **accelerator.machine())
    assert record.content["planned_seconds"] == 1.0
    record.run(SimpleNamespace(forget=lambda: None))  # type: ignore[arg-type]
    assert seen[:5] == ["running", "left out", "planned", "planned", "planned"]
    assert seen[5:] == ["done", "left out", "failed", "skipped", "running"]
    found = json.loads(path.read_text())
    assert found["finished"]
    assert [entry.get("reason") for entry in found["cases"][2:4]] == [
        "ValueError: first line",
        "no such package",
    ]
    assert found["cases"][1]["reason"].startswith("1000000 s expected")


def test_cases_that_take_longer_than_expected_leave_less_room(tmp_path: Path) -> None:
    def slow(bench: Any) -> dict[str, Any]:
        record.begun -= 0.5  # as if half a second had passed
        return {"rate": 1.0, "unit": "updates"}

    record = accelerator.Record(tmp_path / "out.json", [case(slow, 0.4)] * 4, 1.2)
    record.run(SimpleNamespace())  # type: ignore[arg-type]
    statuses = [entry["status"] for entry in record.content["cases"]]
    assert statuses == ["done", "done", "left out", "left out"]


def test_all_numbers_of_seeds_and_precisions_are_planned() -> None:
    found = accelerator_cases.cases(SIZES["full"])
    keys = [(each.kind, each.name, each.seeds, each.precision) for each in found]
    assert len(set(keys)) == len(keys)
    for target in accelerator_cases.TARGETS:
        pairs = {(seeds, precision) for _, name, seeds, precision in keys if name == target}
        assert pairs == {(s, p) for s in (1, 5, 20, 64) for p in ("float32", "bfloat16")}
    assert all(each.expected > 0 for each in found)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("accelerator") / "tiny.json"
    assert accelerator.main(["", "--size=tiny", f"--out={path}", "--budget=600"]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    for entry in found["cases"]:
        if entry["kind"] == "profile":
            assert (path.parent / entry["result"]["file"]).stat().st_size > 0
    return found


def test_one_run_writes_everything(report: dict[str, Any]) -> None:
    assert report["finished"] and report["versions"]["jax"] and report["device"]["kind"]
    kinds = {entry["kind"] for entry in report["cases"]}
    assert kinds == {"products", "resume", "rate", "profile", "mjx", "gymnasium"}
    assert {entry["status"] for entry in report["cases"]} == {"done"}
    (square,) = (
        entry["result"]["rate"] * 1e12
        for entry in report["cases"]
        if (entry["name"], entry["precision"]) == ("square", "bfloat16")
    )
    for entry in report["cases"]:
        assert entry["seconds"] >= 0 and entry["peak_bytes"] > 0
        result = entry["result"]
        if entry["kind"] == "rate":
            assert 0 < result["least"] <= result["rate"] <= result["most"]
            assert result["of_peak"] == pytest.approx(result["rate"] * result["flops"] / square)
            assert (
                result["flops"] > 0
                and result["compile_seconds"] > 0
                and result["program_bytes"] > 0
            )
        if entry["kind"] == "resume":
            assert result["equal"] and result["different"] == {}


def test_a_folder_without_the_peer_is_skipped(tmp_path: Path) -> None:
    out = tmp_path / "peer.json"
    argv = ["", "--size=tiny", f"--out={out}", "--kinds=peer", f"--peer={tmp_path}", "--budget=600"]
    assert accelerator.main(argv) == 0
    (entry,) = json.loads(out.read_text())["cases"]
    assert entry["status"] == "skipped" and "flowrl" in entry["reason"]
