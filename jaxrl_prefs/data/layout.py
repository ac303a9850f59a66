"""What a policy assumes about its data: names of dimensions, sizes of images, bounds of actions.

It is kept with a dataset and with a run, and compared wherever one meets the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.errors import DataError

SAME = 1e-5  # bounds that differ by less, in parts of their width, are the same
LARGEST = 10**6  # numbers in a stored layout


class Layout(NamedTuple):
    """Names may be missing, `()`: then only their number is compared."""

    observation_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    observation_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    images: tuple[tuple[str, tuple[int, int, int]], ...] = ()  # camera, [H, W, C]; sorted


def of(dataset: Dataset) -> Layout:
    """The layout of a dataset."""
    return Layout(
        dataset.observation.shape[1],
        dataset.action.shape[1],
        tuple(map(float, dataset.action_low)),
        tuple(map(float, dataset.action_high)),
        dataset.observation_names,
        dataset.action_names,
        tuple((name, _size(each.frames.shape)) for name, each in sorted(dataset.images.items())),
    )


def _size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    _, height, width, channels = shape
    return height, width, channels


def check(expected: Layout, found: Layout, who: tuple[str, str]) -> None:
    """Refuses data of another layout than expected.

    Args:
      expected: of a run, or of other data.
      found: of the data that are to be used with it.
      who: what each is called in messages.

    Raises:
      DataError: naming the first difference: images, sizes, order of names, bounds.
    """
    first, other = who
    _check_images(dict(expected.images), dict(found.images), who)
    for kind in ("observation", "action"):
        here, there = (getattr(each, f"{kind}_dim") for each in (expected, found))
        if here != there:
            raise DataError(f"{first} has {here} {kind}s, {other} {there}: they do not fit")
        mine, theirs = (getattr(each, f"{kind}_names") for each in (expected, found))
        pairs = zip(mine, theirs, strict=False) if mine and theirs else ()
        differing = [(i, a, b) for i, (a, b) in enumerate(pairs) if a != b]
        if differing:
            place, a, b = differing[0]
            order = "another order of" if sorted(mine) == sorted(theirs) else "other"
            raise DataError(
                f"{other} has {order} {kind}s than {first}: number {place} is {b!r}, and {a!r} "
                f"there (--{kind}_keys chooses columns and their order)"
            )
    for name in ("action_low", "action_high"):
        mine, theirs = (np.asarray(getattr(each, name)) for each in (expected, found))
        width = np.asarray(expected.action_high) - np.asarray(expected.action_low)
        bad = np.abs(mine - theirs) > SAME * np.maximum(width, 1e-12)
        if bad.any():
            place = int(np.argmax(bad))
            raise DataError(
                f"{other} has other bounds of actions than {first}: {name} of action {place} is "
                f"{theirs[place]:g}, and {mine[place]:g} there; actions of other units or bounds "
                f"cannot be compared (--{name}=... gives the bounds)"
            )


def _check_images(mine: Mapping[str, Any], theirs: Mapping[str, Any], who: tuple[str, str]) -> None:
    first, other = who
    for camera in sorted({*mine, *theirs}):
        for images, lacking, having in ((mine, first, other), (theirs, other, first)):
            if camera not in images:
                raise DataError(f"{lacking} has no images {camera!r}, and {having} has some")
        if mine[camera] != theirs[camera]:
            here, there = ("x".join(map(str, each[camera])) for each in (mine, theirs))
            raise DataError(
                f"{other} has images {camera!r} of {there}, {first} of {here}: resize them to one "
                "size"
            )


def to_json(layout: Layout) -> dict[str, Any]:
    """A layout for JSON; images stand there only if there are some."""
    content = {key: list(x) if isinstance(x, tuple) else x for key, x in layout._asdict().items()}
    del content["images"]
    return content | (
        {"images": {name: [*x] for name, x in layout.images}} if layout.images else {}
    )


def from_json(content: Any, place: str) -> Layout:
    """A layout from JSON.

    Raises:
      DataError: naming `place`, if it is damaged.
    """
    try:
        if not isinstance(content, Mapping):
            raise TypeError("no mapping")
        sizes = {kind: content[f"{kind}_dim"] for kind in ("observation", "action")}
        names = {kind: tuple(content[f"{kind}_names"]) for kind in sizes}
        low, high = (tuple(map(float, content[key])) for key in ("action_low", "action_high"))
        images = _images(content.get("images", {}))
        for kind, size in sizes.items():
            least = 0 if images and kind == "observation" else 1
            if type(size) is not int or not least <= size <= LARGEST:
                raise TypeError(f"{kind}_dim={size!r}"[:60])
            whole = all(isinstance(name, str) for name in names[kind])
            if not whole or len(names[kind]) not in (0, size):
                raise TypeError(f"{kind}_names")
        if not len(low) == len(high) == sizes["action"] or not all(map(math.isfinite, low + high)):
            raise TypeError("bounds")
    except (KeyError, TypeError, ValueError) as fault:
        raise DataError(f"{place} is damaged: its layout is none ({fault})") from fault
    return Layout(
        *(sizes["observation"], sizes["action"], low, high),
        *(names["observation"], names["action"], images),
    )


def _images(content: Any) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    if not isinstance(content, Mapping):
        raise TypeError("images")
    for size in content.values():
        whole = isinstance(size, list) and all(type(each) is int and each > 0 for each in size)
        if not whole or len(size) != 3:
            raise TypeError(f"images of {size!r}"[:60])
    return tuple((str(name), _size((1, *size))) for name, size in sorted(content.items()))
