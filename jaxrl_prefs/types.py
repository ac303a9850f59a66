"""The records that all parts of the library share.

Axis alphabet, used in every shape comment:

    S seeds   N dataset rows   B batch   E ensemble members   K samples (candidates)
    T diffusion steps   O observation dimensions   A action dimensions

Order of axes: [S,] E, B, K, A. Rewards, discounts and values are [B], never [B, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_prefs.mapped_rows import is_mapped, moments

Array = jax.Array
Key = jax.Array  # a typed key: jax.random.key(0)
Params = Any  # a pytree of arrays
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, count); count 0 where nothing was measured


class Net(NamedTuple):
    """A network as two pure functions: `init(key, *inputs) -> params`, `apply(params, *inputs)`."""

    init: Callable[..., Params]
    apply: Callable[..., Array]


class Box(NamedTuple):
    """The bounds of an action, one interval for each dimension."""

    low: np.ndarray  # [A]
    high: np.ndarray  # [A]

    @property
    def centre(self) -> np.ndarray:
        """The middle of each interval, [A]."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> np.ndarray:
        """Half the length of each interval, [A]."""
        return (self.high - self.low) / 2


STATE = "state"  # the vector of an observation that also has images


class ImageSpec(NamedTuple):
    """One image of an observation, uint8 [H, W, C], as a method sees it."""

    name: str  # of the camera
    height: int
    width: int
    channels: int  # of all stacked frames

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C]."""
        return self.height, self.width, self.channels


class Frames(NamedTuple):
    """The images of a dataset: every frame once, and which of them a row shows.

    A batch has the images themselves, [B, H, W, k * C], the newest frame last (rows.py).
    """

    frames: Any  # [M, H, W, C] uint8; None in `next_observation`, whose frames are the same
    stack: Any  # [N, k] int32, the frames that are stacked, the newest last


class Transition(NamedTuple):
    """One batch of transitions; with N in place of B, a whole dataset.

    An observation is a vector, or where there are images a dict: uint8 [B, H, W, C] by name, and
    the vector as "state" if there is one. Of a dataset, an image is a `Frames`.

    `discount` is gamma * (1 - terminal): losses never see a done flag. Where a row is several steps
    (data/multi_step.py) it is their product, and what is next follows the last one. `columns` holds
    what a column-filling phase computed per row: `columns[name]` for the row itself and
    `columns["next_" + name]` for its successor, gathered by the runner through `next_index`.
    """

    observation: Array  # [B, O]
    action: Array  # [B, A], in the action bounds of the Spec
    reward: Array  # [B]
    discount: Array  # [B]
    next_observation: Array  # [B, O]
    next_action: Array  # [B, A], zeros where has_next_action is 0
    has_next_action: Array  # [B], 1 where the episode goes on in the next row, else 0
    index: Array  # type: ignore[assignment]  # [B] int32, this row; hides tuple.index
    next_index: Array  # [B] int32, the successor's row; this row itself where there is none
    columns: dict[str, Array] = {}  # noqa: RUF012 - never mutated, replaced by `_replace`


class Spec(NamedTuple):
    """What a method is given of the data before training: sizes, bounds and moments.

    Moments are those of the arrays that the method is given, after every transform.
    """

    observation_dim: int  # of the vector; 0 if there are images alone
    action_dim: int
    size: int  # number of rows N
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]
    observation_mean: np.ndarray  # [O]
    observation_std: np.ndarray  # [O]
    action_mean: np.ndarray  # [A]
    action_std: np.ndarray  # [A]
    images: tuple[ImageSpec, ...] = ()  # of an observation, by name
    # Of features of images (encoded.py): name of the encoder -> (start, stop) of its parts, which
    # are another encoder's where that one serves in its place.
    views: dict[str, tuple[tuple[int, int], ...]] = {}  # noqa: RUF012 - never mutated

    @property
    def action_box(self) -> Box:
        """The bounds of the actions."""
        return Box(self.action_low, self.action_high)

    @classmethod
    def of(cls, data: Transition, *, low: float = -1.0, high: float = 1.0) -> Spec:
        """Measures a Spec from a dataset of arrays; `low` and `high` bound every action."""
        seen: Any = data.observation
        action = _measurable(data.action)
        images: tuple[ImageSpec, ...] = ()
        if isinstance(seen, Mapping):
            images = tuple(_image(name, x) for name, x in sorted(seen.items()) if name != STATE)
            seen = seen.get(STATE, np.zeros((len(action), 0), np.float32))
        observation = _measurable(seen)
        observation_moments, action_moments = moments(observation), moments(action)
        return cls(
            observation_dim=observation.shape[-1],
            action_dim=action.shape[-1],
            size=observation.shape[0],
            action_low=np.full(action.shape[-1], low, np.float32),
            action_high=np.full(action.shape[-1], high, np.float32),
            observation_mean=observation_moments.mean,
            observation_std=observation_moments.std,
            action_mean=action_moments.mean,
            action_std=action_moments.std,
            images=images,
        )

    def view(self, encoder: str) -> Callable[[Array], Array] | None:
        """Takes an encoder's part of an observation; None where the whole of it is that part.

        Names are those of the method's encoders (`Method.encoders`); any name will do for data
        without images.
        """
        parts = self.views.get(encoder)
        if parts is None:
            return None
        # By slices, so that the compiler leaves out encoders that nothing reads.
        return lambda x: jnp.concatenate([x[..., start:stop] for start, stop in parts], -1)

    def example(self) -> Transition:
        """A batch of one row of zeros, for shapes."""
        row, index = np.zeros(1, np.float32), np.zeros(1, np.int32)
        observation: Any = np.zeros((1, self.observation_dim), np.float32)
        if self.images:
            state = {STATE: observation} if self.observation_dim else {}
            shown = {each.name: np.zeros((1, *each.shape), np.uint8) for each in self.images}
            observation = shown | state
        action = np.zeros((1, self.action_dim), np.float32)
        rows: Any = (observation, action, row, row, observation, action, row, index, index)
        return Transition(*rows)


def _measurable(rows: Any) -> Any:
    return rows if is_mapped(rows) else np.asarray(rows)


def _image(name: str, x: Any) -> ImageSpec:
    """Of a dataset's frames, or of the images [N, H, W, C] themselves."""
    if isinstance(x, Frames):
        height, width, channels = x.frames.shape[1:]
        return ImageSpec(name, height, width, channels * x.stack.shape[1])
    return ImageSpec(name, *x.shape[1:])
