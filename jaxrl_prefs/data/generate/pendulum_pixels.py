"""The pictures of `pendulum/mixed-v0`, which are drawn from its angles and not stored.

An episode of T steps has T + 1 pictures, each drawn once: that of row i of episode e is number
i + e, and the picture after it is the next one.
"""

from __future__ import annotations

import numpy as np

from jaxrl_prefs.data.images import Images
from jaxrl_prefs.data.recording import Dataset
from jaxrl_prefs.environments import pendulum_drawing, task

DATASET_ID = "pendulum/pixels-v0"


def dataset(recording: Dataset) -> Dataset:
    """`pendulum/mixed-v0` with pictures in place of its three numbers."""
    whole, place = shown(recording.observation, recording.next_observation, recording.lengths)
    nothing = np.zeros((recording.size, 0), np.float32)
    return recording._replace(
        name=DATASET_ID,
        observation=nothing,
        next_observation=nothing,
        observation_names=(),
        task=task.named("jaxrl_prefs/PendulumPixels-v0"),
        named_env="jaxrl_prefs/PendulumPixels-v0",
        images={"image": Images(frames(whole), place, place + 1).aligned()},
    )


def frames(observation: np.ndarray, size: int = pendulum_drawing.SIZE) -> np.ndarray:
    """Draws Pendulum-v1's observations.

    Args:
      observation: [M, 2] or more columns; the first two are the angle's cosine and sine.
      size: pixels of a side.

    Returns:
      Pictures [M, size, size, 1] uint8.
    """
    angle = np.arctan2(observation[:, 1], observation[:, 0])
    return pendulum_drawing.pictures(size)[pendulum_drawing.nearest(angle)]


def shown(
    observation: np.ndarray, next_observation: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All observations of E episodes of N steps in all, each once, and where they are.

    Args:
      observation: [N, O], the episodes laid end to end.
      next_observation: [N, O], of which the last of each episode is read.
      lengths: [E] steps.

    Returns:
      Observations [N + E, O]; the places [N] in them of `observation`. That of
      `next_observation` is one further.
    """
    ends = np.cumsum(lengths)
    whole = np.insert(observation, ends, next_observation[ends - 1], axis=0)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    return whole, np.arange(len(observation)) + episode
