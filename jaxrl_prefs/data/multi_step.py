"""Several recorded steps as one: n-step returns and action chunks, made before a method sees them.

    n-step returns   r = sum_{i < n} gamma^i r_i,  discount gamma^n,  next observation n rows on
    action chunks    the same over h rows, and the action is h actions laid end to end

The steps of a row stop at a terminal, where the discount is 0. What differs is where an episode was
cut off. An n-step return of fewer steps bootstraps from the last observation, with gamma to the
power of the steps that there are. A chunk needs its h actions: the last h - 1 rows of an episode
start none, whether it ended or was cut off. So it is in Q-chunking (Li, Zhou and Levine 2025,
arXiv 2507.07969), whose critic is trained on whole chunks. All other rows start a chunk, so that
chunks overlap. Two deviations: the cloning loss of the authors' code also takes the actions of a
chunk that the end of an episode cuts, and here those rows are left out of every loss; its sums of
rewards run on past a terminal within a chunk, after which OGBench's data go on, and here they stop.

The next action is that of the row where the steps end: the chunk that starts there, or none. With
both, a step of the n is a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import transforms
from jaxrl_prefs.data.dataset import PreparedDataset
from jaxrl_prefs.data.readers import container
from jaxrl_prefs.data.split import episode_of
from jaxrl_prefs.data.transforms import SINGLE, ActionChunk
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import is_mapped
from jaxrl_prefs.rows import of_observation, selected
from jaxrl_prefs.types import Spec, Transition


class Summed(NamedTuple):
    """What comes of some steps from each row of the data, [N] each."""

    reward: np.ndarray
    discount: np.ndarray
    last: np.ndarray  # the row of the last step


class Chunks(NamedTuple):
    """The chunks of some rows."""

    transitions: Transition
    starts: np.ndarray  # [N] the row of the first action
    last: np.ndarray  # [N] the row of the last step that counts


def multi_step(
    dataset: PreparedDataset, n: int = 1, chunk: ActionChunk = SINGLE
) -> PreparedDataset:
    """The dataset whose rows are chunks of actions, and n of these steps; unchanged for 1 and 1.

    The moments of the Spec, and held-out episodes, are those of the new rows. Arrays of actions
    become h times as large.

    Raises:
        DataError: if the steps of the dataset do not follow one another, or no episode, or none of
            those held out, has h of them; if actions of mapped files do not fit in memory.
    """
    name = dataset.recording.name
    for field, count in (("n_step", n), ("action_chunk", chunk.length)):
        if count > 1 and not dataset.recording.continues.any():
            raise DataError(
                f"{name}: {field}={count} needs steps in the order of time, and here no step is "
                "followed by the next one of its episode"
            )
    if chunk.length > 1:
        dataset = _chunked(dataset, chunk)
    if n == 1:
        return dataset
    held_out = None if dataset.held_out is None else n_step(dataset.held_out, n)
    return dataset._replace(transitions=n_step(dataset.transitions, n), held_out=held_out)


def _chunked(dataset: PreparedDataset, chunk: ActionChunk) -> PreparedDataset:
    """The dataset of chunks."""
    name = dataset.recording.name
    if is_mapped(dataset.transitions.action):  # actions are read, and each chunk and the next made
        needed = (1 + 2 * chunk.length) * dataset.transitions.action.nbytes
        container.check_size(
            f"{name}: action_chunk={chunk.length}, with all actions in memory,",
            needed,
            needed,
            ": train on fewer of the files, or where more memory is free",
        )
    rows, held_out = chunks(dataset.transitions, chunk.length, name).transitions, None
    if dataset.held_out is not None:
        held_out = chunks(dataset.held_out, chunk.length, name, "held-out episode").transitions
    return dataset._replace(
        transitions=rows,
        held_out=held_out,
        spec=Spec.of(rows),
        action=transforms.tiled(dataset.action, chunk.length),
        action_chunk=chunk,
    )


def n_step(data: Transition, n: int) -> Transition:
    """The rows with n-step returns; observations and actions are the same arrays.

    A row of fewer steps, at the end of an episode, has those that there are.
    """
    found = _summed(data, n)
    goes_on = np.asarray(data.has_next_action)[found.last]
    leaves: dict[str, Any] = {
        "reward": found.reward.astype(np.float32),
        "discount": found.discount.astype(np.float32),
        "next_observation": of_observation(data.next_observation, found.last),
        "next_action": selected(data.next_action, found.last),
        "has_next_action": goes_on,
        "next_index": np.where(goes_on > 0, np.asarray(data.next_index)[found.last], data.index),
    }
    return data._replace(**leaves)


def chunks(
    data: Transition, length: int, name: str = "the dataset", episode: str = "episode"
) -> Chunks:
    """The chunks of `length` actions of all rows that have as many left in their episode.

    Args:
        data: single steps.
        length: the number of actions.
        name: of the dataset, for errors.
        episode: what errors call an episode of these rows.

    Raises:
        DataError: if there are none.
    """
    longest = int(np.bincount(episode_of(data)).max())
    if length > longest:
        raise DataError(
            f"{name}: a chunk of {length:,} actions (action_chunk) is longer than every {episode}; "
            f"the longest has {longest:,} steps: choose a smaller action_chunk "
            "or data with longer episodes"
        )
    steps, whole = _following(data, length)
    starts = np.flatnonzero(whole)
    found = _summed(data, length)
    last, steps = found.last[starts], steps[starts]
    action = np.asarray(data.action)[steps].reshape(len(starts), -1)
    number = np.cumsum(whole).astype(np.int32) - 1
    after = np.asarray(data.next_index)[last]
    goes_on = (np.asarray(data.has_next_action)[last] > 0) & (last == steps[:, -1]) & whole[after]
    index = np.arange(len(starts), dtype=np.int32)
    next_index = np.where(goes_on, number[after], index).astype(np.int32)
    leaves: dict[str, Any] = {  # numpy arrays where a Transition says jax.Array
        "observation": of_observation(data.observation, starts),
        "action": action,
        "reward": found.reward[starts].astype(np.float32),
        "discount": found.discount[starts].astype(np.float32),
        "next_observation": of_observation(data.next_observation, last),
        "next_action": action[next_index] * goes_on[:, None].astype(np.float32),
        "has_next_action": goes_on.astype(np.float32),
        "index": index,
        "next_index": next_index,
    }
    return Chunks(Transition(**leaves), starts, last)


def _following(data: Transition, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `count` steps from each row, [N, count], and whether all of them are there."""
    goes_on, after = np.asarray(data.has_next_action) > 0, np.asarray(data.next_index)
    steps = np.empty((len(goes_on), count), np.int32)
    steps[:, 0] = np.arange(len(goes_on))
    whole = np.ones(len(goes_on), bool)
    for place in range(1, count):
        whole &= goes_on[steps[:, place - 1]]
        steps[:, place] = after[steps[:, place - 1]]
    return steps, whole


def _summed(data: Transition, count: int) -> Summed:
    """Rewards and discounts of at most `count` steps from each row, up to a terminal or the end."""
    reward, discount = (np.asarray(x, np.float64) for x in (data.reward, data.discount))
    goes_on = (np.asarray(data.has_next_action) > 0) & (discount > 0)
    after = np.asarray(data.next_index)
    total, product, last = reward.copy(), discount.copy(), np.arange(len(reward), dtype=np.int32)
    going = goes_on.copy()
    for _ in range(1, count):
        last = np.where(going, after[last], last)
        total += np.where(going, product * reward[last], 0)
        product *= np.where(going, discount[last], 1)
        going &= goes_on[last]
    return Summed(total, product, last)
