"""Rows of a dataset: those of a batch, with their images, and those of a smaller dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxrl_prefs.mapped_rows import ascending, is_mapped
from jaxrl_prefs.types import Frames, Transition

READERS = 16  # threads that read mapped files

Take = Callable[[Any, Any], Any]  # (leaf [N, ...], rows [...]) -> [..., ...]


def on_host(leaf: Any, rows: Any) -> np.ndarray:
    """Takes rows [...] of an array [N, ...] in the host's memory, or of files that are mapped."""
    if is_mapped(leaf):
        return leaf.take(rows)
    return np.take(leaf, rows, axis=0, mode="clip")


def in_order(rows: np.ndarray) -> Take:
    """As `on_host`, of these rows [...], but mapped files are read in their order, by threads.

    The order halves the time where the files are in the system's cache; where they are not, a disk
    serves several reads at a time (docs/scale.md).
    """
    order, back = ascending(rows.reshape(-1))
    pieces = np.array_split(rows.reshape(-1)[order], READERS)

    def take(leaf: Any, asked: Any) -> np.ndarray:
        if asked is not rows or not is_mapped(leaf):
            return on_host(leaf, asked)
        found = np.take(np.concatenate([*_readers().map(leaf.take, pieces)]), back, axis=0)
        return found.reshape(*rows.shape, found.shape[-1])

    return take


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, "reader")


def in_memory(data: Transition) -> Transition:
    """The dataset with rows of mapped files read into memory, to be placed on devices."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if is_mapped(leaf) else leaf, data)


def first_rows(data: Transition, count: int) -> Transition:
    """Of a dataset in mapped files its first `count` rows, in memory; any other as it is."""
    if not any(is_mapped(leaf) for leaf in jax.tree.leaves(data)):
        return data
    return in_memory(kept(data, np.arange(min(count, len(data.reward)))))


def selected(leaf: Any, rows: np.ndarray) -> Any:
    """The rows `rows`, numbers or bool, of an array [N, ...]; those of mapped files stay there."""
    return leaf.kept(rows) if is_mapped(leaf) else np.asarray(leaf)[rows]


def gathered(data: Transition, rows: Any, take: Take) -> Transition:
    """The rows `rows` [B] of a dataset as a batch; frames are stacked to images."""
    shown: Any = data.observation
    after: Any = data.next_observation
    if not isinstance(shown, Mapping):
        return jax.tree.map(lambda leaf: take(leaf, rows), data)
    nothing: Any = ()
    rest = gathered(data._replace(observation=nothing, next_observation=nothing), rows, take)
    return rest._replace(
        observation=_observed(shown, shown, rows, take),
        next_observation=_observed(after, shown, rows, take),
    )


def _observed(observation: Any, shown: Any, rows: Any, take: Take) -> Any:
    return {
        name: stacked(shown[name].frames, take(part.stack, rows), take)
        if isinstance(part, Frames)
        else take(part, rows)
        for name, part in observation.items()
    }


def stacked(frames: Any, index: Any, take: Take) -> Any:
    """The frames `index` [..., k] of [M, H, W, C], side by side as channels: [..., H, W, k * C]."""
    found = take(frames, index)  # [..., k, H, W, C]
    xp = np if isinstance(found, np.ndarray) else jax.numpy
    found = xp.moveaxis(found, -4, -2)  # [..., H, W, k, C]
    return found.reshape(*found.shape[:-2], -1)


def kept(data: Transition, rows: Any) -> Transition:
    """The dataset of the rows `rows` [n]; its frames stay where they are."""
    parts = {
        name: of_observation(part, rows)
        if name in ("observation", "next_observation")
        else jax.tree.map(lambda leaf: selected(leaf, rows), part)
        for name, part in data._asdict().items()
    }
    return Transition(**parts)


def of_observation(observation: Any, rows: Any) -> Any:
    """The rows `rows` of a dataset's observations."""
    if not isinstance(observation, Mapping):
        return selected(observation, rows)
    return {
        name: part._replace(stack=np.asarray(part.stack)[rows])
        if isinstance(part, Frames)
        else selected(part, rows)
        for name, part in observation.items()
    }
