"""Episodes from arrays and from lists of episodes, as a program hands them over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl_prefs.data import images, observations
from jaxrl_prefs.data.images import Images
from jaxrl_prefs.data.observations import Observed, parted
from jaxrl_prefs.data.steps import Steps
from jaxrl_prefs.errors import DataError


def steps_of_arrays(
    name: str,
    observed: Any,
    actions: Any,
    rewards: Any,
    terminals: Any,
    timeouts: Any,
    next_observations: Any,
) -> Steps:
    """As `Dataset.from_arrays`, before any check but that of flags."""
    seen, action = parted(f"{name}: observations", observed), np.asarray(actions)
    observation = seen.vector
    reward = None if rewards is None else _column(np.asarray(rewards))
    terminal = _flag_column(name, "terminals", terminals)
    ends = terminal.copy()
    if timeouts is not None:
        timeout = _flag_column(name, "timeouts", timeouts)
        if len(timeout) != len(terminal):
            raise DataError(
                f"{name}: arrays of different lengths: terminals {len(terminal)}, timeouts "
                f"{len(timeout)}"
            )
        ends |= timeout
    if not len(ends):
        raise DataError(f"{name}: the dataset has no episodes")
    ends[-1] = True
    if next_observations is not None:
        after = parted(f"{name}: next observations", next_observations)
        following, successor = after.vector, np.ones(len(ends), bool)
        shown = observations.of_pairs(name, seen, after, len(ends))
    elif observation.ndim == 2 and len(observation) == len(ends):
        shown = observations.of_steps(name, seen, ends)
        following = np.roll(observation, -1, axis=0)
        following[ends] = observation[ends]
        successor = terminal | ~ends  # what stands in after a terminal is never looked at
    else:
        shown = observations.of_steps(name, seen, ends)
        following, successor = observation, ends  # refused below, by name
    return Steps(
        observation=observation,
        action=action,
        reward=reward,
        terminal=terminal,
        next_observation=following,
        lengths=np.diff(np.flatnonzero(ends), prepend=-1),
        successor=successor,
        images=shown,
    )


def steps_of_episodes(name: str, episodes: Sequence[Mapping[str, Any]]) -> Steps:
    """As `Dataset.from_episodes`, before most checks."""
    if not episodes:
        raise DataError(f"{name}: the dataset has no episodes")
    parts = [_episode(f"{name}, episode {i}", each) for i, each in enumerate(episodes)]
    places = [f"{name}, episode {place}" for place in range(len(parts))]
    shown = images.joined(places, [part.pop("images") for part in parts])
    whole: dict[str, Any] = {
        key: _joined(name, key, [part.get(key) for part in parts])
        for key in dict.fromkeys(key for part in parts for key in part)
    }
    lengths = np.asarray([len(part["action"]) for part in parts])
    return Steps(**{"reward": None} | whole, lengths=lengths, images=shown)


def _column(values: np.ndarray) -> np.ndarray:
    """[N, 1] as [N]; anything else as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _flag_column(name: str, key: str, values: Any) -> np.ndarray:
    array = _column(np.asarray(values))
    if array.ndim != 1 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DataError(f"{name}: {key} must be one axis of 0 and 1, got {_summary(array)}")
    return array.astype(bool)


def _summary(array: np.ndarray) -> str:
    return f"shape {array.shape} of {array.dtype}"


def _episode(name: str, episode: Mapping[str, Any]) -> dict[str, Any]:
    """An episode's arrays under the names of `Steps`."""
    if missing := [key for key in ("observations", "actions") if key not in episode]:
        raise DataError(f"{name}: lacks {', '.join(missing)}")
    seen, action = parted(f"{name}: observations", episode["observations"]), episode["actions"]
    observation, action = seen.vector, np.asarray(action)
    rewards = {"reward": _column(np.asarray(episode["rewards"]))} if "rewards" in episode else {}
    steps = len(next(iter(rewards.values()), action))
    if not steps:
        raise DataError(f"{name}: has no steps")
    terminal = np.zeros(steps, bool)
    if "terminals" in episode:
        terminal = _flag_column(name, "terminals", episode["terminals"])
    elif episode.get("terminal", False):
        terminal[-1] = True
    successor, after = np.ones(steps, bool), None
    if episode.get("next_observations") is not None:
        after = parted(f"{name}: next observations", episode["next_observations"])
    shown = _shown(name, seen, after, steps)
    if after is not None:
        following = after.vector
    elif len(observation) == steps + 1:
        observation, following = observation[:-1], observation[1:]
    else:
        following = np.concatenate([observation[1:], observation[-1:]])
        successor[-1] = bool(terminal[-1:].all())
    sizes = {
        "observations": len(observation),
        "actions": len(action),
        "terminals": len(terminal),
        "next_observations": len(following),
    }
    for key, size in sizes.items():
        if size != steps:
            raise DataError(f"{name}: {size} {key} for {steps} steps")
    return {
        "observation": observation,
        "action": action,
        **rewards,
        "terminal": terminal,
        "next_observation": following,
        "successor": successor,
        "images": shown,
    }


def _shown(name: str, seen: Observed, after: Observed | None, steps: int) -> dict[str, Images]:
    """An episode's images: T frames with what followed them, T + 1 frames, or T alone."""
    if after is not None:
        return observations.of_pairs(name, seen, after, steps)
    if seen.frames and seen.rows == steps + 1:
        counts = np.array([steps + 1])
        return {key: images.with_last(frames, counts) for key, frames in seen.frames.items()}
    return observations.of_steps(name, seen, np.arange(steps) == steps - 1)


def _joined(name: str, key: str, parts: Sequence[np.ndarray | None]) -> np.ndarray:
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        lacking = next(place for place, part in enumerate(parts) if part is None)
        raise DataError(f"{name}: episode {lacking} lacks {key}s, which others have")
    shapes = {part.shape[1:] for part in whole}
    if len(shapes) > 1:
        raise DataError(f"{name}: {key}s of episodes have different shapes: {sorted(shapes)}")
    return np.concatenate(whole)
