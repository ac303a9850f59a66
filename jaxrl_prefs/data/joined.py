"""One dataset of several that were recorded alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrl_prefs.data import images, layout
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import end_to_end

ROWS = ("observation", "action", "reward", "terminal", "next_observation", "continues")


def joined(name: str, parts: Sequence[Dataset]) -> Dataset:
    """The episodes of all parts, in order; environment and references are the first one's.

    Raises:
      DataError: if observations, images, actions or their bounds differ, or only some have
        rewards.
    """
    first = parts[0]
    for part in parts[1:]:
        layout.check(layout.of(first), layout.of(part), (first.name, part.name))
        if part.has_rewards != first.has_rewards:
            lacking = first if part.has_rewards else part
            raise DataError(f"{lacking.name} has no rewards, other files of {name} have")
    rows: dict[str, Any] = {key: end_to_end([getattr(part, key) for part in parts]) for key in ROWS}
    outside = [f"{_file(part)}: {part.outside}" for part in parts if part.outside]
    return first._replace(
        **rows,
        name=name,
        returns=np.concatenate([part.returns for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        outside=outside[0] if outside else "",
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        time=None,
        images=images.joined([part.name for part in parts], [part.images for part in parts]),
    )


def _file(part: Dataset) -> str:
    return part.name.rpartition("/")[2]
