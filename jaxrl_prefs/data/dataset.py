"""From a dataset to what a method trains on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxrl_prefs.data import images, transforms
from jaxrl_prefs.data.families import Processing
from jaxrl_prefs.data.recording import ROUNDING, Dataset
from jaxrl_prefs.data.transforms import SINGLE, ActionChunk, Affine
from jaxrl_prefs.errors import DataError
from jaxrl_prefs.mapped_rows import blocks, is_mapped
from jaxrl_prefs.types import STATE, Spec, Transition

MOST_ROWS = 2**31 - 1  # row numbers are int32, on devices too


class PreparedDataset(NamedTuple):
    """Transitions in a method's units, and the maps from raw units to these."""

    recording: Dataset
    processing: Processing
    transitions: Transition  # float32 numpy leaves [N, ...], no columns
    spec: Spec
    observation: Affine  # raw observation -> method's observation
    action: Affine  # raw action -> [-1, 1]; `raw_actions` gives the environment its actions
    reward: Affine  # raw reward, for reward='sparse' of -1 and 0 -> method's reward
    held_out: Transition | None = None  # rows of episodes that are not trained on, see split.py
    # Of chunks an action is h actions, see multi_step.py.
    action_chunk: ActionChunk = SINGLE

    def raw_actions(self, action: Any) -> Any:
        """A policy's actions [..., h * A] as the k that the environment gets, [..., k, A]."""
        return self.action_chunk.to_play(self.action.invert(action))

    def seen(self, raw: Any) -> Any:
        """A raw observation as methods see it: [..., O], or a dict of images and such a vector."""
        if not isinstance(raw, dict):
            return self.observation.apply(raw)
        state = {STATE: self.observation.apply(raw[STATE])} if STATE in raw else {}
        return raw | state

    def score(self, raw_return: np.ndarray | float) -> np.ndarray:
        """As `Dataset.score`: 0 to 100 between the references, raw without them."""
        return self.recording.score(raw_return)

    @property
    def by_success(self) -> bool:
        """As `Dataset.by_success`."""
        return self.recording.by_success

    @property
    def score_kind(self) -> str:
        """As `Dataset.score_kind`."""
        return self.recording.score_kind


def prepare(recording: Dataset, processing: Processing) -> PreparedDataset:
    """Applies `processing` to a dataset.

    Actions are mapped from the environment's box to [-1, 1] and clipped to +-(1 - 1e-5).

    Raises:
      DataError: if a field of `processing` has no meaning, or none for this recording; if actions
        lie outside of their box, and `clip_actions` is not set; if there are more rows than
        `MOST_ROWS`.
    """
    _check(processing)
    if recording.size > MOST_ROWS:
        raise DataError(
            f"{recording.name} has {recording.size:,} rows, more than {MOST_ROWS:,}: row numbers "
            "are 32-bit. Train on a part of it"
        )
    if recording.outside and not processing.clip_actions:
        raise DataError(
            f"{recording.name}: {recording.outside}. If they were recorded before the environment "
            "clipped them, clip_actions=true (of a run: --set clip_actions=true) clips them too. "
            "If they are in other units, name the environment that takes them (--env)"
        )
    observation = (
        transforms.standardise(recording.observation)
        if processing.normalize_observations
        else transforms.identity(recording.observation.shape[1])
    )
    action = transforms.box_to_unit(recording.action_low, recording.action_high)
    reward = _reward_map(recording, processing)
    actions = _clipped(action.apply(recording.action))
    rows = np.arange(recording.size, dtype=np.int32)
    next_rows = np.where(recording.continues, rows + 1, rows).astype(np.int32)
    before, after = images.stacked(
        recording.images, recording.continues, max(1, processing.frame_stack)
    )
    with np.errstate(all="ignore"):  # what overflows is refused below, by name
        leaves: dict[str, Any] = {  # numpy arrays where a Transition says jax.Array
            "observation": _observed(observation.apply(recording.observation), before),
            "action": actions,
            "reward": reward.apply(_raw_reward(recording, processing)),
            "discount": np.float32(processing.gamma) * ~recording.terminal,
            "next_observation": _observed(observation.apply(recording.next_observation), after),
            "next_action": _next_actions(actions, recording.continues, next_rows),
            "has_next_action": recording.continues.astype(np.float32),
            "index": rows,
            "next_index": next_rows,
        }
    transitions = Transition(**leaves)
    _check_finite(recording, transitions)
    return PreparedDataset(
        recording=recording,
        processing=processing,
        transitions=transitions,
        spec=Spec.of(transitions),
        observation=observation,
        action=action,
        reward=reward,
    )


def _clipped(action: Any) -> Any:
    if is_mapped(action):
        return action.then(_clipped)
    limit = np.float32(transforms.ACTION_LIMIT)
    return np.clip(action, -limit, limit)


def _next_actions(actions: Any, continues: np.ndarray, next_rows: np.ndarray) -> Any:
    """The actions of the next rows [N, A], zeros at the end of an episode."""
    if is_mapped(actions):
        return actions.following(continues, only=True)
    return actions[next_rows] * continues[:, None]


def _check(processing: Processing) -> None:
    if not 0.0 <= processing.gamma <= 1.0:
        raise DataError(f"gamma must lie between 0 and 1, not {processing.gamma}")
    if processing.reward not in ("affine", "range", "sparse"):
        raise DataError(f"reward must be 'affine', 'range' or 'sparse', not {processing.reward!r}")
    if processing.reward_scale == 0 or not math.isfinite(processing.reward_scale):
        raise DataError(f"reward_scale must be finite and not 0, not {processing.reward_scale}")
    if not math.isfinite(processing.reward_shift):
        raise DataError(f"reward_shift must be finite, not {processing.reward_shift}")


def _observed(vector: np.ndarray, shown: dict[str, Any]) -> Any:
    """A vector, or with images a dict of these and of the vector, if it has any numbers."""
    if not shown:
        return vector
    return {**shown, STATE: vector} if vector.shape[1] else shown


def _raw_reward(recording: Dataset, processing: Processing) -> np.ndarray:
    """The recorded rewards [N], for reward='sparse' as -1 and 0.

    Raises:
      DataError: if they hold positive ones, of which 0 is no success.
    """
    if processing.reward != "sparse" or not recording.has_rewards:
        return recording.reward
    if recording.reward.max() > 0:
        raise DataError(
            f"{recording.name}: reward='sparse' is for rewards of at most 0, which is success, and "
            f"the largest here is {recording.reward.max():g}"
        )
    return np.where(recording.reward == 0, np.float32(0), np.float32(-1))


def _reward_map(recording: Dataset, processing: Processing) -> Affine:
    if not recording.has_rewards:
        return transforms.line(1.0, 0.0)
    slope = processing.reward_scale
    if processing.reward == "range":
        returns = recording.returns
        width = float(returns.max() - returns.min())
        summed = float(recording.lengths.max()) * float(np.abs(recording.reward).mean())
        if width <= ROUNDING * max(float(np.abs(returns).max()), summed):
            raise DataError(
                f"{recording.name}: all {len(returns)} episodes have the same return up to "
                "rounding, so reward='range' has no meaning; reward='affine' with reward_scale=1 "
                "takes the raw rewards (of a run: --set reward=affine)"
            )
        slope /= width
    return transforms.line(slope, processing.reward_shift)


def _check_finite(recording: Dataset, transitions: Transition) -> None:
    for key in ("observation", "reward", "next_observation"):
        value: Any = getattr(transitions, key)
        value = value.get(STATE, np.zeros(0)) if isinstance(value, dict) else value
        if value is getattr(recording, key):  # which is finite
            continue
        if not all(np.isfinite(part).all() for _, part in blocks(value)):
            raise DataError(f"{recording.name}: {key} overflows 32-bit floats after its transform")
