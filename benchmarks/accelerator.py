"""Measures an accelerator in one command of at most eight minutes.

    python -m benchmarks.accelerator --out=accelerator.json
    python -m benchmarks.accelerator --size=small             # tiny networks, on any machine

It measures matrix products at three precisions; updates per second of BDPO, TD3+BC and IQL and
samples per second of ARQ, by number of seeds and precision; episodes in JAX and in Gymnasium;
whether a resumed run ends with the same bits; and, by the profiler, the kernels and waits of an
update. The most important cases come first. Those that do not fit into --budget seconds are listed
as left out. A case that fails is recorded and the others go on. The file is written before and
after each case, so that a run that is killed leaves what it measured.
Rates are per second; on a CPU, per CPU-second of all threads.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import accelerator_cases
from benchmarks.accelerator_cases import SIZES, Bench, Case, Skipped
from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.parallel import devices

FLAGS = flags.FlagValues()
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_enum("size", "full", list(SIZES), "how large everything is", **_OWN)
flags.DEFINE_float("budget", 0.0, "seconds in all; 0 takes the size's own", **_OWN)
flags.DEFINE_string("out", "accelerator.json", "the file; profiles are put beside it", **_OWN)
flags.DEFINE_list("kinds", [], "which kinds of cases; all if empty", **_OWN)
flags.DEFINE_string("peer", "", "a folder with flow-rl's code, to time beside ours", **_OWN)
flags.DEFINE_boolean("help", False, "show this text", short_name="h", **_OWN)

PACKAGES = (
    *("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "numpy", "flax", "optax", "chex"),
    *("distrax", "diffrax", "gymnasium", "mujoco", "mujoco-mjx"),
)
SLOWEST = 4.0  # times the expected seconds, beyond which the rest is not expected to be slower


def machine() -> dict[str, Any]:
    """The devices, and the versions of what computes; null where a package is missing."""
    first = jax.devices()[0]
    return {
        "device": {
            "platform": first.platform,
            "kind": first.device_kind,
            "count": jax.device_count(),
            "memory_bytes": (first.memory_stats() or {}).get("bytes_limit"),
            "runtime": first.client.platform_version,
            "cores": os.cpu_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "rates_per": "CPU-s" if first.platform == "cpu" else "s",
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_bytes() -> int:
    """The most memory in use so far: of the first device, or of the process on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return stats.get("peak_bytes_in_use") or resident


class Record:
    """The file, written anew after each change."""

    def __init__(self, path: Path, cases: Sequence[Case], budget: float, **about: Any) -> None:
        self.path, self.cases, self.budget = path, cases, budget
        self.begun = time.perf_counter()
        planned, entries = 0.0, []
        for case in cases:
            fits = planned + case.expected <= budget
            planned += case.expected * fits
            entry = {key: getattr(case, key) for key in ("kind", "name", "seeds", "precision")}
            entry["expected_seconds"] = case.expected
            entries.append(entry | {"status": "planned" if fits else "left out"})
        self.content = {
            **about,
            "budget_seconds": budget,
            "planned_seconds": planned,
            "seconds": 0.0,
            "finished": False,
            "cases": entries,
        }
        self.write()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.begun

    def write(self) -> None:
        """Replaces the file in one step: a process that is killed leaves a whole one."""
        self.content["seconds"] = round(self.seconds, 3)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.path)

    def run(self, bench: Bench) -> None:
        """Runs the cases that fit, judged by how long those before them took."""
        expected = spent = 0.0
        for case, entry in zip(self.cases, self.content["cases"], strict=True):
            slower = min(max(spent / expected if expected else 1.0, 1.0), SLOWEST)
            left = self.budget - self.seconds
            if case.expected * slower > left:
                reason = f"{case.expected * slower:.0f} s expected, {left:.0f} s left"
                entry |= {"status": "left out", "reason": reason}
                self._tell(entry)
                continue
            entry["status"] = "running"
            self.write()
            start = time.perf_counter()
            entry |= outcome(case, bench)
            seconds = time.perf_counter() - start
            entry |= {"seconds": round(seconds, 3), "peak_bytes": peak_bytes()}
            if entry["status"] == "done":
                expected, spent = expected + case.expected, spent + seconds
            self.write()
            self._tell(entry)
        self.content["finished"] = True
        self.write()

    def _tell(self, entry: dict[str, Any]) -> None:
        """Says on standard error what became of a case."""
        print(f"{self.seconds:6.1f} s  {told(entry)}", file=sys.stderr, flush=True)


def outcome(case: Case, bench: Bench) -> dict[str, Any]:
    """What a case measured, why it was skipped, or the first line of what it raised."""
    try:
        return {"status": "done", "result": case.run(bench)}
    except Skipped as error:
        return {"status": "skipped", "reason": str(error)}
    except Exception as error:  # the other cases are worth having
        bench.forget()
        line = next(iter(str(error).splitlines()), "")
        return {"status": "failed", "reason": f"{type(error).__name__}: {line}"}


# --- What is printed ------------------------------------------------------------------------------


def told(entry: dict[str, Any]) -> str:
    """One line about a case."""
    name = f"{entry['kind']} {entry['name']}, {entry['seeds']} seeds, {entry['precision']}"
    return f"{name}: {entry['status']}, {headline(entry)}"


def headline(entry: dict[str, Any]) -> str:
    """The main result of a case, or why there is none."""
    result = entry.get("result")
    if result is None:
        return str(entry.get("reason", ""))
    if "rate" in result:
        return f"{result['rate']:,.4g} {result['unit']}/s"
    if "equal" in result:
        count = len(result["different"])
        return "equal bit for bit" if result["equal"] else f"{count} arrays differ"
    if "note" in result:
        return f"{result['note']}: {result['file']}"
    parts = ("kernels per update", "host waits per update", "busy")
    return ", ".join(f"{part} {result[part]:.3g}" for part in parts)


def table(content: dict[str, Any]) -> Table:
    """All cases, those that were left out too."""
    about = content["device"]
    found = Table(title=f"{about['kind']} x {about['count']}, rates per {content['rates_per']}")
    found.add_column("case")
    for column in ("seeds", "precision", "result", "of peak", "compile s", "program MB", "s"):
        found.add_column(column, justify="right")
    for entry in content["cases"]:
        result = entry.get("result") or {}
        text = headline(entry)
        found.add_row(
            f"{entry['kind']} {entry['name']}",
            str(entry["seeds"]),
            entry["precision"],
            text if entry["status"] == "done" else f"{entry['status']}: {text}",
            _number(result.get("of_peak"), 1, ".2f"),
            _number(result.get("compile_seconds"), 1, ".1f"),
            _number(result.get("program_bytes"), 1e6, ".0f"),
            _number(entry.get("seconds"), 1, ".1f"),
        )
    return found


def _number(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)


def main(argv: Sequence[str] | None = None) -> int:
    """Plans, measures, writes and prints; 1 if a case failed."""
    try:
        commandline.read(FLAGS, argv, "; lists are separated by commas")
    except (flags.Error, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    if FLAGS.help:
        print(commandline.usage(__doc__, FLAGS))
        return 0
    devices.use_cores()
    size, out = SIZES[FLAGS.size], Path(FLAGS.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    cases = accelerator_cases.cases(size, bool(FLAGS.peer))
    cases = [case for case in cases if not FLAGS.kinds or case.kind in FLAGS.kinds]
    record = Record(out, cases, FLAGS.budget or size.budget, size=FLAGS.size, **machine())
    left_out = sum(entry["status"] == "left out" for entry in record.content["cases"])
    print(
        f"{len(cases) - left_out} cases in about {record.content['planned_seconds']:.0f} s, "
        f"{left_out} left out unless the others are faster; {out}",
        flush=True,
    )
    record.run(Bench(size, lambda name: out.with_name(f"{out.stem}-{name}.xplane.pb"), FLAGS.peer))
    Console(width=150).print(table(record.content))
    return int(any(entry["status"] == "failed" for entry in record.content["cases"]))


if __name__ == "__main__":
    sys.exit(main())
