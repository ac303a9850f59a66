"""Rows of a dataset: those of a batch, with their images, and those of a smaller dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxrl_prefs.types import Frames, Transition

Take = Callable[[Any, Any], Any]  # (leaf [N, ...], rows [...]) -> [..., ...]


def on_host(leaf: Any, rows: Any) -> np.ndarray:
    """Takes rows [...] of an array [N, ...] in the host's memory, or of a file that is mapped."""
    return np.take(leaf, rows, axis=0, mode="clip")


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
        else jax.tree.map(lambda leaf: np.asarray(leaf)[rows], part)
        for name, part in data._asdict().items()
    }
    return Transition(**parts)


def of_observation(observation: Any, rows: Any) -> Any:
    """The rows `rows` of a dataset's observations."""
    if not isinstance(observation, Mapping):
        return np.asarray(observation)[rows]
    return {
        name: part._replace(stack=np.asarray(part.stack)[rows])
        if isinstance(part, Frames)
        else np.asarray(part)[rows]
        for name, part in observation.items()
    }
