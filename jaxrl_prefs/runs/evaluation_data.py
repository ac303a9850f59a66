"""The rows of recorded data that policies are evaluated on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrl_prefs import data as datasets
from jaxrl_prefs.data import ActionChunk, Dataset, PreparedDataset, Processing
from jaxrl_prefs.data.multi_step import chunks
from jaxrl_prefs.data.split import episode_of, held_out
from jaxrl_prefs.data.transforms import tiled
from jaxrl_prefs.estimation import fqe
from jaxrl_prefs.types import Transition


class EvaluationData(NamedTuple):
    """The rows that policies are evaluated on."""

    dataset: PreparedDataset
    rows: np.ndarray  # [N] of the dataset's transitions
    starts: np.ndarray  # [N] rows of the recording, each that of the first action
    last: np.ndarray  # [N] rows of the recording, each that of the last action
    data: fqe.Data
    unit: fqe.Units
    held_out: np.ndarray  # [N] bool, rows of held-out episodes
    returns: np.ndarray  # [M] discounted returns of the episodes

    @property
    def episodes(self) -> int:
        """M."""
        return len(self.data.first)


def evaluation_data(
    recording: Dataset,
    clips: bool,
    gamma: float,
    share: float,
    config: fqe.Config,
    *,
    sparse: bool = False,
    played: int = 1,
) -> EvaluationData:
    """The rows of at most `config.rows`, whole episodes, with raw rewards, or `sparse` ones.

    They are chunks of `played` actions.
    """
    processing = Processing(
        gamma=gamma,
        reward="sparse" if sparse else "affine",
        normalize_observations=True,
        clip_actions=clips,
    )
    steps = datasets.prepare(recording, processing)
    episode = episode_of(steps.transitions)
    dataset, starts, last = _in_chunks(steps, played)
    rows = dataset.transitions
    total = int(episode[-1]) + 1
    apart = held_out(total, share) if share and total > 1 else np.zeros(total, bool)
    used = _chosen(np.bincount(episode), config.rows)
    to_go = _to_go(steps.transitions, np.isin(episode, used))
    keep = np.flatnonzero(np.isin(episode[starts], used))
    starts, last = starts[keep], last[keep]
    to_go = to_go[starts]
    number = np.unique(episode[starts], return_inverse=True)[1].astype(np.int32)
    leaves = {name: np.asarray(getattr(rows, name)[keep]) for name in fqe.Data._fields[:5]}
    first = np.flatnonzero(np.diff(number, prepend=-1)).astype(np.int32)
    unit = fqe.units(leaves["reward"], to_go, gamma**played)
    leaves["reward"] = fqe.scaled_reward(leaves["reward"], leaves["discount"], unit)
    held = apart[episode[starts]]
    held = held if held.any() and not held.all() else np.zeros(len(keep), bool)
    data = fqe.Data(**leaves, episode=number, first=first)
    return EvaluationData(dataset, keep, starts, last, data, unit, held, to_go[first])


def _to_go(steps: Transition, used: np.ndarray) -> np.ndarray:
    """Discounted sums of the rewards from each row to the end of its episode, [N]; 0 if not used.

    Args:
        steps: single steps.
        used: [N] bool, rows of whole episodes.
    """
    reward, discount, goes_on = (
        np.asarray(x)[used] for x in (steps.reward, steps.discount, steps.has_next_action)
    )
    found = np.zeros(len(used))
    found[used] = fqe.to_go(reward.astype(np.float64), discount, goes_on)
    return found


def _in_chunks(
    steps: PreparedDataset, played: int
) -> tuple[PreparedDataset, np.ndarray, np.ndarray]:
    """The dataset in chunks of `played` actions, and the first and the last row of each."""
    if played == 1:
        rows = np.arange(steps.spec.size)
        return steps, rows, rows
    found = chunks(steps.transitions, played, steps.recording.name)
    dataset = steps._replace(
        transitions=found.transitions,
        action=tiled(steps.action, played),
        action_chunk=ActionChunk(played, played),
    )
    return dataset, found.starts, found.last


def _chosen(lengths: np.ndarray, most: int) -> np.ndarray:
    """Episodes of at most `most` rows together; one at least."""
    if lengths.sum() <= most:
        return np.arange(len(lengths))
    order = np.random.default_rng(0).permutation(len(lengths))
    count = max(int((np.cumsum(lengths[order]) <= most).sum()), 1)
    return np.sort(order[:count])
