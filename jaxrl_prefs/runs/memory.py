"""How much memory data and columns take, before a run starts; columns that do not fit are refused.

A column is kept on the host as it is filled, once more on every device that reads it (shared ones
on each, a seed's own where the seed is), and on the disk.
"""

from __future__ import annotations

import math
import platform
from collections import Counter

import jax
import psutil
from jax.sharding import Mesh

from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.mapped_rows import is_mapped
from jaxrl_prefs.method import Method
from jaxrl_prefs.parallel import processes, seed_axis
from jaxrl_prefs.types import Transition

SHARE = 0.5  # of a device's free memory that the data may take


def column_bytes(method: Method, size: int, seeds: int) -> dict[str, int]:
    """Bytes of each column on the host, for all seeds, with `size` rows; in the order of filling.

    On the disk they take as much.
    """
    found = {}
    for phase in method.phases:
        sets = 1 if phase.shared else seeds
        for name, row in phase.columns.items():
            found[name] = sets * size * math.prod(row.shape) * row.dtype.itemsize
    return found


def device_bytes(method: Method, size: int, seeds: int, devices: int) -> int:
    """Bytes of all columns on each of `devices`."""
    own = math.ceil(seeds / devices)  # padding included
    return sum(
        column_bytes(method._replace(phases=(phase,)), size, own)[name]
        for phase in method.phases
        for name in phase.columns
    )


def check(method: Method, size: int, seeds: int, mesh: Mesh) -> str:
    """Says what the columns take; empty for a method without any.

    Raises ConfigError, with the numbers, if the host or a device has not that much free.
    """
    columns = column_bytes(method, size, seeds)
    if not columns:
        return ""
    each = device_bytes(method, size, seeds, mesh.devices.size)
    device = mesh.devices.flat[0]
    host = sum(columns.values())
    if device.platform == "cpu":  # the devices' copies lie in the host's memory
        host += mesh.devices.size * each
    text = ", ".join(f"{name} {amount(count)}" for name, count in columns.items())
    text = (
        f"columns: {text}; with copies for {mesh.devices.size} device(s) {amount(host)} of memory"
    )
    _refuse(text, host, psutil.virtual_memory().available, "this machine")
    free = _free(device)
    if free is not None:
        text += f" and {amount(each)} on each device"
        _refuse(text, each, free, "the device")
    return text


def streamed(data: Transition, mesh: Mesh) -> str:
    """Says that the data are too large for the devices, and why; empty if a copy fits on each.

    They may fill `SHARE` of what is free there: networks and columns want their part. Rows of
    mapped files must also fit in the free memory of the host, through which they reach a device. Of
    several processes all must come here, and get the same answer: the one with the least room
    decides.
    """
    leaves, own = jax.tree.leaves(data), seed_axis.here(mesh).devices
    size, mapped = sum(x.nbytes for x in leaves), sum(x.nbytes for x in leaves if is_mapped(x))
    host, available = platform.node(), psutil.virtual_memory().available
    found = processes.gathered((host, own.size, available, _free(own.flat[0])))
    # A CPU's devices keep their copies in the memory of their host.
    copies = Counter[str]()
    for place, devices, _, _ in found:
        copies[place] += devices
    each = min(
        available / copies[place] if free is None else free for place, _, available, free in found
    )
    readers = Counter(place for place, *_ in found)  # every process reads all rows
    room = min(available / readers[place] for place, _, available, _ in found)
    least = "" if len(found) == 1 else "at least "
    if size > SHARE * each:
        return (
            f"the data take {amount(size)} and stay on the host: each of {mesh.devices.size} "
            f"device(s) has {least}{amount(each)} free"
        )
    if mapped > room:
        return (
            f"the data stay in their files: in memory they take {amount(mapped)}, and the host has "
            f"{least}{amount(room)} free"
        )
    return ""


def _refuse(text: str, needed: int, free: int, place: str) -> None:
    if needed > free:
        raise ConfigError(
            f"{text}, but {place} has {amount(free)} free; fewer candidates, fewer seeds at a time "
            "or one set for all seeds (share_behavior=true) take less"
        )


def _free(device: jax.Device) -> int | None:
    """Free bytes of an accelerator; None where it does not say."""
    stats = None if device.platform == "cpu" else device.memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else None


def amount(count: float) -> str:
    """Prints bytes.

    >>> amount(240_000_000)
    '240.0 MB'
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
