"""What a profile says of a program: kernels, copies and waits of each update.

    profile = traces.recorded(lambda: run(50), Path("td3_bc.xplane.pb"))
    traces.summary(profile.planes, updates=50)

A GPU's events are on lines named "Stream", one event for each kernel or copy. What the host asked
of the driver is on the host's plane, under the driver's own names.
"""

from __future__ import annotations

import collections
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

WAIT = re.compile(r"^cu(da)?\w*Synchronize$")
COPY = re.compile(r"^Mem(cpy|set)", re.IGNORECASE)
TO_HOST = re.compile(r"^Memcpy\s?D(2|to)?H", re.IGNORECASE)
LONGEST = 8  # kernels that are named


def recorded(run: Callable[[], None], path: Path) -> Any:
    """Runs under the profiler, keeps the profile at `path`, and returns it as ProfileData."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # its events would be most of the file
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (found,) = Path(folder).rglob("*.xplane.pb")
        shutil.copyfile(found, path)
    return jax.profiler.ProfileData.from_file(str(path))


def summary(planes: Iterable[Any], updates: int) -> dict[str, Any]:
    """Counts per update, and which share of the time the device was busy.

    Args:
        planes: of a profile; events have a name, a start and a duration in nanoseconds.
        updates: that ran meanwhile.

    Where no device has a plane, as on a CPU, only "note" says so.
    """
    planes = list(planes)
    on_device = list(_events(planes, "/device:", "Stream"))
    if not on_device:
        return {"note": "the profile has no stream of a device"}
    kernels = [event for event in on_device if not COPY.match(event.name)]
    host = [event.name for event in _events(planes, "/host:", "")]
    return {
        "updates": updates,
        "kernels per update": len(kernels) / updates,
        "copies per update": (len(on_device) - len(kernels)) / updates,
        "copies to the host per update": _count(TO_HOST, (e.name for e in on_device)) / updates,
        "host waits per update": _count(WAIT, host) / updates,
        "busy": busy(on_device),
        "longest": longest(kernels),
    }


def _events(planes: Iterable[Any], plane_prefix: str, line_prefix: str) -> Iterator[Any]:
    for plane in planes:
        if plane.name.startswith(plane_prefix):
            for line in plane.lines:
                if line.name.startswith(line_prefix):
                    yield from line.events


def _count(pattern: re.Pattern[str], names: Iterable[str]) -> int:
    return sum(bool(pattern.match(name)) for name in names)


def busy(events: Iterable[Any]) -> float:
    """The share of the time, from the first event's start to the last one's end, that any ran."""
    spans = sorted((event.start_ns, event.start_ns + event.duration_ns) for event in events)
    first, reached, covered = spans[0][0], spans[0][0], 0.0
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / max(reached - first, 1e-9)


def longest(kernels: Iterable[Any]) -> list[dict[str, Any]]:
    """The kernels that took most time together: name, launches and share of all kernels' time."""
    spent: collections.Counter[str] = collections.Counter()
    launches: collections.Counter[str] = collections.Counter()
    for event in kernels:
        spent[event.name] += event.duration_ns
        launches[event.name] += 1
    total = max(sum(spent.values()), 1e-9)
    return [
        {"name": name, "launches": launches[name], "share": time / total}
        for name, time in spent.most_common(LONGEST)
    ]
